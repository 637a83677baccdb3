"""What a GPU makes of stepping and training, as one table.

    python tests/benchmarks/bench_gpu.py [--device cuda] [--seconds 2]

Stepping: frames per second of the bundled Pong, of a world of `base` and of one of about 1 G
parameters, both with random weights. Training: frames per second of `tiny` and `base` on a
recording of worldsim/Pong-v0, the optimizer's step included. Shares are those of the rate that the
device has in the same precision for large matrices. `--device cpu` takes small sizes, for trying
the script.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import worldsim
from worldsim.data.recording import Recording
from worldsim.envs.record import RecordConfig, record
from worldsim.eval.speed import begin, matrix_rate, step_cost
from worldsim.model.dit import VideoDiT
from worldsim.model.heads import RewardTerminationHead
from worldsim.system.devices import is_out_of_memory, pick_device
from worldsim.train.config import TrainConfig
from worldsim.train.dynamics import Run
from worldsim.train.optim import Optim
from worldsim.train.optimizers import has_fast_bfloat16
from worldsim.train.presets import SIZES
from worldsim.train.run_folder import RunProgress
from worldsim.world_model import WorldModel

LENGTH = 10**6  # steps of the run whose last fifth is timed
GIANT = {"width": 2048, "depth": 20, "num_heads": 16, "num_kv_heads": 8, "patch_size": 4}


def random_world(like: WorldModel, size: dict[str, int], dtype: torch.dtype) -> WorldModel:
    """A world of the same game with random weights."""
    with torch.device(like.device):
        config = replace(like.dit.config, chance_bits=0, **size)
        dit = VideoDiT(config)
        world = WorldModel(
            dit=dit,
            head=RewardTerminationHead(config.width),
            codec=copy.deepcopy(like.codec).cpu(),
            game=like.game,
            starts=like.starts,
            background=like.background,
        )
    dit.set_dtype(dtype)
    return world.to(like.device).eval()


def time_steps(
    name: str, world: WorldModel, lanes: list[int], passes: list[int], seconds: float
) -> Iterator[str]:
    """A line for each number of lanes and passes."""
    parameters = sum(parameter.numel() for parameter in world.parameters())
    kind = str(world.dit.dtype).removeprefix("torch.")
    rate = matrix_rate(world.device, world.dit.dtype)
    for b in lanes:
        rollout = begin(world, b)
        for rollout.num_passes in passes:
            cost = step_cost(rollout, seconds)
            share = cost.gflop / (cost.p50 / 1000) / rate
            yield (
                f"{name:<6} {parameters / 1e6:7.1f} M {kind:<9} {b:5} lanes "
                f"{rollout.num_passes} passes {cost.p50:9.2f} ms {1000 * b / cost.p50:10,.0f} "
                f"frames/s {share:7.2%} {cost.peak_mb:8,.0f} MB, first {cost.first:,.0f} ms"
            )


def time_training(
    recording: Path, size: str, batch_size: int, device: torch.device, seconds: float
) -> str:
    """Training steps as in `worldsim train`, in the last fifth of a run."""
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            recording=recording,
            out=Path(out) / "run",
            size=size,  # type: ignore[arg-type]
            steps=LENGTH,
            device=str(device),
            optim=Optim(batch_size=batch_size),
        )
        run = Run.of(config, None)

    def step(number: int) -> None:
        run.losses_at(RunProgress(step=LENGTH * 4 // 5 + number)).total().backward()
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with run.windows:
        with FlopCounterMode(display=False) as counter:
            step(0)
        step(1)
        wait()
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            step(2 + steps)
            steps += 1
            wait()
        each = (time.perf_counter() - begun) / steps
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    share = 1e-9 * counter.get_total_flops() / each / matrix_rate(device, dtype)
    frames = batch_size * config.model.window / each
    return (
        f"train  {size:<6} batch {batch_size:4} {1000 * each:9.1f} ms {frames:10,.0f} frames/s "
        f"{share:7.2%}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    options = parser.parse_args()
    device, seconds = pick_device(options.device), options.seconds
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        print(f"large matrices in {dtype}: {matrix_rate(device, dtype):,.0f} GFLOP/s", flush=True)

    pong = worldsim.load("pong", device=device)
    small = [1, 32, 256, 1024, 4096] if is_gpu else [1, 4]
    for line in time_steps("pong", pong, small, [1, 2], seconds):
        print(line, flush=True)
    large = [
        ("base", SIZES["base"], torch.float32, [1, 32, 256]),
        ("base", SIZES["base"], torch.bfloat16, [1, 32, 256]),
        ("giant", GIANT, torch.bfloat16, [1, 8, 32]),
    ]
    for name, size, kind, lanes in large if is_gpu else large[1:2]:
        world = random_world(pong, size, kind)
        try:
            for line in time_steps(name, world, lanes if is_gpu else [1], [2], seconds):
                print(line, flush=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(f"{name}: too little memory", flush=True)
        del world

    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "pong"
        record(RecordConfig("worldsim/Pong-v0", steps=20_000 if is_gpu else 500), recording)
        assert len(Recording(recording))
        sizes = [("tiny", 4), ("tiny", 64), ("base", 4), ("base", 32), ("base", 128)]
        for size, batch_size in sizes if is_gpu else sizes[:1]:
            print(time_training(recording, size, batch_size, device, seconds), flush=True)


if __name__ == "__main__":
    main()
