"""The trainings of `worldsim probe --ray`, each by a worker of a Ray cluster.

A worker trains in a folder of its own, which is sent there and back. So what is on disk in the end
is what a training here would have left, and `worldsim probe` goes on from it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.system.cluster import ActorPool, joined, read_folder, write_folder
from worldsim.system.files import remove

from .run_folder import list_checkpoints, read_progress

if TYPE_CHECKING:
    from .probe import ProbeConfig


class Trainer:
    """Trains worlds in a worker process."""

    def train(
        self, config: ProbeConfig, name: str, episodes: int, files: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Train a world of a scene.

        Args:
            config: The settings of the command.
            name: The scene.
            episodes: Training episodes.
            files: What there is already, by the paths in the scene's folder.

        Returns:
            The files of the recording and of the run, in the same way.
        """
        from .probe import train_world

        # The same folder as in the command, where possible: it is in the settings of the run.
        out, before = config.out, Path.cwd()
        if out.is_absolute() or ".." in out.parts:
            out = Path(out.name)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
            os.chdir(empty)
            try:
                write_folder(files, out / name)
                train_world(dataclasses.replace(config, out=out), name, episodes)
                return read_folder(out / name)
            finally:
                os.chdir(before)


def train_missing(config: ProbeConfig, address: str, names: Sequence[str]) -> None:
    """Let workers of a Ray cluster train all worlds that are not trained yet.

    Args:
        config: The settings of the command.
        address: The cluster, as for `joined`.
        names: The scenes.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no such cluster.
        ValueError: If a training cannot be done.
    """
    missing = [
        (name, episodes)
        for name in names
        for episodes in config.episodes
        if not _is_trained(config.out / name / f"world_{episodes}", config.steps)
    ]
    if not missing:
        return
    jobs = [(config, *each, _files_of(config.out, *each)) for each in missing]
    on_gpus = None if config.device is None else config.device != "cpu"
    with joined(address), ActorPool(Trainer, on_gpus=on_gpus) as pool:
        for done, (index, files) in enumerate(pool.map("train", jobs), start=1):
            name, episodes = missing[index]
            _keep(files, config.out / name)
            print(f"{name}, {episodes} episodes: trained, {done} of {len(jobs)}", flush=True)


def _is_trained(run: Path, steps: int) -> bool:
    checkpoints = list_checkpoints(run)
    return bool(checkpoints) and read_progress(checkpoints[-1])[0].step >= steps


def _files_of(out: Path, name: str, episodes: int) -> dict[str, bytes]:
    """The files of a recording and a run that were begun."""
    return {
        f"{folder}/{file}": data
        for folder in (f"recording_{episodes}", f"world_{episodes}")
        for file, data in read_folder(out / name / folder).items()
    }


def _keep(files: Mapping[str, bytes], folder: Path) -> None:
    """Write folders completely or not at all, in place of those of the same names."""
    aside = folder / ".received"
    remove(aside)
    write_folder(files, aside)
    for received in aside.iterdir():
        remove(folder / received.name)
        received.rename(folder / received.name)
    shutil.rmtree(aside)
