"""Descriptions of games, damaged at random, and games that are strange at random.

Each is accepted as what it says, or refused with one ValueError sentence.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.fuzz.mutations import mutate_json
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game, make_game
from worldsim.system.trust import check_env_id_of_file, check_settings_of_file

pytestmark = pytest.mark.slow

ID = "fuzz/Game-v0"
SEEDS = range(8)
CASES = 400  # of each seed

GAME = GameConfig(
    env_id="ALE/Pong-v5",
    env_kwargs={"frameskip": [2, 5], "obs_type": "rgb", "deep": {"a": [1, None, True]}},
    frame_size=(48, 64),
    frame_skip=2,
    fps=15.0,
    action_meanings=("NOOP", "UP", "DOWN"),
    key_bindings={"up": 1, "down": 2, "left shift+up": 1},
    scripted_policy="worldsim.envs.pong:play",
)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_description_is_equal_or_a_sentence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    taken = 0
    for _ in range(CASES):
        values: Any = GAME.to_dict()
        for _ in range(rng.choice([1, 1, 2, 5])):
            values = mutate_json(values, rng)
        try:
            config = GameConfig.from_dict(values)
            taken += 1
            assert json.loads(json.dumps(config.to_dict(), allow_nan=False)) == values
            assert GameConfig.from_dict(config.to_dict()) == config
            assert all(0 <= action < config.num_actions for action in config.key_bindings.values())
            check_env_id_of_file(config.env_id)  # as `make_game` does
            check_settings_of_file(config.env_id, config.env_kwargs)
        except ValueError as error:
            text = str(error)
            assert text.isprintable(), values  # no error is as good
            assert 0 < len(text) < 400, values
    assert 0 < taken < CASES


class Flag(IntEnum):
    A = 0
    B = 1
    C = 2


OBSERVATIONS = (
    spaces.Box(0, 255, (32, 40, 3), np.uint8),
    spaces.Box(0, 255, (32, 40), np.uint8),
    spaces.Box(0, 255, (40, 32, 1), np.uint8),
    spaces.Box(0, 255, (40, 32, 4), np.uint8),
    spaces.Box(0, 4, (32, 40), np.uint8),
    spaces.Box(0, 1, (32, 40, 3), np.float32),
    spaces.Dict(image=spaces.Box(0, 255, (32, 40, 3), np.uint8), mission=spaces.Discrete(3)),
    spaces.Dict(image=spaces.Box(0, 9, (7, 7, 3), np.uint8)),
    spaces.Discrete(5),
    spaces.Text(4),
    None,
)
ACTIONS = (
    spaces.Discrete(3),
    spaces.Discrete(3, start=-1),
    spaces.Discrete(3, start=7),
    spaces.Discrete(1),
    spaces.Discrete(2**40),
    spaces.MultiBinary(3),
    None,
)
PICTURES = (
    np.zeros((32, 40, 3), np.uint8),
    np.zeros((32, 40, 4), np.uint8),
    np.zeros((32, 40), np.uint8),
    np.zeros((0, 40, 3), np.uint8),
    np.zeros((3, 32, 40), np.uint8),
    np.zeros((32, 40, 3)),
    [np.zeros((32, 40, 3), np.uint8)],
    None,
    "picture",
)
REWARDS = (0, 0.5, np.float32(1), np.array(1.0), np.array([1.0]), True, None, "1", 1j)
MEANINGS = (
    ["A", "B", "C"], ("A",), Flag, list(Flag), {0: "A", 1: "B", 2: "C"}, {"A": 0}, {}, None, 5,
    [None, 1, 2], ["\x1b", "\n", ""], "ABC", {"A": "B"}, [["A"], [], {}], iter("ABC"),
)  # fmt: skip
KEYS = (
    {"w": 0, "s": 1}, {("w", " "): 2, (): 1}, {119: 0, (1073741906, 32): 2}, {"": 0}, {None: 0},
    {"w": None}, {"w": 99}, {"+": 1}, [], None, {(): 9}, {"\x1b": 1}, {-5: 1}, {2**40: 1},
)  # fmt: skip
METADATA = (
    {"render_modes": ["rgb_array"], "render_fps": 10},
    {"render_modes": ["rgb_array"], "render_fps": 0},
    {"render_modes": ["rgb_array"], "render_fps": -5},
    {"render_modes": ["rgb_array"], "render_fps": "fast"},
    {"render_modes": [], "action_meanings": ["A", "B", "C"]},
    {"render_modes": None},
    {"render_modes": "rgb_array", "scripted_policy": 7},
    {"scripted_policy": "nowhere:play"},
    {},
)


def strange_game(rng: random.Random) -> type[gymnasium.Env[Any, Any]]:
    """A class that mixes what a game should have with what it should not."""

    def often(values: tuple[Any, ...]) -> Any:
        return values[0] if rng.random() < 0.6 else rng.choice(values)

    reward, picture = often(REWARDS), often(PICTURES)
    space = often(OBSERVATIONS)
    begun = often(((), ("info",), ("nothing",)))
    length = often((5, 4, 6, 0))

    class Strange(gymnasium.Env[Any, Any]):
        metadata = often(METADATA)
        observation_space = space
        action_space = often(ACTIONS)

        def __init__(self, render_mode: Any = None) -> None:
            self.render_mode = render_mode

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            observation = self._look()
            return {(): (observation, {}), ("info",): (observation, 3)}.get(begun, observation)

        def step(self, action: Any) -> Any:
            return (self._look(), reward, False, False, {}, None)[:length]

        def render(self) -> Any:
            return picture

        def _look(self) -> Any:
            if space is None:
                return None
            space.seed(0)
            return space.sample()

    if rng.random() < 0.5:
        meanings = rng.choice(MEANINGS)
        Strange.get_action_meanings = lambda self: meanings  # type: ignore[attr-defined]
    if rng.random() < 0.5:
        keys = rng.choice(KEYS)
        Strange.get_keys_to_action = lambda self: keys  # type: ignore[attr-defined]
    return Strange


@pytest.fixture
def _forget() -> Iterator[None]:
    yield
    gymnasium.registry.pop(ID, None)


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_strange_game_is_described_and_made_or_a_sentence(seed: int) -> None:
    rng = random.Random(1000 + seed)
    made = 0
    for _ in range(CASES):
        gymnasium.registry.pop(ID, None)
        gymnasium.register(ID, strange_game(rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Gymnasium says of metadata that is no good
            try:
                config = describe_game(ID)
            except ValueError as error:
                assert "\n" not in str(error), error  # noqa: PT017
                continue
            made += 1
            assert GameConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
            env = make_game(config)
            frame, _ = env.reset(seed=0)
            assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
            for action in {0, config.noop_action, config.num_actions - 1}:
                frame, *_ = env.step(action)
                assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
            env.close()
    assert 0 < made < CASES
