"""One run on several processes: weights replicated (DDP) or sharded (FSDP2), by torch.distributed.

The model knows nothing of it. Each process takes some parts of a step, and torch's engines average
the gradients, while the backward pass still runs. With shards, a process keeps a part of each
weight, of its average and of its moments; each layer's weights are gathered just before it needs
them (Zhao et al. 2023). ``hsdp`` shards within a machine and replicates across machines.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from worldsim.system.devices import free_memory
from worldsim.world_model import WorldModel

from .draws import Draws
from .engine import Parallel
from .objective import Batch, Losses, objective
from .optimizers import has_fast_bfloat16
from .processes import Processes
from .recipe import Recipe

WEIGHT_BYTES = 20  # per parameter: weights, their average, gradients, two moments


class Objective(nn.Module):
    """A world whose forward pass is the `objective`, since engines act on forward passes.

    Args:
        world: The world in training.
    """

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.world = world

    def forward(
        self, batches: list[Batch], recipe: Recipe, draws: list[Draws], average: WorldModel
    ) -> Losses:
        """The losses of a step, see `objective`."""
        return objective(self.world, batches, recipe, draws, average)


def distribute(
    world: WorldModel, average: WorldModel, parallel: Parallel, processes: Processes
) -> nn.Module:
    """Replicate or shard a world and its average, which are equal in all processes.

    Args:
        world: The world in training.
        average: The world of averaged weights, sharded in the same way.
        parallel: How; auto replicates what takes less than a quarter of the free memory.
        processes: The processes.

    Returns:
        The objective of the world, whose gradients are means over the processes.
    """
    step = Objective(world)
    if parallel == "auto" and processes.size > 1:
        parameters = sum(parameter.numel() for parameter in world.parameters())
        free = processes.first(lambda: free_memory(processes.device))
        parallel = "ddp" if 4 * WEIGHT_BYTES * parameters < free else "fsdp"
    if parallel == "ddp" or processes.size == 1:
        for each in (world, average):
            each.to(processes.device)
        if processes.size == 1:
            return step
        # Chance codes are written in some steps only.
        unused = world.dit.chance is not None
        return DistributedDataParallel(
            step,
            forward_sync_buffers=False,  # a step takes the mean of those that change
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,
        )
    mesh = make_mesh(parallel, processes)
    shard(average.dit, average.dit.blocks, mesh)
    for part in (average.head, average.text):
        if part is not None and any(True for _ in part.parameters()):
            shard(part, (), mesh)
    for each in (world, average):  # frozen, so not sharded
        each.codec.to(processes.device)
    average.background_latents = average.background_latents.to(mesh.device_type)
    shard(step, world.dit.blocks, mesh)
    return step


def make_mesh(parallel: Parallel, processes: Processes) -> DeviceMesh:
    """The processes along which weights are replicated, if any, and sharded."""
    device_type, here = processes.device.type, processes.size_here
    if parallel == "fsdp":
        return init_device_mesh(device_type, (processes.size,), mesh_dim_names=("shard",))
    if processes.size % here:
        raise ValueError(
            "--engine.parallel hsdp needs machines with equal numbers of processes, got "
            f"{processes.size} processes with {here} on this machine: take fsdp"
        )
    shape = (processes.size // here, here)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard a module: each of its blocks, and the rest together.

    On a GPU blocks are gathered in bfloat16, and gradients are averaged in float32. The rest, such
    as embeddings, is small and keeps float32, as it has in one process. So has all on a CPU, where
    layer norm takes no mixture of both.
    """
    fast = mesh.device_type == "cuda" and has_fast_bfloat16(torch.device("cuda"))
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if fast else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # what passes between blocks is float32
    )
    sharded = [fully_shard(block, mesh=mesh, mp_policy=precision) for block in blocks]
    for block, following in itertools.pairwise(sharded):
        block.set_modules_to_forward_prefetch([following])
    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    trains = len(frozen) < len(list(module.parameters()))
    fully_shard(
        module,
        mesh=mesh,
        reshard_after_forward=not trains,
        ignored_params=frozen if trains else None,
    )


def part_of_step(step: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """The context of a part of a step: after the last one gradients are averaged.

    Shards are summed up part by part, so that no process keeps whole gradients.
    """
    if isinstance(step, FSDPModule):
        step.set_requires_all_reduce(is_last)
    elif isinstance(step, DistributedDataParallel) and not is_last:
        return step.no_sync()
    return contextlib.nullcontext()


def release_weights(step: nn.Module) -> None:
    """Keep shards again after a pass that no backward pass follows, which would release them."""
    if isinstance(step, FSDPModule):
        step.reshard()


def sharing_group(step: nn.Module) -> dist.ProcessGroup | None:
    """The processes that share the work on whole matrices: those with one set of weights or more.

    Returns:
        All processes of a replicated run, those of a set of shards of a sharded one, or None.
    """
    if isinstance(step, DistributedDataParallel):
        return step.process_group
    sharded = next(step.parameters())
    if isinstance(sharded, DTensor):
        return sharded.device_mesh.get_group("shard")
    return None
