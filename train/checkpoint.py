"""Checkpoints: a folder ``step_00010000/`` that is a world and from which a run resumes.

The world is the averaged (EMA) one, which ``worldsim.load`` reads. The folder also has
``training.json`` (step, time, settings) and ``training/``: raw weights, optimizer state and losses
not yet logged, in safetensors files by torch.distributed.checkpoint. Each process of a run writes
one, and any number of processes reads them. Every random draw of a step comes from the run's seed
and the step's number, so no generator state is stored.

A checkpoint is written in the background, aside, and renamed, so an existing one is complete even
after a kill. The last two are kept.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException

from worldsim.system.files import (
    check_checksum,
    checksum,
    naming_damage,
    one_line,
    reading,
    remove,
    write_json,
)
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

from .objective import Losses
from .processes import Processes
from .run_folder import REMEDY, STATE, RunProgress, list_checkpoints, read_state
from .shards import gather_weights, local, scatter_weights

Entry = TypeVar("Entry")

TRAINING = "training"  # the folder of a checkpoint with the state of training
OLD_TENSORS = "training.safetensors"  # of an older version, in one file
ONE_SHARD = "shard-00001-model-00001-of-00001.safetensors"  # of a run of one process


def read_losses(unread: list[torch.Tensor], num_steps: int, checkpoint: Path | None) -> list[float]:
    """Read the losses of the last steps from the device, which waits for it, and forget them.

    Args:
        unread: Loss and norm of the gradient (2) of each step that was not read; emptied.
        num_steps: Steps done.
        checkpoint: The last checkpoint, for the error.

    Raises:
        FloatingPointError: At the first one that is not finite.
    """
    pairs = torch.stack(unread).tolist() if unread else []
    for step, (loss, norm) in enumerate(pairs, num_steps - len(pairs)):
        check_finite(loss + norm, step, checkpoint)
    unread.clear()
    return [loss for loss, _ in pairs]


def check_finite(value: float, step: int, checkpoint: Path | None) -> None:
    """Check that a loss or gradient is finite.

    Raises:
        FloatingPointError: If it is not; names the last good checkpoint.
    """
    if not math.isfinite(value):
        advice = (
            f"the last good checkpoint is {checkpoint}: continue from it with --resume"
            if checkpoint
            else "no checkpoint was saved yet: start again in another --out"
        )
        raise FloatingPointError(
            f"the loss or its gradient is {value} at step {step}, so the run stops; "
            f"{advice} and a lower --optim.lr"
        )


class CheckpointWriter:
    """Writes checkpoints of a run in the background, each completely or not at all.

    All processes of a run call the same methods in the same order.

    Args:
        run: The run's folder.
        world: The weights in training.
        ema_world: Their average, which becomes the world.
        optimizers: All optimizers, in a fixed order.
        whole: A copy of the average on the CPU, into which it is gathered; None in a process that
            writes no world.
        processes: The processes of the run; this one alone if not given.
        keep: Number of checkpoints to keep.
    """

    def __init__(
        self,
        run: Path,
        world: WorldModel,
        ema_world: WorldModel,
        optimizers: Sequence[torch.optim.Optimizer],
        whole: WorldModel | None,
        processes: Processes | None = None,
        keep: int = 2,
    ) -> None:
        self._run, self._keep, self._processes = run, keep, processes or Processes()
        self._world, self._ema_world, self._optimizers = world, ema_world, optimizers
        self.whole = whole
        self._path: Path | None = None
        self._about: dict[str, Any] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")  # begins none yet
        self._written: Future[dict[str, str]] | None = None

    @property
    def is_written(self) -> bool:
        """Whether this process has written its part of a checkpoint that is not finished."""
        return self._written is not None and self._written.done()

    def begin(
        self, progress: RunProgress, settings: dict[str, Any], unlogged: Sequence[Losses] = ()
    ) -> None:
        """Copy the state of the run to the host, and begin to write it.

        Args:
            progress: The run's progress; an existing checkpoint of this step is not changed.
            settings: The run's settings, as JSON values.
            unlogged: Losses of the steps that are not yet logged.

        Raises:
            OSError: As `finish`, if the checkpoint before is not finished.
        """
        self.finish()
        self._path = path = self._run / f"step_{progress.step:08d}"
        if self._processes.first(lambda: path.exists() and not path.is_symlink()):
            return
        about = {**progress._asdict(), "settings": settings, "processes": self._processes.size}
        self._about = about
        gather_weights(self._ema_world, self.whole)
        state = _weights_of(self._world)
        for number, optimizer in enumerate(self._optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                for name, tensor in values.items():
                    state[f"optimizer.{number}.{index}.{name}"] = tensor
        if unlogged:
            for field, parts in zip(Losses._fields, zip(*unlogged, strict=True), strict=True):
                state[f"unlogged.{field}"] = torch.stack(parts)
        write_shards = self._copy(state, _aside(path, TRAINING))
        self._written = self._thread.submit(self._write, write_shards, path)

    def finish(self) -> Path | None:
        """Wait until the checkpoint is written, give it its name, and delete older ones.

        Returns:
            The last checkpoint; None if none was begun.

        Raises:
            OSError: If it cannot be written; earlier ones are kept.
        """
        path, written = self._path, self._written
        if path is None or written is None:
            return path
        self._written = None
        error = written.exception()
        failures = self._processes.gather_objects(None if error is None else _reason(error))
        checksums = self._processes.gather_objects({} if error else written.result())
        try:
            if failed := next(filter(None, failures), None):
                raise OSError(failed)
            self._processes.first(lambda: self._name(path, checksums))
        except (OSError, SafetensorError) as failure:
            if self._processes.is_first:
                remove(_aside(path))
                remove(_aside(path, TRAINING))
            raise OSError(
                f"the checkpoint {path} could not be written ({failure}): make room, then continue "
                "from the one before with --resume"
            ) from (error or failure)
        return path

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, which gets no name."""
        self._thread.shutdown()

    def _copy(self, state: dict[str, torch.Tensor], folder: Path) -> Callable[[], object]:
        """Copy tensors to the host; returns what writes this process's shards, or waits for it."""
        if self._processes.saving is not None:
            writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
            group = self._processes.saving
            written = dcp.async_save(state, storage_writer=writer, process_group=group)
            assert isinstance(written, Future)
            return written.result
        # One process writes the same, without torch's warning that it is one.
        copies = {name: t.to("cpu", copy=True).contiguous() for name, t in state.items()}

        def write() -> None:
            remove(folder)
            folder.mkdir()
            save_file(copies, folder / ONE_SHARD)

        return write

    def _write(self, write_shards: Callable[[], object], path: Path) -> dict[str, str]:
        """Write the world and this process's shards, and return the checksums of these."""
        if self.whole is not None:
            self.whole.save(_aside(path))
        write_shards()
        own = f"shard-{self._processes.rank + 1:05d}-*.safetensors"
        files = sorted(_aside(path, TRAINING).glob(own))
        return {f"{TRAINING}/{file.name}": checksum(file) for file in files}

    def _name(self, path: Path, checksums: list[dict[str, str]]) -> None:
        aside = _aside(path)
        _aside(path, TRAINING).rename(aside / TRAINING)
        sums = {name: digest for each in checksums for name, digest in each.items()}
        write_json(aside / STATE, {**self._about, "checksums": sums})
        aside.rename(path)
        for old in list_checkpoints(self._run)[: -self._keep]:
            remove(old.rename(_aside(old)))


def _aside(path: Path, part: str = "") -> Path:
    return path.with_name(f"{path.name}.partial{part and '.'}{part}")


def _reason(error: BaseException) -> str:
    """Why writing failed; torch wraps the errors of all processes."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return one_line(error)


def load_checkpoint(
    checkpoint: Path,
    world: WorldModel,
    ema_world: WorldModel,
    optimizers: Sequence[torch.optim.Optimizer],
    processes: Processes | None = None,
) -> list[Losses]:
    """Load a checkpoint into the world, its average and the optimizers.

    It may be of any number of processes. Each process reads the shards that it keeps.

    Returns:
        Losses of the steps that are not yet logged.

    Raises:
        PermissionError: If a file of it may not be read.
        ValueError: If the checkpoint is damaged or is of another model.
    """
    processes = processes or Processes()
    checksums = read_state(checkpoint)["checksums"]
    with naming_damage(f"the checkpoint {checkpoint}", REMEDY):
        saved = load(checkpoint, "cpu", "float32")
    _check_same(checkpoint, saved, world)
    scatter_weights(saved, ema_world)
    old = OLD_TENSORS in checksums or (checkpoint / OLD_TENSORS).exists()
    folder = checkpoint if old else checkpoint / TRAINING
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, which is not followed: copy the folder")
    here = sorted(f"{TRAINING}/{file.name}" for file in folder.glob("*.safetensors"))
    names = [OLD_TENSORS] if old else here or [f"{TRAINING}/{ONE_SHARD}"]
    for name in sorted(checksums.keys() - set(names)):  # never a path that a stranger names
        raise ValueError(f"there is no {checkpoint / name}: {REMEDY}")
    # A checksum reads all of a file, so each process checks some.
    for number, name in enumerate(names):
        with reading(checkpoint / name, REMEDY) as file:
            if checksums and number % processes.size == processes.rank:
                check_checksum(file, checksums.get(name))
    with naming_damage(checkpoint / names[0] if len(names) == 1 else folder, REMEDY):
        return _read_state(folder, world, optimizers, processes)


def _read_state(
    folder: Path,
    world: WorldModel,
    optimizers: Sequence[torch.optim.Optimizer],
    processes: Processes,
) -> list[Losses]:
    """Read the tensors in a folder into a world and its optimizers; returns unlogged losses."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    about: dict[str, Any] = reader.read_metadata().state_dict_metadata
    stored = {name: each.size for name, each in about.items()}
    wanted = _weights_of(world)
    for name in sorted(wanted.keys() | {n for n in stored if n.startswith("weights.")}):
        if name not in stored or name not in wanted or stored[name] != wanted[name].shape:
            raise ValueError(f"its {name} is missing or has another shape than this run's")
    for number, optimizer in enumerate(optimizers):
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        for name, size in _under(f"optimizer.{number}", stored).items():
            parameter = parameters[int(name.partition(".")[0])]
            if size and size != parameter.shape:
                raise ValueError(f"its optimizer's {name} has the shape {tuple(size)}")
            state = torch.zeros_like(parameter) if size else torch.zeros(())
            wanted[f"optimizer.{number}.{name}"] = state.detach()
    unlogged = _under("unlogged", stored)
    if unlogged.keys() == set(Losses._fields):  # of an older version, it has others or none
        for name, size in unlogged.items():
            wanted[f"unlogged.{name}"] = torch.zeros(size, device=world.device)
    with warnings.catch_warnings():  # that there is one process
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(wanted, storage_reader=reader, no_dist=processes.size == 1)
    for name, tensor in zip(wanted, local(wanted.values()), strict=True):
        if not tensor.isfinite().all():
            raise ValueError(f"its {name} is not finite")
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under(f"optimizer.{number}", wanted).items():
            index, _, field = name.partition(".")
            states.setdefault(int(index), {})[field] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    losses = _under("unlogged", wanted)
    steps = zip(*(losses[field] for field in Losses._fields if losses), strict=True)
    return [Losses(*step) for step in steps]


def _weights_of(world: WorldModel) -> dict[str, torch.Tensor]:
    """The weights of a world in training. Its codec is frozen, and is in the world's folder."""
    weights = world.state_dict().items()
    return {f"weights.{name}": each for name, each in weights if not name.startswith("codec.")}


def _under(prefix: str, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries whose names start with ``prefix.``, by the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: e for name, e in entries.items() if name.startswith(start)}


def _check_same(checkpoint: Path, saved: WorldModel, world: WorldModel) -> None:
    """Raise for a checkpoint of another model or game, with the first difference."""
    theirs, ours = (
        {
            "game": w.game.env_id,
            "frame size": w.game.frame_size,
            **dataclasses.asdict(w.dit.config),
        }
        for w in (saved, world)
    )
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{checkpoint} does not fit this run: its {name} is {theirs.get(name)}, this run's "
                f"is {ours.get(name)}: resume with the run's recording and model options, or "
                "choose another --out"
            )
