"""Checkpoints: a folder ``step_00010000/`` that is a world and also all that a run needs to go on.

The world in it is the averaged (EMA) one, which ``worldsim.load`` reads. Beside it stand
``training.safetensors`` (raw weights, optimizer state) and ``training.json`` (step, time).
Every random draw of a step comes from the run's seed and the step's number, so no generator's
state need be kept. A checkpoint is written aside and renamed, and the last two are kept.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from worldsim.world_model import WorldModel


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        step: Optimizer steps taken.
        seconds: Time spent, over all the times it was resumed.
    """

    step: int
    seconds: float


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(path for path in run.glob("step_[0-9]*") if path.name[5:].isdigit())


def save_checkpoint(
    run: Path,
    progress: Progress,
    world: WorldModel,
    ema_world: WorldModel,
    optimizer: torch.optim.Optimizer,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, whole or not at all, and drop all but the newest ``keep``."""
    path = run / f"step_{progress.step:08d}"
    aside = run / f"{path.name}.partial"
    ema_world.save(aside)
    tensors = {f"weights.{name}": tensor for name, tensor in world.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        aside / "training.safetensors",
    )
    (aside / "training.json").write_text(json.dumps(progress._asdict()) + "\n")
    if path.exists():
        shutil.rmtree(path)
    aside.rename(path)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(
    path: Path, world: WorldModel, ema_world: WorldModel, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a checkpoint's weights and optimizer state in place.

    Raises:
        ValueError: If the checkpoint cannot be read or is of another model.
    """
    from worldsim import load

    try:
        progress = Progress(**json.loads((path / "training.json").read_text()))
        tensors = load_file(path / "training.safetensors", device=str(world.device))
        prefix = "weights."
        world.load_state_dict(
            {name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)}
        )
        ema_world.load_state_dict(load(path, device=world.device).state_dict())
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the checkpoint {path} does not fit this run or is damaged ({error}); "
            "train with the same --size and recording, or remove it to go on from the one before"
        ) from error
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return progress
