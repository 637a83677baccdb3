"""CPU threads of a step, and what happens to them in a fork.

torch splits each operation among a pool of threads. The operations of a small step are too short
for a second thread to help. On busy cores the first thread waits for the second, and a step takes
up to 60 times as long. So small passes run on one thread; outside them the caller's number stays.
Where waiting threads sleep, as in the ``worldsim`` commands, they cost other work nothing, so fewer
passes are small.

A thread pool does not survive a fork: the child waits without end for threads that only its parent
has. So after a fork the child computes on one thread, like a worker of torch's DataLoader.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL_PASS = 3_000_000_000
"""Multiplications, about 0.1 s of one core. 32 lanes of a bundled world need 2e9."""
SMALL_PASS_ASLEEP = 500_000_000
"""The same where waiting threads sleep: 8 lanes of a bundled world."""

_lost = False  # whether a fork has left torch's threads behind
_chosen = False  # whether the number of threads was chosen by `use_threads`


def use_threads(count: int) -> None:
    """Run all of this process on ``count`` threads, small passes too."""
    import torch

    global _chosen
    torch.set_num_threads(count)
    _chosen = True


@contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """Run a small pass on one thread, unless a number was chosen, by a variable of `SETTINGS` too.

    Args:
        multiplications: Approximate multiplications of a pass: parameters times tokens.
    """
    import torch

    forget_lost_threads()
    before = torch.get_num_threads()
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    small = SMALL_PASS_ASLEEP if asleep else SMALL_PASS
    if before == 1 or multiplications > small or _is_chosen():
        yield
        return
    torch.set_num_threads(1)  # takes less than a microsecond
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_threads_for(
    multiplications: Callable[[Any], float],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate methods to run as in `threads_for`.

    Args:
        multiplications: Of a pass of the object that the method is of.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with threads_for(multiplications(args[0])):
                return method(*args, **kwargs)

        return run

    return decorate


def forget_lost_threads() -> None:
    """Set torch to one thread in a forked process, where its pool is lost."""
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
