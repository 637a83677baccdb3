"""What a GPU makes of stepping and training, as one table.

    python tests/benchmarks/bench_gpu.py [--device cuda] [--seconds 2]

Stepping: frames per second of the bundled Pong, of a world of `base` and of one of about 1 G
parameters, both with random weights. Training: the phases of a step of `tiny` and `base` on a
recording of worldsim/Pong-v0, as `worldsim bench --train` prints them. Shares are those of the rate
that the device has in the same precision for large matrices. `--device cpu` takes small sizes, for
trying the script.
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

import worldsim
from worldsim.data.recording import Recording
from worldsim.envs.record import RecordConfig, record
from worldsim.eval.speed import begin, matrix_rate, step_cost
from worldsim.model.dit import VideoDiT
from worldsim.model.heads import RewardTerminationHead
from worldsim.system.devices import is_out_of_memory, pick_device
from worldsim.train.bench import BenchConfig, bench_training
from worldsim.train.engine import Engine
from worldsim.train.presets import SIZES
from worldsim.world_model import WorldModel

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
    name: str,
    world: WorldModel,
    lanes: list[int],
    passes: list[int],
    seconds: float,
    *,
    compiled: bool = False,
) -> Iterator[str]:
    """A line for each number of lanes and passes."""
    parameters = sum(parameter.numel() for parameter in world.parameters())
    kind = str(world.dit.dtype).removeprefix("torch.")
    rate = matrix_rate(world.device, world.dit.dtype)
    for b in lanes:
        rollout = begin(world, b, compiled=compiled)
        for rollout.num_passes in passes:
            cost = step_cost(rollout, seconds)
            share = cost.gflop / (cost.p50 / 1000) / rate
            yield (
                f"{name:<6} {parameters / 1e6:7.1f} M {kind:<9} {b:5} lanes "
                f"{rollout.num_passes} passes {cost.p50:9.2f} ms "
                f"{1000 * b * world.patch_frames / cost.p50:10,.0f} "
                f"frames/s {share:7.2%} {cost.peak_mb:8,.0f} MB, first {cost.first:,.0f} ms"
            )


def time_env(world: WorldModel, b: int, seconds: float) -> str:
    """A line for the environment and its rollout, one pass; episodes end and begin on the way."""
    envs = worldsim.WorldModelVectorEnv(world, b, num_passes=1, output="torch")
    envs.reset(seed=0)
    actions = envs.action_space.sample()
    rollout = begin(world, b)
    rollout.num_passes = 1
    times: dict[str, list[float]] = {"env": [], "rollout": []}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["env"]) < 20:
        for kind, step in (("rollout", rollout.step), ("env", envs.step)):
            begun = time.perf_counter()
            step(actions)
            if world.device.type == "cuda":
                torch.cuda.synchronize(world.device)
            times[kind].append(1000 * (time.perf_counter() - begun))
    env, alone = (sum(times[kind][5:]) / len(times[kind][5:]) for kind in ("env", "rollout"))
    return f"pong   {b:5} lanes 1 pass: {env:.2f} ms, the rollout alone with frames {alone:.2f} ms"


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
    print("compiled:", flush=True)
    half = worldsim.load("pong", device=device, dtype="bfloat16")
    for world, lanes in ((pong, 1), (half, 1024 if is_gpu else 4)):
        for line in time_steps("pong", world, [lanes], [1, 2], seconds, compiled=True):
            print(line, flush=True)
    print("WorldModelVectorEnv, observations on the device:", flush=True)
    for b in [1, 1024, 4096] if is_gpu else [1]:
        print(time_env(pong, b, seconds), flush=True)
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
        for compiled in (False, True):
            bench_training(
                BenchConfig(
                    train=recording,
                    sizes=("tiny", "base") if is_gpu else ("tiny",),
                    batch_sizes=((32,) if compiled else (4, 32, 128)) if is_gpu else (4,),
                    seconds=seconds,
                    device=str(device),
                    engine=Engine(compile="on" if compiled else "off"),
                )
            )


if __name__ == "__main__":
    main()
