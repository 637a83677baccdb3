"""What is promised of numbers: to the bit on one machine, up to rounding between batches and CPUs.

Matrix kernels differ between CPUs, batch sizes and numbers of threads, and so does their rounding.
Over many steps rounding grows as it does in any chaotic game, so what is promised is one step.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

import worldsim
from worldsim import Rollout, WorldModelEnv, WorldModelVectorEnv

NAMES = ["balls", "maze", "pong"]
FRAME_TOLERANCE = 1  # of 255
REWARD_TOLERANCE = 1e-4

pytestmark = pytest.mark.numeric


def fingerprint(name: str, num_threads: int, batch_size: int = 3, steps: int = 10) -> str:
    """A hash of all that a seeded rollout gives, from a world that is loaded anew."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        world = worldsim.load(name, device="cpu")
        rollout = Rollout(world, batch_size)
        starts, seeds = world.starts, range(batch_size)
        rollout.reset(starts.frames[:batch_size], starts.actions[:batch_size], seeds)
        digest = hashlib.sha256()
        for step in range(steps):
            actions = (np.arange(batch_size) + step) % world.game.num_actions
            for part in rollout.step(actions)[:4]:
                digest.update(part.tobytes())
        return digest.hexdigest()
    finally:
        torch.set_num_threads(before)


def test_a_seed_gives_the_same_to_the_bit() -> None:
    assert fingerprint("pong", num_threads=1) == fingerprint("pong", num_threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_seed_gives_the_same_to_the_bit_in_another_process(num_threads: int) -> None:
    code = (
        f"from tests.test_exactness import fingerprint; print(fingerprint('pong', {num_threads}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint("pong", num_threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_one_lane_and_of_a_batch_differ_by_rounding(name: str) -> None:
    world = worldsim.load(name, device="cpu")
    alone, batch = WorldModelEnv(world), WorldModelVectorEnv(world, 4)
    alone.reset(seed=0)
    for step in range(6):
        batch.restore_state(alone.clone_state().branch(4))
        action = step % world.game.num_actions
        frame, reward, terminated, _, info = alone.step(action)
        frames, rewards, _, _, infos = batch.step(np.full(4, action))
        assert np.abs(frames.astype(int) - frame).max() <= FRAME_TOLERANCE
        np.testing.assert_allclose(rewards, reward, rtol=0, atol=REWARD_TOLERANCE)
        np.testing.assert_allclose(
            infos["termination_prob"], info["termination_prob"], rtol=0, atol=REWARD_TOLERANCE
        )
        if terminated:
            break
