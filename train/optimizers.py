"""The optimizers of a world or codec, its averaged weights, and its fastest precision."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from worldsim.world_model import WorldModel

from .muon import Muon
from .shards import local

FUSED = ("cpu", "cuda")  # devices where AdamW is one kernel; elsewhere torch chooses


def make_optimizers(
    model: nn.Module,
    matrices: Iterable[nn.Parameter],
    weight_decay: float,
    processes: dist.ProcessGroup | None = None,
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for some matrices and kernels of a model, AdamW for the rest.

    Muon's steps have the size of AdamW's, so both take the same learning rate, set by the caller.
    Vectors have no weight decay.

    Args:
        model: The model in training.
        matrices: Those of its parameters that Muon takes.
        weight_decay: Of all matrices and kernels.
        processes: Processes that share the work of Muon, if there are several.
    """
    of_muon = {id(p) for p in matrices}
    trained = [p for p in model.parameters() if p.requires_grad]
    chosen = [p for p in trained if id(p) in of_muon]
    others = [p for p in trained if p.ndim >= 2 and id(p) not in of_muon]
    vectors = [p for p in trained if p.ndim < 2]
    groups = [
        {"params": others, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    device = trained[0].device
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return [
        Muon(chosen, weight_decay=weight_decay, dtype=dtype, processes=processes),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=device.type in FUSED or None),
    ]


def block_matrices(world: WorldModel) -> list[nn.Parameter]:
    """The matrices of the transformer's blocks, which Muon trains."""
    return [p for p in world.dit.blocks.parameters() if p.ndim == 2]


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of all parameters."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def warm_decay(decay: float, step: int) -> float:
    """The decay of an average in a step: smaller at first, when all is new."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's by ``1 - decay``; buffers become equal."""
    torch._foreach_lerp_(local(average.parameters()), local(model.parameters()), 1 - decay)
    if buffers := list(average.buffers()):
        torch._foreach_copy_(buffers, list(model.buffers()))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
