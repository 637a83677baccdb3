"""The folder of a codec in training: the codec, and the state that it goes on from.

``training.safetensors`` has the weights, their average, the statistics of the latents and the
optimizers' state; in its header, progress and settings. It is replaced as a whole, so a kill leaves
the one before or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from worldsim.system.files import check_regular, reading, written_aside

STATE = "training.safetensors"
REMEDY = "start again in another --out"


class CodecProgress(NamedTuple):
    """Steps taken, and seconds spent."""

    step: int = 0
    seconds: float = 0.0


def find_settings(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The settings that the codec in a folder began with; None for a new one.

    Raises:
        ValueError: If there is a codec but ``resume`` is False, none but ``resume`` is True, or its
            file is damaged.
    """
    path = folder / STATE
    if resume and not folder.is_dir():
        raise ValueError(f"there is no codec in {folder} to resume: leave out --resume")
    if not path.exists():
        return None
    if not resume:
        raise ValueError(
            f"{folder} already holds a codec: add --resume to train it on, or choose another --out"
        )
    return _read_header(path)["settings"]


def save_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: CodecProgress,
    settings: dict[str, Any],
) -> None:
    """Write the state of training; modules have names without a dot.

    Raises:
        OSError: If it cannot be written; the one before is kept.
    """
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{kind}.{index}.{name}": tensor for name, tensor in values.items()}
    header = {"progress": progress._asdict(), "settings": settings}
    with written_aside(folder / STATE) as aside:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            aside,
            {"state": json.dumps(header)},
        )


def load_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> CodecProgress:
    """Read the state of training; progress 0 if there is none.

    Raises:
        ValueError: If the file is damaged or is of another network.
    """
    path = folder / STATE
    if not path.exists():
        return CodecProgress()
    progress = _read_header(path)["progress"]
    device = optimizers[0].param_groups[0]["params"][0].device
    with reading(path, REMEDY), safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"its {name} is not finite")
        for name, module in modules.items():
            prefix = f"{name}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if {n: t.shape for n, t in own.items()} != {
                n: t.shape for n, t in module.state_dict().items()
            }:
                raise ValueError("it is of another network")
            module.load_state_dict(own)
        for optimizer in optimizers:
            prefix = f"{type(optimizer).__name__}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if progress["step"] and not own:
                raise ValueError("it was trained with another optimizer")
            _load_optimizer(optimizer, own)
        return CodecProgress(int(progress["step"]), float(progress["seconds"]))


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    weights = [weight.detach() for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, field = name.partition(".")
        weight = weights[int(index)]
        if tensor.shape == weight.shape:  # in its memory layout, which AdamW relies on
            tensor = torch.empty_like(weight).copy_(tensor)
        state.setdefault(int(index), {})[field] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read_header(path: Path) -> dict[str, Any]:
    with reading(path, REMEDY):
        with safe_open(check_regular(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("state", "null"))
        if not isinstance(header, dict) or not all(
            isinstance(header.get(name), dict) for name in ("progress", "settings")
        ):
            raise ValueError("its header has no progress and settings")
        return header
