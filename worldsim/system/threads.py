"""How many threads of the CPU a world takes, and what becomes of them where a process forks.

torch hands each operation to a team of threads. The operations of a small step are over before a
second thread could help; where the other cores are busy the first thread waits for the second, and
a step takes up to 60 times as long. Therefore small passes run on one thread. Around them the
number of threads is the caller's own.

A team does not survive a fork: the child waits for ever for threads that only its parent has. This
module notes a fork, and the child then computes on one thread, as a worker of torch's DataLoader
does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL_PASS = 3_000_000_000
"""Multiplications: a tenth of a second of one core, about. 32 lanes of a bundled world have 2e9."""

_lost = False  # whether a fork has left torch's threads behind
_chosen = False  # whether the number of threads was chosen by `use_threads`


def use_threads(count: int) -> None:
    """Let everything in this process run on ``count`` threads, small passes too."""
    import torch

    global _chosen
    torch.set_num_threads(count)
    _chosen = True


@contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """Run a pass on as many threads as pay.

    That is one where the pass is small, unless a variable of `SETTINGS` says otherwise, and else
    the number that torch has.

    Args:
        multiplications: What a pass of the network multiplies, about: parameters by tokens.
    """
    import torch

    forget_lost_threads()
    before = torch.get_num_threads()
    if before == 1 or multiplications > SMALL_PASS or _is_chosen():
        yield
        return
    torch.set_num_threads(1)  # takes less than a microsecond
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forget_lost_threads() -> None:
    """Leave torch one thread in a process that was forked off one that had more."""
    global _lost
    if _lost:
        sys.modules["torch"].set_num_threads(1)
        _lost = False


def _is_chosen() -> bool:
    return _chosen or any(os.environ.get(name) for name in SETTINGS)


def _note_fork() -> None:
    global _lost
    _lost = "torch" in sys.modules


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_note_fork)
