"""What the environment costs on top of the model, and what a lane weighs.

python tests/benchmarks/bench_vector.py [WORLD] [--batch-sizes 1 8 32 128] [--seconds 4]

Steps of a `WorldModelVectorEnv` and of the bare `Rollout` in it are timed in turn, on one thread;
the overhead is the median over pairs. A lane's bytes are its memory of the past, of its newest
frames and of its generator, as a snapshot holds them; branching is what copying one lane into all
of them costs.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
import tyro

from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv


def main(
    world_name: str = "pong", /, batch_sizes: tuple[int, ...] = (1, 8, 32, 128), seconds: float = 4
) -> None:
    world = load(world_name)
    if world.device.type == "cpu":
        torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for batch_size in batch_sizes:
        envs = WorldModelVectorEnv(world, batch_size, autoreset_mode="SameStep")
        envs.reset(seed=0)
        rollout = Rollout(world, batch_size)
        rollout.restore_state(envs.clone_state().rollout)
        pairs: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds or len(pairs) < 5:
            actions = rng.integers(world.game.num_actions, size=batch_size)
            times = []
            for step in (envs.step, rollout.step) if len(pairs) % 2 else (rollout.step, envs.step):
                before = time.perf_counter()
                step(actions)
                times.append(time.perf_counter() - before)
            pairs.append((times[0], times[1]) if len(pairs) % 2 else (times[1], times[0]))
        env, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
        overhead = statistics.median(ours / theirs - 1 for ours, theirs in pairs)
        state = rollout.clone_state()
        tensors = (state.cache.keys, state.cache.values, state.history, *state.rng_states)
        size = sum(tensor.nbytes for tensor in tensors) / batch_size
        single = WorldModelEnv(world)
        single.reset(seed=0)
        before = time.perf_counter()
        envs.restore_state(single.clone_state().branch(batch_size))
        branched = 1000 * (time.perf_counter() - before)
        print(
            f"batch {batch_size:>4}: {batch_size / env:7.0f} steps/s, {1000 * env:7.1f} ms a step "
            f"(bare {1000 * bare:7.1f}, overhead {overhead:+.1%}); {size / 2**20:.2f} MiB a lane; "
            f"branching {branched:.1f} ms"
        )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
