"""What docs/scale.md calculates, checked in processes that believe they are one of 512."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.benchmarks.scale_counts import SHAPES, Counted, Load, make_batch
from tests.benchmarks.scale_plan import BFLOAT16, FLOAT32, Parallel, Plan
from worldsim.train.distributed import Objective, make_mesh, shard, sharing_group
from worldsim.train.optimizers import block_matrices, has_fast_bfloat16, make_optimizers
from worldsim.train.processes import Processes
from worldsim.train.recipe import Recipe

GPUS = 512


@pytest.fixture
def first_of_512(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """The first of 512 processes, 8 on a machine; what it sends goes nowhere."""
    for name, number in (("RANK", 0), ("WORLD_SIZE", GPUS), ("LOCAL_WORLD_SIZE", 8)):
        monkeypatch.setenv(name, str(number))
    dist.init_process_group("fake", rank=0, world_size=GPUS, store=FakeStore())
    yield Processes("cpu")
    dist.destroy_process_group()


class Sent(TorchDispatchMode):
    """Counts what a process sends, by operation: bytes of the larger tensor, which is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = str(func).partition(".")
        if namespace == "c10d":
            sizes = [
                sum(t.nbytes for t in tree_leaves(one) if isinstance(t, torch.Tensor))
                for one in args
            ]
            self.bytes[name.removesuffix(".default").strip("_")] += max(sizes)
        return func(*args, **(kwargs or {}))


def kept(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes that this process keeps of tensors."""
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def filled(tensors: Iterable[torch.Tensor], shards: int) -> int:
    """Numbers in tensors whose rows are filled up to a multiple of the shards."""
    return sum(-(-len(t) // shards) * shards * t[0].numel() for t in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_a_process_keeps_its_part_of_ten_billion_weights(
    first_of_512: Processes, parallel: Parallel
) -> None:
    model = Counted(SHAPES["10 B"], Load())
    plan, world = Plan(model, GPUS, parallel, windows=1, again=True), model.world
    whole, blocks = (filled(part.parameters(), plan.shards) for part in (world, world.dit.blocks))
    shard(Objective(world), world.dit.blocks, make_mesh(parallel, first_of_512))
    weights = kept(world.parameters())
    matrices = kept(p for p in world.dit.blocks.parameters() if p.ndim == 2)
    # Weights, their average and gradients; one moment in Muon, two in AdamW.
    held = 3 * weights + matrices + 2 * (weights - matrices)
    assert held == pytest.approx(plan.state, rel=0.002)
    assert FLOAT32 * whole == pytest.approx(plan.gradient_size, rel=0.002)
    assert BFLOAT16 * blocks == pytest.approx(plan.gather_size, rel=0.002)


@pytest.mark.parametrize("parallel", ["hsdp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_step_sends_what_is_calculated(first_of_512: Processes, parallel: Parallel) -> None:
    load = Load((16, 16), window=3, batch_size=2 * GPUS)
    model = Counted({"width": 512, "depth": 3, "num_heads": 1, "num_kv_heads": 1}, load)
    plan = Plan(model, GPUS, parallel, windows=2, again=False)
    world = model.world.to_empty(device="cpu")
    with torch.no_grad():
        torch._foreach_zero_(list(world.parameters()))
    whole, blocks, last = (
        filled(part.parameters(), plan.shards)
        for part in (world, world.dit.blocks, world.dit.blocks[-1])
    )
    step = Objective(world)
    shard(step, world.dit.blocks, make_mesh(parallel, first_of_512))
    optimizers = make_optimizers(world, block_matrices(world), 0.1, sharing_group(step))
    batch, draws = make_batch(world, load, windows=2)
    with Sent() as sent:
        step([batch], Recipe().at(1.0), [draws], world).total().backward()
        for optimizer in optimizers:
            optimizer.step()
    # Two forward passes and the backward pass gather each layer; torch gathers the last once more,
    # since it takes the second forward pass to begin where the first has ended. On a CPU weights
    # are gathered in float32, and matrices exchanged in the precision that is fast.
    gathered = FLOAT32 * (3 * blocks + last + whole - blocks)
    fast = BFLOAT16 if has_fast_bfloat16(torch.device("cpu")) else FLOAT32
    exchanged = sum(plan.exchanged(one) for one in model.matrices) / BFLOAT16 * fast
    assert sent.bytes == {
        "allgather_base": gathered,
        "reduce_scatter_base": FLOAT32 * whole,
        "alltoall_base": 2 * exchanged,
    } | ({"allreduce": FLOAT32 * whole / plan.shards} if parallel == "hsdp" else {})
