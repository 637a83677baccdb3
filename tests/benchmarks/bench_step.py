"""Milliseconds of a step inside a world, early and late in a session, on one thread.

python tests/benchmarks/bench_step.py [WORLD] [--passes K]
"""

from __future__ import annotations

import numpy as np
import torch
import tyro

from worldsim.eval.speed import step_latency
from worldsim.world_folder import load

STEPS = (10, 100, 1_000, 10_000)


def main(world_name: str = "pong", /, passes: int | None = None) -> None:
    torch.set_num_threads(1)
    world = load(world_name, device="cpu")
    passes = passes or world.num_passes
    latency = step_latency(world, STEPS, num_passes=passes, rounds=20)
    parameters = sum(parameter.numel() for parameter in world.parameters())
    height, width = world.game.frame_size
    print(
        f"{parameters / 1e6:.2f} M parameters, {height}x{width}, {passes} denoising passes, "
        f"{torch.get_num_threads()} thread"
    )
    for step, times in latency.items():
        p50, p95 = np.percentile(times, (50, 95))
        print(f"step {step:>5,}: {p50:6.2f} ms p50  {p95:6.2f} ms p95")
    ratio = np.median(latency[STEPS[-1]]) / np.median(latency[STEPS[0]])
    print(f"step {STEPS[-1]:,} / step {STEPS[0]}: {ratio:.3f} (p50)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
