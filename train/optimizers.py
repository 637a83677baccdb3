"""The optimizers of a world, its averaged weights, and the fastest precision of its device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

from worldsim.world_model import WorldModel

from .muon import Muon
from .shards import local

FUSED = ("cpu", "cuda")  # devices where AdamW is one kernel; elsewhere torch chooses


def make_optimizers(
    world: WorldModel, weight_decay: float, processes: dist.ProcessGroup | None = None
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the transformer's blocks, AdamW for the rest.

    Muon's steps have the size of AdamW's, so both take the same learning rate, set by the caller.
    Vectors have no weight decay.

    Args:
        world: The world in training.
        weight_decay: Of the matrices.
        processes: Processes that share the work of Muon, if there are several.
    """
    inside = {id(p) for p in world.dit.blocks.parameters() if p.ndim == 2}
    trained = [p for p in world.parameters() if p.requires_grad]
    blocks = [p for p in trained if id(p) in inside]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in inside]
    vectors = [p for p in trained if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    dtype = torch.bfloat16 if has_fast_bfloat16(world.device) else torch.float32
    return [
        Muon(blocks, weight_decay=weight_decay, dtype=dtype, processes=processes),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=world.device.type in FUSED or None),
    ]


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of all parameters."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


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
