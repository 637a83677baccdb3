"""A small step takes one thread and gives the others back, and a fork is survived."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_worlds import make_tiny_world
from worldsim.rollout import Rollout
from worldsim.system import threads
from worldsim.system.threads import threads_for, use_threads

ROOT = Path(__file__).parents[1]

FORKING = """
import sys
import gymnasium
import numpy as np
import torch
import worldsim

torch.set_num_threads(2)
(torch.randn(1500, 1500) @ torch.randn(1500, 1500)).relu()
torch.nn.functional.conv2d(torch.randn(8, 16, 64, 64), torch.randn(16, 16, 3, 3))

def make():
    return gymnasium.make("worldsim/WorldModel-v0", world="pong")

kind, many = sys.argv[1], dict(world="pong", num_envs=2)
if kind == "AsyncVectorEnv":
    envs = gymnasium.vector.AsyncVectorEnv([make] * 2, context="fork")
elif kind == "make_vec":
    envs = gymnasium.make_vec("worldsim/WorldModel-v0", vectorization_mode="async", **many)
else:
    from stable_baselines3.common.vec_env import SubprocVecEnv
    envs = SubprocVecEnv([make] * 2, start_method="fork")
envs.reset()
for _ in range(2):
    assert envs.step(np.array([0, 1]))[0].shape == (2, 64, 64, 3)
envs.close()
"""


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads that nobody has asked for."""
    for name in (*threads.SETTINGS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_chosen", False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_a_step(batch_size: int = 1) -> set[int]:
    """How many threads the network of a tiny world is computed on."""
    world = make_tiny_world()
    seen: list[int] = []
    world.dit.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    rollout = Rollout(world, batch_size)
    windows = world.starts.frames[[0] * batch_size], world.starts.actions[[0] * batch_size]
    rollout.reset(*windows, seeds=[0] * batch_size)
    rollout.step(np.zeros(batch_size, int))
    return set(seen)


@pytest.mark.usefixtures("_two_threads")
def test_a_small_step_takes_one_thread_and_gives_the_others_back() -> None:
    assert threads_of_a_step() == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_a_large_batch_takes_those_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SMALL_PASS", 200_000)
    assert threads_of_a_step(1) == {1}
    assert threads_of_a_step(2) == {2}


@pytest.mark.usefixtures("_two_threads")
def test_where_waiting_threads_sleep_a_smaller_batch_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "SMALL_PASS_ASLEEP", 200_000)
    assert threads_of_a_step(2) == {1}
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert threads_of_a_step(1) == {1}
    assert threads_of_a_step(2) == {2}


@pytest.mark.usefixtures("_two_threads")
def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(ValueError, match="oh"), threads_for(1):
        raise ValueError("oh")
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_what_was_chosen_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    use_threads(2)
    assert threads_of_a_step() == {2}
    monkeypatch.setattr(threads, "_chosen", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_of_a_step() == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.usefixtures("_two_threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_leaves_torch_one_thread() -> None:
    child = os.fork()
    if child == 0:
        threads.forget_lost_threads()
        os._exit(torch.get_num_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert torch.get_num_threads() == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("kind", ["AsyncVectorEnv", "make_vec", "SubprocVecEnv"])
def test_worlds_in_forked_workers_step(kind: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in threads.SETTINGS}
    subprocess.run(
        [sys.executable, "-c", FORKING, kind], cwd=ROOT, env=env, check=True, timeout=240
    )
