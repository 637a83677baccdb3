"""RLlib's PPO learns inside a bundled world, with environments on all machines of a Ray cluster.

python examples/rllib.py [--runners 2] [--lanes 16] [--steps 20480] [--world pong]
python examples/rllib.py --address auto [--gpu 0.5]

By default it starts Ray on this machine. With --address it joins a cluster: `auto` finds the one
that this machine belongs to, HOST:6379 names its head. Each runner is a process with a world of its
own, whose lanes are one batch. Ray places it where a core, and the share of a GPU, is free.

A decision holds for three frames; the agent sees the last two of them. Two idle cores play 70
decisions a second. In one run the mean imagined return rose from -2.5 to -1.4 in 20,800 decisions.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import gymnasium
import numpy as np
import ray
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

BATCH = 1024  # decisions between two updates, of all runners together, at most


class Scaled(SingleAgentObservationPreprocessor):
    """Frames of bytes as floats from 0 to 1, which RLlib's network takes."""

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        return gymnasium.spaces.Box(0, 1, input_observation_space.shape, np.float32)

    def preprocess(self, observation: np.ndarray, episode: Any) -> np.ndarray:
        return observation.astype(np.float32) / 255


def describe(runner: Any) -> str:
    """Where a runner is and what it plays in."""
    env = runner.env.unwrapped
    where = f"process {os.getpid()} on {socket.gethostname()}"
    return f"{type(env).__name__} of {env.num_envs} lanes on {env.world.device}, {where}"


def main(
    runners: int = 2,
    lanes: int = 16,
    steps: int = 20 * BATCH,
    horizon: int = 167,
    world: str = "pong",
    address: str = "local",
    gpu: float = 0.0,
) -> None:
    """Learn, and print how far it has come after each update.

    Args:
        runners: Processes that play, on all machines together.
        lanes: Environments of a runner.
        steps: Decisions to learn from.
        horizon: Decisions after which an episode is cut off.
        world: A bundled world, or the folder of one that is at this path on all machines.
        address: The cluster, or local to start one here.
        gpu: Share of a GPU that each runner takes; 0: it plays on a CPU.
    """
    # A local cluster has a core for each runner; the learner is in this process.
    ray.init(address, num_cpus=runners if address == "local" else None, include_dashboard=False)
    play = {"world": world, "frame_skip": 3, "frame_stack": 2, "max_episode_steps": horizon}
    batch = min(BATCH, steps)
    config = (
        PPOConfig()
        # The name before the colon is imported by each runner, which registers the environment.
        .environment("worldsim:worldsim/WorldModel-v0", env_config={**play, "num_passes": 1})
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=lanes,
            num_gpus_per_env_runner=gpu,
            gym_env_vectorize_mode="vector_entry_point",  # a batch, not so many copies
            env_to_module_connector=lambda *_, **__: Scaled(),
            sample_timeout_s=600,  # for its share of a batch, on a slow machine too
        )
        .rl_module(
            model_config=DefaultModelConfig(
                conv_filters=[[16, 5, 4], [32, 3, 2], [32, 3, 2]],
                conv_activation="relu",
                head_fcnet_hiddens=[256],
            )
        )
        .training(
            train_batch_size_per_learner=batch,
            minibatch_size=min(128, batch),
            num_epochs=10,
            lr=5e-4,
            gamma=0.985,
            lambda_=0.95,
            clip_param=0.2,
            use_kl_loss=False,
            entropy_coeff=0.005,
            grad_clip=0.5,
        )
    )
    algorithm = config.build_algo()
    group = algorithm.env_runner_group
    for number, line in enumerate(group.foreach_env_runner(describe, local_env_runner=False), 1):
        print(f"runner {number}: {line}")

    learned, begun = 0, time.perf_counter()
    while learned < steps:
        result = algorithm.train()
        played, loss = result["env_runners"], result["learners"]["default_policy"]["total_loss"]
        learned = int(played["num_env_steps_sampled_lifetime"])
        rate = learned / (time.perf_counter() - begun)
        line = f"{learned:,} decisions, {rate:.0f} a second, loss {loss:.3f}"
        if "episode_return_mean" in played:  # some have ended since the last update
            line += f", mean imagined return {played['episode_return_mean']:+.2f}"
            line += f" in {played['episode_len_mean']:.0f} decisions"
        print(line, flush=True)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
