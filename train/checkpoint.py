"""Checkpoints: a folder ``step_00010000/`` that is a world and from which a run resumes.

The world is the averaged (EMA) one, which ``worldsim.load`` reads. The folder also has
``training.safetensors`` (raw weights, optimizer state, losses not yet logged) and
``training.json`` (step, time, settings). Every random draw of a step comes from the run's seed and
the step's number, so no generator state is stored. A checkpoint is written aside and renamed, so an
existing one is complete even after a kill. The last two are kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worldsim.system.files import (
    check_checksum,
    checksum,
    naming_damage,
    reading,
    remove,
    write_json,
)
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

from .objective import Losses
from .run_folder import REMEDY, STATE, RunProgress, list_checkpoints, read_state

TENSORS = "training.safetensors"


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


def save_checkpoint(
    run: Path,
    progress: RunProgress,
    settings: dict[str, Any],
    world: WorldModel,
    ema_world: WorldModel,
    optimizers: Sequence[torch.optim.Optimizer],
    unlogged: Sequence[Losses] = (),
    keep: int = 2,
) -> Path:
    """Write a checkpoint, completely or not at all, and delete all but the newest ``keep``.

    Args:
        run: The run's folder.
        progress: The run's progress; an existing checkpoint of this step is not changed.
        settings: The run's settings, as JSON values.
        world: The weights in training.
        ema_world: Their average, which becomes the world.
        optimizers: All optimizers, in a fixed order.
        unlogged: Losses of the steps that are not yet logged.
        keep: Number of checkpoints to keep.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: If it cannot be written; earlier checkpoints are kept.
    """
    path = run / f"step_{progress.step:08d}"
    if path.is_symlink() or not path.exists():
        aside = run / f"{path.name}.partial"
        try:
            ema_world.save(aside)
            tensors = {f"weights.{name}": tensor for name, tensor in world.state_dict().items()}
            for number, optimizer in enumerate(optimizers):
                for index, state in optimizer.state_dict()["state"].items():
                    for name, tensor in state.items():
                        tensors[f"optimizer.{number}.{index}.{name}"] = tensor
            if unlogged:
                for field, parts in zip(Losses._fields, zip(*unlogged, strict=True), strict=True):
                    tensors[f"unlogged.{field}"] = torch.stack(parts)
            save_file(
                {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
                aside / TENSORS,
            )
            checksums = {TENSORS: checksum(aside / TENSORS)}
            about = {**progress._asdict(), "settings": settings, "checksums": checksums}
            write_json(aside / STATE, about)
            aside.rename(path)
        except (OSError, SafetensorError) as error:
            remove(aside)
            raise OSError(
                f"the checkpoint {path} could not be written ({error}): make room, then continue "
                "from the one before with --resume"
            ) from error
    for old in list_checkpoints(run)[:-keep]:
        remove(old.rename(run / f"{old.name}.partial"))
    return path


def load_checkpoint(
    checkpoint: Path,
    world: WorldModel,
    ema_world: WorldModel,
    optimizers: Sequence[torch.optim.Optimizer],
) -> list[Losses]:
    """Load a checkpoint into the world, its average and the optimizers.

    Returns:
        Losses of the steps that are not yet logged.

    Raises:
        PermissionError: If a file of it may not be read.
        ValueError: If the checkpoint is damaged or is of another model.
    """
    wanted = read_state(checkpoint)["checksums"].get(TENSORS)
    with naming_damage(f"the checkpoint {checkpoint}", REMEDY):
        saved = load(checkpoint, world.device, "float32")
    _check_same(checkpoint, saved, world)
    with reading(checkpoint / TENSORS, REMEDY) as file:
        if wanted is not None:
            check_checksum(file, wanted)
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"its {name} is not finite")
        weights, own = _under("weights", tensors), world.state_dict()
        for name in sorted(weights.keys() | own.keys()):
            if name not in weights or name not in own or weights[name].shape != own[name].shape:
                raise ValueError(
                    f"its weights.{name} is missing or has another shape than this run's"
                )
        world.load_state_dict(weights)
        ema_world.load_state_dict(saved.state_dict())
        for number, optimizer in enumerate(optimizers):
            _load_optimizer(optimizer, _under(f"optimizer.{number}", tensors))
        unlogged = _under("unlogged", tensors)
        if unlogged.keys() != set(Losses._fields):  # of an older version, or none
            return []
        steps = zip(*(unlogged[field] for field in Losses._fields), strict=True)
        return [Losses(*(part.to(world.device) for part in step)) for step in steps]


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Load an optimizer's state, given by names ``PARAMETER_NUMBER.FIELD``."""
    groups = optimizer.state_dict()["param_groups"]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, field = name.partition(".")
        if tensor.ndim and tensor.shape != parameters[int(index)].shape:
            raise ValueError(f"its optimizer's {name} has the shape {tuple(tensor.shape)}")
        state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start with ``prefix.``, by the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


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
