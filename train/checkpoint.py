"""Checkpoints: a folder ``step_00010000/`` that is a world and also all that a run needs to go on.

The world in it is the averaged (EMA) one, which ``worldsim.load`` reads. Beside it stand
``training.safetensors`` (raw weights, optimizer state, losses not yet logged) and
``training.json`` (step, time, settings). Every random draw of a step comes from the run's seed and
the step's number, so no generator's state need be kept. A checkpoint is written aside and renamed,
so that a kill at any moment leaves whole ones only; the last two are kept.
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
from .run_folder import REMEDY, STATE, Progress, list_checkpoints, read_state

TENSORS = "training.safetensors"


def check_finite(value: torch.Tensor, step: int, checkpoint: Path | None) -> None:
    """Stop a run whose loss or gradient is no number any more.

    Raises:
        FloatingPointError: In one sentence that says where the last good weights are.
    """
    if not math.isfinite(value.item()):
        advice = (
            f"the last good checkpoint is {checkpoint}: go on from it with --resume"
            if checkpoint
            else "no checkpoint was saved yet: begin again in another --out"
        )
        raise FloatingPointError(
            f"the loss or its gradient is {value.item()} at step {step}, so the run stops; "
            f"{advice} and a lower --optim.lr"
        )


def save_checkpoint(
    run: Path,
    progress: Progress,
    settings: dict[str, Any],
    world: WorldModel,
    ema_world: WorldModel,
    optimizers: Sequence[torch.optim.Optimizer],
    unlogged: Sequence[Losses] = (),
    keep: int = 2,
) -> Path:
    """Write a checkpoint, whole or not at all, and drop all but the newest ``keep``.

    Args:
        run: The run's folder.
        progress: How far it is; if there is a checkpoint of this step it is left as it is.
        settings: What the run was started with, as JSON values.
        world: The weights being trained.
        ema_world: Their average, which is the world that is kept.
        optimizers: All optimizers, in a fixed order.
        unlogged: Losses of the steps since figures were last logged.
        keep: Checkpoints to keep.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: In one sentence, if it cannot be written; the ones before it are kept.
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
                f"the checkpoint {path} could not be written ({error}); make room, then go on "
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
    """Put a checkpoint's weights and optimizer states in place.

    Returns:
        Losses of the steps since figures were last logged.

    Raises:
        PermissionError: If a file of it may not be read.
        ValueError: If the checkpoint is damaged or is of another model.
    """
    wanted = read_state(checkpoint)["checksums"].get(TENSORS)
    with naming_damage(f"the checkpoint {checkpoint}", REMEDY):
        saved = load(checkpoint, device=world.device)
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
                raise ValueError(f"its weights.{name} has not the shape of this run's, or is none")
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
    """Put an optimizer's state in place, given by ``number of the parameter.name``."""
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
    """The tensors whose names start with ``prefix.``, by what follows."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def _check_same(checkpoint: Path, saved: WorldModel, world: WorldModel) -> None:
    """Refuse a checkpoint of another model or game, naming the first thing that differs."""
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
                f"{checkpoint} does not fit this run: its {name} is {theirs.get(name)} and this "
                f"run's {ours.get(name)}; resume with the recording and the model settings that "
                "it began with, or choose another --out"
            )
