"""RLlib learns in a bundled world: with the Gymnasium that it asks for, an older one than ours."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEARN = """
import gymnasium
import numpy as np
import ray
import worldsim
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)

class Scaled(SingleAgentObservationPreprocessor):
    def recompute_output_observation_space(self, observation_space, action_space):
        return gymnasium.spaces.Box(0, 1, observation_space.shape, np.float32)

    def preprocess(self, observation, episode):
        return observation.astype(np.float32) / 255

assert gymnasium.__version__.startswith("1.2.")
ray.init(num_cpus=1, include_dashboard=False, _temp_dir=RAY_DIR)
config = (
    PPOConfig()
    .environment("worldsim/Pong-World-v0", env_config={"max_episode_steps": 20, "frame_stack": 2})
    .env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=4,
        gym_env_vectorize_mode="vector_entry_point",
        env_to_module_connector=lambda *_, **__: Scaled(),
    )
    .training(train_batch_size_per_learner=128, minibatch_size=64, num_epochs=1)
)
algorithm = config.build_algo()
assert isinstance(algorithm.env_runner.env.unwrapped, worldsim.WorldModelVectorEnv)
result = algorithm.train()
assert result["env_runners"]["num_env_steps_sampled"] >= 128
assert 1 <= result["env_runners"]["episode_len_mean"] <= 20
assert np.isfinite(result["learners"]["default_policy"]["total_loss"])
algorithm.stop()
"""


@pytest.fixture
def rllib() -> Iterator[Path]:
    """A folder with RLlib and its Gymnasium, to be found before what is installed here."""
    with tempfile.TemporaryDirectory(prefix="rllib-") as folder:
        pins = (ROOT / "constraints.txt").read_text().splitlines()
        kept = [pin for pin in pins if not pin.startswith("gymnasium==")]
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(kept))
        pip = [sys.executable, "-m", "pip", "install", "-q", "ray[rllib]", "-c", str(constraints)]
        site = Path(folder, "site")
        done = subprocess.run(
            [*pip, "--target", str(site)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"RLlib cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        yield site


@pytest.mark.slow
def test_an_iteration_of_ppo_learns_in_a_vector_environment(rllib: Path) -> None:
    home = rllib.parent  # RLlib writes results there
    env = {**os.environ, "PYTHONPATH": str(rllib), "HOME": str(home), "OMP_NUM_THREADS": "1"}
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    script = f"RAY_DIR = {str(home / 'ray')!r}\n{LEARN}"
    subprocess.run([sys.executable, "-c", script], cwd=home, env=env, check=True, timeout=600)
