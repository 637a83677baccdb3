"""What `tests/test_distributed.py` runs under torchrun: small trainings, one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

from tests.test_train import make_config
from worldsim.train import dynamics, optimizers, presets, run
from worldsim.train.processes import Processes
from worldsim.train.progress import TrainProgress

TINIER = {"width": 32, "depth": 3, "num_heads": 2, "num_kv_heads": 1}
BY_PRECISION = (run, optimizers)  # modules that ask `has_fast_bfloat16`


def never(device: object) -> bool:
    """Answer that no device is fast in bfloat16, whose rounding would part runs."""
    return False


def stop_last_process_at(step: int) -> None:
    """Let Ctrl-C reach one process only, at the end of a step."""

    class Interrupting(TrainProgress):
        def show(self, fraction: float, at: int, values: Sequence[float], frames: int) -> None:
            super().show(fraction, at, values, frames)
            if at == step and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
                signal.raise_signal(signal.SIGINT)

    dynamics.TrainProgress = Interrupting  # type: ignore[misc]


if __name__ == "__main__":
    presets.SIZES["tiny"] = TINIER
    for module in BY_PRECISION:
        module.has_fast_bfloat16 = never  # type: ignore[attr-defined]
    if here := os.environ.get("TEST_LOCAL_WORLD_SIZE"):
        os.environ["LOCAL_WORLD_SIZE"] = here
    with Processes("cpu") as processes:
        last_group = weakref.ref(processes._host)
        for out, changes in json.loads(sys.argv[2]):
            stop_last_process_at(changes.pop("stop_at", -1))
            config = make_config(Path(sys.argv[1]), Path(out), **changes)
            dynamics.train_on(processes, config)
    assert last_group() is None, "threads of a group that was just used may abort Python's end"
