"""Find the folder of a world by name or path, without torch: a wrong name fails at once."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLED = Path(__file__).parent / "worlds"


def is_world(folder: Path) -> bool:
    """Whether a folder holds a world, damaged or not."""
    return (folder / "config.json").is_file() and (folder / "model").is_dir()


def find_world(name: str | os.PathLike[str]) -> Path:
    """Find the folder of a world.

    Args:
        name: A bundled world ("pong", "maze" or "balls"), a world folder, or a run folder (its
            newest checkpoint).

    Raises:
        ValueError: If there is no such world.
    """
    for path in (Path(name).expanduser(), BUNDLED / str(name)):
        if is_world(path):
            return path
        found = path.glob("step_[0-9]*[0-9]")
        checkpoints = sorted(each for each in found if not each.is_symlink())
        if checkpoints:
            return checkpoints[-1]
    bundled = sorted(p.name for p in BUNDLED.iterdir() if p.is_dir()) if BUNDLED.is_dir() else []
    raise ValueError(
        f"no world at {os.fspath(name)!r}: give a world folder, a run folder with a checkpoint, or "
        f"the name of a bundled world ({', '.join(bundled) or 'none'})"
    )
