"""The folder of a run: its checkpoints, their progress, and a lock.

Nothing here needs torch, so that a wrong folder is reported at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from worldsim.data.split import Split
from worldsim.system.files import locked, read_object, reading, remove

STATE = "training.json"  # of a checkpoint: step, time and settings
REMEDY = "delete the checkpoint and resume from the one before it, or start again"


class RunProgress(NamedTuple):
    """The progress of a run.

    Attributes:
        step: Optimizer steps taken.
        seconds: Time spent, before and after each resume.
        evals: Evaluations done before the end.
        code_share: Share of batches with chance codes, as last read from the world.
    """

    step: int = 0
    seconds: float = 0.0
    evals: int = 0
    code_share: float = 1.0


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = (path for path in run.glob("step_[0-9]*") if path.name[5:].isdigit())
    return sorted(path for path in found if not path.is_symlink())


def find_checkpoint(run: Path, resume: bool) -> Path | None:
    """The checkpoint to continue from; None for a new run, or one killed before its first.

    A run that `torchrun --max-restarts` begins again goes on by itself.

    Raises:
        ValueError: If there is a run but ``resume`` is False, or no run but ``resume`` is True.
    """
    checkpoints = list_checkpoints(run)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if checkpoints and not (resume or restarted):
        raise ValueError(
            f"{run} already holds a run ({checkpoints[-1].name}): add --resume to continue it, "
            "or choose another --out"
        )
    if resume and not run.is_dir():
        raise ValueError(f"there is no run in {run} to resume: leave out --resume to begin one")
    return checkpoints[-1] if checkpoints else None


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Lock a run for this process, and delete unfinished files of a killed one.

    The system releases the lock when the process ends in any way.

    Raises:
        ValueError: If another process is training in the same folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    busy = f"another process is training in {run}: wait for it, or choose another --out"
    with locked(run / "lock", busy):
        for leftover in run.glob("step_*.partial*"):
            remove(leftover)
        yield


def read_progress(checkpoint: Path) -> tuple[RunProgress, dict[str, Any]]:
    """The progress and the settings of a checkpoint's run.

    Raises:
        ValueError: If the checkpoint is damaged.
    """
    about = {"code_share": 1.0} | read_state(checkpoint)  # of an older version it has none
    with reading(checkpoint / STATE, REMEDY):
        for name in RunProgress._fields:
            value = about[name]
            kinds = (int,) if name in ("step", "evals") else (int, float)
            if type(value) not in kinds or not 0 <= value < 2**63:
                raise ValueError(f"{name} must be a number of 0 or more, got {value!r:.40}")
        return RunProgress(*(about[name] for name in RunProgress._fields)), about["settings"]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's ``training.json``."""
    with reading(checkpoint / STATE, REMEDY) as file:
        about = read_object(file)
        if not isinstance(about["settings"], dict) or not isinstance(
            about.setdefault("checksums", {}), dict
        ):
            raise ValueError("its settings and checksums must be JSON objects")
        return about


def read_split(checkpoint: Path) -> Split | None:
    """The split of a checkpoint's run; None if an older version wrote it.

    Raises:
        ValueError: If the checkpoint is damaged.
    """
    with reading(checkpoint / "config.json", REMEDY) as file:
        config = read_object(file)
        return Split.from_dict(config["split"]) if "split" in config else None
