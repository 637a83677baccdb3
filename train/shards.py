"""Tensors of which a process keeps a shard, and the whole of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from worldsim.world_model import WorldModel


def local(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """What this process keeps of each tensor: its shard, or the whole."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, for which all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(world: WorldModel) -> bool:
    """Whether a process keeps a shard of each weight."""
    return isinstance(next(world.parameters()), DTensor)


@torch.no_grad()
def gather_weights(world: WorldModel, into: WorldModel | None) -> None:
    """Copy the weights of a world into a whole one; all processes must take part.

    Args:
        world: The world, perhaps sharded.
        into: A world of the same shape, on any device; None in a process that needs none.
    """
    targets = {} if into is None else into.state_dict()
    for name, tensor in world.state_dict().items():
        full = whole(tensor)
        if into is not None:
            targets[name].copy_(full)


@torch.no_grad()
def scatter_weights(whole: WorldModel, into: WorldModel) -> None:
    """Copy the weights of a whole world, the same in all processes, into one that may be sharded.

    Args:
        whole: A world on the CPU.
        into: A world of the same shape.
    """
    weights = whole.state_dict()
    for name, target in into.state_dict().items():
        tensor = weights[name]
        if isinstance(target, DTensor):
            mesh, placements = target.device_mesh, target.placements
            tensor = tensor.to(mesh.device_type)
            shard = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
            target.to_local().copy_(shard.to_local())
        else:
            target.copy_(tensor)
