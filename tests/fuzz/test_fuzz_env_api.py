"""Absurd arguments to environments: each is refused in a sentence, and the game goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from tests.tiny_worlds import make_tiny_world
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.slow

ENV_ID = "worldsim/WorldModel-v0"
CASES = 150
ABSURD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, -(10**30), float("nan"), float("inf"), "", "x", "\0", b"x",
    [], [1], [[]], (), {}, {"start": 10**9}, {"start": "x"}, {"start": -1}, {"reset_mask": 1},
    {"start": np.zeros(0)}, {"start": np.zeros((1, 2, 3, 4), np.uint8)}, {"x": 1}, {1: 2},
    {"start": 0, "actions": [0]}, np.array(0.5), np.zeros(0), np.zeros((2, 2)),
    np.array(["a", "b"]), np.array([10**18, -1]), np.array([np.nan, 0]), object(), len,
)  # fmt: skip
OPTIONS = ("num_passes", "max_uncertainty", "observation", "starts", "render_mode", "device")
LANES = ("num_envs", "frame_skip", "frame_stack", "max_episode_steps", "autoreset_mode")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


def refuse_or_take(call: Callable[[], Any], case: str) -> None:
    refusal: Exception | None = None
    try:
        call()
    except Exception as error:
        refusal = error
    if refusal is not None:
        assert isinstance(refusal, (TypeError, ValueError, ResetNeeded)), f"{case}: {refusal!r}"
        assert str(refusal).strip(), case


@pytest.mark.parametrize("lanes", [None, 2])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_running_environment_is_told(world: WorldModel, lanes: int | None) -> None:
    env: Any = (
        gymnasium.make(ENV_ID, world=world).unwrapped
        if lanes is None
        else gymnasium.make_vec(ENV_ID, lanes, world=world)
    )
    action = 0 if lanes is None else np.zeros(lanes, int)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(CASES):
        value = ABSURD[rng.integers(len(ABSURD))]
        calls = {
            "seed": lambda value=value: env.reset(seed=value),
            "options": lambda value=value: env.reset(options=value),
            "start": lambda value=value: env.reset(options={"start": value}),
            "step": lambda value=value: env.step(value),
            "state": lambda value=value: env.restore_state(value),
        }
        name = list(calls)[rng.integers(len(calls))]
        refuse_or_take(calls[name], f"{name}: {value!r}")
        env.step(action)


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_an_environment_is_made_with(world: WorldModel, lanes: bool) -> None:
    rng = np.random.default_rng(1)
    names = (*OPTIONS, *LANES) if lanes else OPTIONS
    make: Any = WorldModelVectorEnv if lanes else WorldModelEnv
    for _ in range(CASES):
        name, value = names[rng.integers(len(names))], ABSURD[rng.integers(len(ABSURD))]
        refuse_or_take(functools.partial(make, world, **{name: value}), f"{name}={value!r}")
