"""The description of a game, as files of strangers have it: each wrong value is one sentence."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from worldsim.game.config import GameConfig

VALUES = GameConfig(
    env_id="ALE/Pong-v5",
    env_kwargs={"frameskip": [2, 5], "continuous": False, "mode": None, "difficulty": 1.5},
    frame_size=(48, 64),
    frame_skip=2,
    fps=15,
    action_meanings=("NOOP", "UP"),
    key_bindings={"left shift+up": 1},
    scripted_policy="worldsim.envs.pong:play",
).to_dict()


def test_a_description_survives_json() -> None:
    config = GameConfig.from_dict(json.loads(json.dumps(VALUES)))
    assert config.to_dict() == VALUES
    assert GameConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env_id", ""),
        ("env_id", 5),
        ("env_id", "Pong\x1b[2J-v0"),
        ("env_id", "Pong\u202e-v0"),
        ("env_id", "x" * 201),
        ("env_kwargs", []),
        ("env_kwargs", {"a b": 1}),
        ("env_kwargs", {"a": math.nan}),
        ("env_kwargs", {"a": {"b": "\x07"}}),
        ("env_kwargs", {"a": b"bytes"}),
        ("env_kwargs", {"a": 2**70}),
        ("frame_size", [64]),
        ("frame_size", [4, 64]),
        ("frame_size", [64.0, 64]),
        ("frame_size", [5000, 64]),
        ("frame_size", "64"),
        ("frame_size", None),
        ("channels", 2),
        ("channels", True),
        ("channels", "3"),
        ("frame_skip", 0),
        ("frame_skip", 10**9),
        ("frame_skip", True),
        ("fps", "x"),
        ("fps", 0),
        ("fps", -1),
        ("fps", math.nan),
        ("fps", math.inf),
        ("fps", 1e-300),
        ("fps", True),
        ("action_meanings", []),
        ("action_meanings", "UP"),
        ("action_meanings", 2),
        ("action_meanings", ["UP", 2]),
        ("action_meanings", ["UP", ""]),
        ("action_meanings", ["UP", "\x1b[31m"]),
        ("action_meanings", ["A"] * 70_000),
        ("key_bindings", {"up": 2}),
        ("key_bindings", {"up": -1}),
        ("key_bindings", {"up": "1"}),
        ("key_bindings", {"": 1}),
        ("key_bindings", {"up+": 1}),
        ("key_bindings", {"\n": 1}),
        ("key_bindings", [["up", 1]]),
        ("noop_action", 2),
        ("noop_action", -1),
        ("noop_action", None),
        ("noop_action", 0.0),
        ("scripted_policy", 3),
        ("scripted_policy", "a\nb"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key} must be .*, got ") as caught:
        GameConfig.from_dict({**VALUES, key: value})
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


def test_numbers_of_numpy_become_those_of_json() -> None:
    config = GameConfig.from_dict(
        {**VALUES, "frame_size": tuple(np.array([48, 64])), "frame_skip": np.int64(2)}
    )
    assert json.loads(json.dumps(config.to_dict())) == VALUES


@pytest.mark.parametrize("values", [None, [], "game", 3, [["env_id", "Pong-v0"]]])
def test_what_is_no_object_is_named(values: Any) -> None:
    with pytest.raises(ValueError, match="a game must be a JSON object, got"):
        GameConfig.from_dict(values)


def test_keys_that_are_missing_or_unknown_are_named() -> None:
    for key in VALUES:
        with pytest.raises(ValueError, match=f"a game must have {key}, got"):
            GameConfig.from_dict({name: VALUES[name] for name in VALUES if name != key})
    with pytest.raises(ValueError, match=r"a game has no 'colour\\x1b', it has env_id, "):
        GameConfig.from_dict({**VALUES, "colour\x1b": 3})
