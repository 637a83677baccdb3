"""What the environment costs on top of the model, and what a lane weighs.

python tests/benchmarks/bench_vector.py [WORLD] [--batch-sizes 1 8 32 128] [--output torch]

In each step of a `WorldModelVectorEnv` the calls of its rollout are timed, on one thread. The rest
of the step is overhead, given as the least and the median over steps without a reset. Then every
fourth lane is reset, and the same is given for each lane that begins. Branching is what
copying one lane into all of them costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import tyro

from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv


class Stopwatch:
    """Adds up the seconds that some methods of a rollout take, and times what calls them."""

    def __init__(self, rollout: Rollout) -> None:
        self.inside = 0.0
        for name in ("advance", "pixels", "read", "enter"):
            setattr(rollout, name, self._timed(getattr(rollout, name)))

    def split(self, call: Callable[..., Any], **arguments: Any) -> tuple[float, float, Any]:
        """The seconds of a call outside and inside the rollout, and its result."""
        self.inside, before = 0.0, time.perf_counter()
        result = call(**arguments)
        return time.perf_counter() - before - self.inside, self.inside, result

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            before = time.perf_counter()
            result = method(*args, **kwargs)
            self.inside += time.perf_counter() - before
            return result

        return timed


def main(
    world_name: str = "pong",
    /,
    batch_sizes: tuple[int, ...] = (1, 8, 32, 128),
    seconds: float = 4,
    output: Literal["numpy", "torch"] = "numpy",
) -> None:
    world = load(world_name)
    if world.device.type == "cpu":
        torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for batch_size in batch_sizes:
        envs = WorldModelVectorEnv(world, batch_size, autoreset_mode="SameStep", output=output)
        watch = Stopwatch(envs._rollout)
        envs.reset(seed=0)
        steps: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds or len(steps) < 5:
            actions = rng.integers(world.game.num_actions, size=batch_size)
            outside, inside, step = watch.split(envs.step, actions=actions)
            if "final_obs" not in step[-1]:
                steps.append((outside, inside))
        outsides, insides = np.array(steps).T
        step_time, least = np.median(outsides + insides), outsides.min() / insides.min()

        options = {"reset_mask": np.arange(batch_size) % 4 == 0}
        resets = [watch.split(envs.reset, options=options)[:2] for _ in range(3)]
        num_resets = np.count_nonzero(options["reset_mask"])
        reset_outside, reset_inside = np.min(resets, axis=0) / num_resets

        envs.clone_state()  # the first one hashes the weights
        single = WorldModelEnv(world)
        single.reset(seed=0)
        before = time.perf_counter()
        envs.restore_state(single.clone_state().branch(batch_size))
        branched = 1000 * (time.perf_counter() - before)
        print(
            f"batch {batch_size:>4}: {batch_size / step_time:7.0f} steps/s, "
            f"{1000 * step_time:7.1f} ms a step (overhead {1000 * outsides.min():.2f} ms, "
            f"{least:.2%}, median {np.median(outsides / insides):.2%}); a reset lane "
            f"{1e6 * reset_outside:.0f} µs on top of {1e6 * reset_inside:,.0f}; "
            f"{envs._rollout.bytes_per_lane / 2**20:.2f} MiB a lane; branching {branched:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
