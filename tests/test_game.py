"""Games described and made: real environments, and each way in which one cannot be recorded."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game, make_game
from worldsim.game.keys import action_from_keys
from worldsim.game.policy import load_policy


class Dark(gymnasium.Env[np.ndarray, int]):
    """A game that shows nothing, with actions 5 … 7."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, size: int = 0) -> None:
        self.render_mode = render_mode
        shape = (size, size) if size else (2,)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(3, start=5)
        self.last_action = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.ticks = 0
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.last_action = action
        self.ticks += 1
        frame = np.full(self.observation_space.shape, self.ticks, np.uint8)
        return frame, 1.0, self.ticks == 10, False, {}


@pytest.fixture(autouse=True)
def _dark() -> None:
    if "Dark-v0" not in gymnasium.registry:
        gymnasium.register("Dark-v0", entry_point=Dark)


@pytest.mark.parametrize(
    ("env_id", "package", "fps", "keys"),
    [
        ("worldsim/Pong-v0", "worldsim", 15, {"up": 1, "down": 2}),
        ("ALE/Breakout-v5", "ale_py", 15, {"space": 1, "right": 2, "left": 3}),
        ("VizdoomBasic-v1", "vizdoom", 35, {"space": 1, "right": 2, "left": 3}),
        (
            "MiniGrid-DoorKey-8x8-v0",
            "minigrid",
            10,
            {"left": 0, "right": 1, "up": 2, "p": 3, "d": 4, "space": 5},
        ),
        ("CarRacing-v3", "Box2D", 50, {"right": 1, "left": 2, "up": 3, "down": 4}),
    ],
)
def test_real_games_become_frames_and_numbered_actions(
    env_id: str, package: str, fps: float, keys: dict[str, int]
) -> None:
    pytest.importorskip(package)
    config = describe_game(env_id, frame_size=(48, 64))
    assert config.fps == fps
    assert config.key_bindings == keys
    assert GameConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    env = make_game(config)
    try:
        frame, _ = env.reset(seed=3)
        assert env.observation_space == spaces.Box(0, 255, (48, 64, 3), np.uint8)
        assert env.action_space == spaces.Discrete(config.num_actions)
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        assert frame.std() > 5  # a picture
        for action in range(config.num_actions):
            frame, *_ = env.step(action)
        assert frame.shape == (48, 64, 3)
    finally:
        env.close()


def test_frame_skip_is_the_games_own_and_sets_the_pace() -> None:
    pytest.importorskip("ale_py")
    for skip, fps in ((None, 15), (1, 60), (2, 30)):
        config = describe_game("ALE/Pong-v5", frame_skip=skip)
        assert config.fps == fps
        env = make_game(config)
        _, info = env.reset(seed=0)
        begun = info["frame_number"]
        _, _, _, _, info = env.step(0)
        assert info["frame_number"] - begun == (skip or 4)
        env.close()


def test_frame_skip_of_other_games_repeats_the_action_and_adds_rewards() -> None:
    config = describe_game("Dark-v0", frame_skip=4, channels=1, env_kwargs={"size": 32})
    env = make_game(config)
    env.reset(seed=0)
    frame, reward, *_ = env.step(0)
    assert (frame.max(), reward) == (4, 4.0)
    env.step(0)
    frame, reward, terminated, *_ = env.step(0)
    assert (frame.max(), reward, terminated) == (10, 2.0, True)


def test_actions_begin_at_0_whatever_the_game_calls_them() -> None:
    config = describe_game("Dark-v0", env_kwargs={"size": 40})
    env = make_game(config)
    env.reset(seed=0)
    env.step(2)
    assert env.unwrapped.last_action == 7  # type: ignore[attr-defined]


def test_grey_and_colour_are_made_of_each_other() -> None:
    grey = make_game(describe_game("worldsim/Pong-v0", channels=1, frame_size=(32, 32)))
    assert grey.reset(seed=0)[0].shape == (32, 32, 1)
    colour = make_game(describe_game("Dark-v0", env_kwargs={"size": 64}))
    assert colour.reset(seed=0)[0].shape == (64, 64, 3)


def test_doom_ends_on_its_last_screen_and_a_timeout_is_no_end() -> None:
    pytest.importorskip("vizdoom")
    env = make_game(describe_game("VizdoomBasic-v1", frame_skip=10))
    before, _ = env.reset(seed=0)
    terminated = truncated = False
    while not (terminated or truncated):
        frame, _, terminated, truncated, _ = env.step(0)
        assert frame.std() > 5, "a black frame"
        before = frame
    assert (terminated, truncated) == (False, True)
    assert before.std() > 5
    env.close()


@pytest.mark.parametrize(
    ("env_id", "arguments", "sentence"),
    [
        ("Nonsense-v0", {}, "there is no environment Nonsense-v0"),
        ("worldsim/Pnog-v0", {}, "Did you mean: `Pong`"),
        ("no_such_module:Game-v0", {}, "no_such_module"),
        ("MountainCarContinuous-v0", {}, "only Discrete actions can be recorded"),
        ("Dark-v0", {}, "has no images"),
        ("worldsim/Pong-v0", {"env_kwargs": {"gravity": 1}}, "gravity"),
        ("worldsim/Pong-v0", {"channels": 2}, "channels must be one of 1, 3"),
        ("worldsim/Pong-v0", {"frame_size": (4, 64)}, "frame_size must be a whole number from 8"),
        (
            "worldsim/Pong-v0",
            {"frame_skip": 0},
            "must be a whole number from 1 to 1,000, got 0",
        ),
    ],
)
def test_what_cannot_be_recorded_is_one_sentence(
    env_id: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        describe_game(env_id, **arguments)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(ValueError, match="ALE/Pong-v5 needs another package: pip install ale-py"):
        describe_game("ALE/Pong-v5")


def test_a_game_that_has_changed_is_refused() -> None:
    config = GameConfig("worldsim/Pong-v0", action_meanings=("NOOP", "UP"))
    with pytest.raises(ValueError, match="2 actions were described"):
        make_game(config)


def test_the_largest_combination_of_keys_wins() -> None:
    config = GameConfig(
        "Game-v0",
        action_meanings=("NOOP", "UP", "FIRE", "UPFIRE"),
        key_bindings={"up": 1, "space": 2, "up+space": 3},
    )
    assert action_from_keys({"space", "up"}, config) == 3
    assert action_from_keys({"up", "q"}, config) == 1
    assert action_from_keys({"q"}, config) == 0


def test_every_action_of_a_large_joystick_has_its_keys() -> None:
    pytest.importorskip("ale_py")
    config = describe_game("ALE/Boxing-v5")
    assert config.num_actions == 18
    assert config.key_bindings["down+left+space"] == config.action_meanings.index("DOWNLEFTFIRE")
    assert set(config.key_bindings.values()) == set(range(1, 18))


def test_up_and_down_move_the_paddle_of_ales_pong() -> None:
    pytest.importorskip("ale_py")
    config = describe_game("ALE/Pong-v5", env_kwargs={"repeat_action_probability": 0.0})
    rows = {}
    for key in ("up", "down"):
        env = make_game(config)
        env.reset(seed=0)
        for _ in range(40):
            frame, *_ = env.step(action_from_keys({key}, config))
        court = frame[12:58, 54:62].astype(int)
        rows[key] = np.argmax(np.abs(court - np.median(court, axis=(0, 1))).sum((1, 2)))
        env.close()
    assert rows["up"] < rows["down"] - 10


def test_policies_draw_only_from_the_generator() -> None:
    config = describe_game("worldsim/Pong-v0")
    frame = np.zeros((64, 64, 3), np.uint8)
    for name in ("random", "sticky"):
        plays = []
        for _ in range(2):
            policy, rng = load_policy(name, config), np.random.default_rng(5)
            plays.append([policy(frame, {}, rng) for _ in range(300)])
        assert plays[0] == plays[1]
        assert set(plays[0]) == {0, 1, 2}
        changes = np.count_nonzero(np.diff(plays[0]))
        assert changes > 150 if name == "random" else 5 < changes < 60


def test_a_games_own_policy_plays_it() -> None:
    config = describe_game("worldsim/Pong-v0")
    policy, rng = load_policy("scripted", config), np.random.default_rng(0)
    env = make_game(config)
    frame, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        frame, reward, terminated, truncated, info = env.step(policy(frame, info, rng))
        total += float(reward)
        over = terminated or truncated
    assert total > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("scripted", "has no scripted policy"),
        ("clever", r"a policy is random, .* or module:function, got 'clever'"),
        ("no_such_module:play", "cannot import no_such_module"),
        ("math:play", "math has no play"),
        ("math:pi", "cannot be called"),
    ],
)
def test_a_policy_that_is_not_there_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_policy(name, GameConfig("CartPole-v1", action_meanings=("LEFT", "RIGHT")))
