"""Steps a second of the bundled games on one core: ``python tests/benchmarks/bench_envs.py``."""

from __future__ import annotations

import time

import gymnasium

from worldsim.registration import GAMES, register_envs

NUM_STEPS = 10_000


def measure(env_id: str) -> float:
    """Return steps a second of random play through ``gymnasium.make``, resets included."""
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(NUM_STEPS)]
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return NUM_STEPS / (time.perf_counter() - start)


if __name__ == "__main__":
    register_envs()
    for env_id in GAMES:
        print(f"{env_id:20} {measure(env_id):8,.0f} steps/s")
