"""Games that people bring: in the current folder, numbered their own way, strange or broken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.data.recording import Recording
from worldsim.envs.record import main as record
from worldsim.game.describe import describe_game, make_game
from worldsim.game.keys import action_from_keys
from worldsim.game.policy import load_policy

ID = "strange/Game-v0"
SCREEN = spaces.Box(0, 255, (32, 40, 3), np.uint8)


class Game(gymnasium.Env[Any, Any]):
    """A screen that shows the last action, which is one of 1 … 3."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space: spaces.Space[Any] = SCREEN
    action_space: spaces.Space[Any] = spaces.Discrete(3, start=1)
    last_action = 0
    reward: Any = 0.5
    picture: Any = np.full((32, 40, 3), 99, np.uint8)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.look(), {}

    def step(self, action: Any) -> Any:
        assert 1 <= action <= 3, f"no action {action}"
        self.last_action = action
        return self.look(), self.reward, False, False, {}

    def render(self) -> Any:
        return self.picture

    def look(self) -> Any:
        space: Any = self.observation_space
        return np.full(space.shape, self.last_action, space.dtype)


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    def register(game: Any, **members: Any) -> None:
        gymnasium.registry.pop(ID, None)
        gymnasium.register(ID, type("Game", (game,), members) if members else game)

    yield register
    gymnasium.registry.pop(ID, None)


# --- where games are ---


def test_a_game_and_a_policy_in_the_current_folder_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mygames.py").write_text(
        "import gymnasium\nfrom worldsim.envs.pong import Pong\n"
        "gymnasium.register('my/Base-v0', entry_point='mygames:Base')\n"
        "class Base(Pong):\n    pass\n"
        "def up(observation, info, rng):\n    return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    arguments = ["mygames:my/Base-v0", "--steps", "12", "--max-episode-steps", "12"]
    try:
        assert record([*arguments, "--policy", "mygames:up", "--workers", "1", "--out", "R"]) == 0
    finally:
        sys.modules.pop("mygames", None)
        gymnasium.registry.pop("my/Base-v0", None)
    recording = Recording("R")
    assert recording.game.env_id == "mygames:my/Base-v0"
    assert recording.episode(0).actions.tolist() == [1] * 12


# --- how actions are numbered and named ---


@pytest.mark.parametrize("words", [False, True])
def test_keys_and_idling_give_a_game_that_counts_from_1_its_own_actions(
    register: Callable[..., None], words: bool
) -> None:
    members: dict[str, Any] = {
        "get_keys_to_action": lambda self: {"": 1, "q": 2, ("q", "w"): 3, "x": 4, (): 1}
    }
    if words:
        members["get_action_meanings"] = lambda self: ["NOOP", "SHRINK", "GROW"]
    register(Game, **members)
    config = describe_game(ID)
    assert (config.noop_action, config.key_bindings.get("q+w")) == (0, 2)
    env = make_game(config)
    env.reset(seed=0)
    for held, action in ((set(), 1), ({"q"}, 2), ({"q", "w"}, 3)):
        env.step(action_from_keys(held, config))
        assert env.unwrapped.last_action == action  # type: ignore[attr-defined]


def test_keys_are_read_as_gymnasium_writes_them(register: Callable[..., None]) -> None:
    keys = {"wa": 1, "left shift": 2, ("W", " "): 3, (1073741906, ord("e")): 1, "+": 2, 7: 3}
    register(Game, get_keys_to_action=lambda self: keys)
    assert describe_game(ID).key_bindings == {"w+a": 0, "left shift": 1, "w+space": 2, "up+e": 0}


class Moves(Enum):
    STAY = 1
    UP = 2
    DOWN = 3


class Numbered(IntEnum):
    STAY = 1
    UP = 2
    DOWN = 3


@pytest.mark.parametrize(
    "meanings",
    [
        Moves,
        Numbered,
        list(Moves),
        tuple(Numbered),
        {1: "STAY", 3: "DOWN", 2: "UP"},
        {"STAY": 1, "UP": 2, "DOWN": 3},
        {Moves.STAY: "STAY", Moves.UP: "UP", Moves.DOWN: "DOWN"},
        {np.int64(1): "STAY", np.int64(2): "UP", np.int64(3): "DOWN"},
    ],
)
def test_meanings_of_actions_are_read_in_every_form(
    register: Callable[..., None], meanings: Any
) -> None:
    register(Game, get_action_meanings=lambda self: meanings)
    config = describe_game(ID)
    assert config.action_meanings == ("STAY", "UP", "DOWN")
    assert (config.noop_action, config.key_bindings) == (0, {"up": 1, "down": 2})


@pytest.mark.parametrize(
    "meanings", [["A"], {0: "A", 1: "B", 2: "C"}, ["A", "", "C"], ["\x1b[2J"] * 3, None, 5]
)
def test_meanings_that_do_not_fit_the_actions_are_left_out(
    register: Callable[..., None], meanings: Any
) -> None:
    register(Game, get_action_meanings=lambda self: meanings)
    assert describe_game(ID).action_meanings == ("ACTION_0", "ACTION_1", "ACTION_2")


# --- what games show ---


class WithoutMode(Game):
    def __init__(self) -> None:
        super().__init__()


def make_with_any_settings(**settings: Any) -> gymnasium.Env[Any, Any]:
    return WithoutMode(**settings)


@pytest.mark.parametrize("creator", [WithoutMode, lambda: Game(), make_with_any_settings])
def test_a_game_that_takes_no_render_mode_shows_its_observations(
    register: Callable[..., None], creator: Any
) -> None:
    register(creator)
    frame, _ = make_game(describe_game(ID)).reset(seed=0)
    assert frame.shape == (64, 64, 3)


def test_codes_in_the_shape_of_an_image_are_rendered(register: Callable[..., None]) -> None:
    register(Game, observation_space=spaces.Box(0, 4, (32, 40), np.uint8))
    env = make_game(describe_game(ID))
    frame, _ = env.reset(seed=0)
    assert (frame == 99).all()
    frame, *_ = env.step(1)
    assert (frame == 99).all()


def test_codes_that_are_not_rendered_are_reported(register: Callable[..., None]) -> None:
    codes = spaces.Box(0, 4, (32, 40), np.uint8)
    register(Game, observation_space=codes, metadata={"render_modes": []})
    with pytest.raises(ValueError, match=r"codes of at most 4, not colours"):
        describe_game(ID)


def test_alpha_of_what_is_rendered_is_left_out(register: Callable[..., None]) -> None:
    picture = np.arange(32 * 40 * 4, dtype=np.uint8).reshape(32, 40, 4)
    register(Game, observation_space=spaces.Discrete(2), look=lambda self: 0, picture=picture)
    env = make_game(describe_game(ID, frame_size=(32, 40)))
    np.testing.assert_array_equal(env.reset(seed=0)[0], picture[..., :3])


def test_stacked_frames_or_rgba_observations_are_reported(register: Callable[..., None]) -> None:
    stacked = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    register(Game, observation_space=stacked, metadata={"render_modes": []})
    with pytest.raises(ValueError, match="RGBA or stacked frames, of 4 channels"):
        describe_game(ID)


# --- what is said before the first episode ---


def old_reset(self: Game) -> Any:
    return self.look(), {}


def reset_to_observation(self: Game, *, seed: Any = None, options: Any = None) -> Any:
    return self.look()


def old_step(self: Game, action: Any) -> Any:
    return self.look(), 0.5, False, {}


def step_with_flags(self: Game, action: Any) -> Any:
    return self.look(), 0.5, np.array([False]), False, {}


def raise_error(self: Game, *arguments: Any, **settings: Any) -> Any:
    raise KeyError("lives")


RENDERED: dict[str, Any] = {"observation_space": spaces.Discrete(9)}


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"reset": old_reset}, r"reset\(seed=0\) must give \(observation, info\), and it raises"),
        ({"reset": reset_to_observation}, r"reset\(seed=0\) must give .*, and it gives ndarray"),
        ({"step": old_step}, r"step\(1\) must give .*truncated, info\), and it gives 4 values"),
        ({"step": step_with_flags}, r"must give terminated as True or False, got array\("),
        ({"step": raise_error}, r"step\(1\) must give .*, and it raises KeyError: 'lives'"),
        ({"reward": np.array([0.5])}, r"rewards that are single numbers, got .* of shape \(1,\)"),
        ({"reward": "many"}, "rewards that are single numbers, got 'many'"),
        ({"reward": None}, "rewards that are single numbers, got None"),
        ({**RENDERED, "picture": None}, r"must render images, .* its render\(\) gives NoneType"),
        ({**RENDERED, "picture": [SCREEN.sample()]}, r"its render\(\) gives list"),
        ({**RENDERED, "picture": np.zeros((8, 8, 3))}, r"gives float64 \(8, 8, 3\)"),
        ({**RENDERED, "picture": np.zeros((8, 8, 2), np.uint8)}, r"gives uint8 \(8, 8, 2\)"),
        ({**RENDERED, "picture": np.zeros((0, 8, 3), np.uint8)}, r"gives uint8 \(0, 8, 3\)"),
        ({**RENDERED, "render": raise_error}, "fails .KeyError: 'lives'"),
        ({"look": lambda self: np.zeros((9, 9, 3), np.uint8)}, r"gives uint8 \(9, 9, 3\)"),
        ({"look": lambda self: np.zeros((32, 40, 3))}, r"gives float64 \(32, 40, 3\)"),
        ({"get_action_meanings": raise_error}, "fails .KeyError: 'lives'"),
        ({"get_keys_to_action": lambda self: ["up"]}, "fails .AttributeError"),
        ({"__init__": raise_error}, "fails .KeyError: 'lives'"),
        ({"action_space": spaces.Discrete(10**9)}, "1000000000 actions, and at most 65,536"),
        ({"action_space": spaces.MultiBinary(2)}, "only Discrete actions can be recorded"),
        ({"metadata": {**Game.metadata, "render_fps": float("nan")}}, "fps must be"),
        ({"metadata": {**Game.metadata, "render_fps": "x"}}, "fps must be .*, got 'x'"),
    ],
)
def test_games_that_cannot_be_recorded_are_reported_before_the_first_episode(
    register: Callable[..., None], members: dict[str, Any], sentence: str
) -> None:
    register(Game, **members)
    with pytest.raises(ValueError, match=sentence) as caught:
        describe_game(ID)
    assert str(caught.value).count("\n") == 0


def test_a_frame_that_changes_its_size_is_reported(register: Callable[..., None]) -> None:
    sizes = iter([32, 32, 33, 34])
    register(Game, **RENDERED, render=lambda self: np.zeros((next(sizes), 40, 3), np.uint8))
    env = make_game(describe_game(ID))
    with pytest.raises(ValueError, match=r"uint8 \(32, 40, 3\), and its .* uint8 \(33, 40, 3\)"):
        env.reset(seed=0)


def test_looking_at_a_game_leaves_its_episodes_as_they_are() -> None:
    before = make_game(describe_game("worldsim/Balls-v0"))
    frames = [before.reset(seed=3)[0], *(before.step(1)[0] for _ in range(5))]
    config = describe_game("worldsim/Balls-v0")
    after = make_game(config)
    again = [after.reset(seed=3)[0], *(after.step(1)[0] for _ in range(5))]
    np.testing.assert_array_equal(frames, again)


# --- settings and players ---


def test_a_list_is_a_range_of_frames_to_skip_in_ale() -> None:
    pytest.importorskip("ale_py")
    config = describe_game("ALE/Pong-v5", env_kwargs={"frameskip": (2, 5)})
    assert config.env_kwargs == {"frameskip": [2, 5]}
    assert config.fps == 60 / 3  # 2, 3 or 4 frames
    env = make_game(config)
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    env.close()


@pytest.mark.parametrize("action", [3, -1, 1.5, "up", None])
def test_a_policy_that_gives_an_invalid_action_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Any
) -> None:
    (tmp_path / "wild_player.py").write_text(f"def play(*arguments):\n    return {action!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wild_player", raising=False)
    policy = load_policy("wild_player:play", describe_game("worldsim/Pong-v0"))
    with pytest.raises(ValueError, match=rf"must return an action 0 … 2, got {action!r}"):
        policy(np.zeros((64, 64, 3), np.uint8), {}, np.random.default_rng(0))


def test_a_function_that_takes_other_arguments_is_not_a_policy() -> None:
    with pytest.raises(ValueError, match=r"'json:loads' .* called with \(observation, info, rng\)"):
        load_policy("json:loads", describe_game("worldsim/Pong-v0"))


def test_a_policy_that_raises_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rude_players.py").write_text(
        "class Needy:\n    def __init__(self, size): ...\n    def __call__(self, o, i, r): ...\n"
        "def lost(observation, info, rng): return info['map']\n"
        "def endless(observation, info, rng): return float('inf')\n"
        "def many(observation, info, rng): return observation[:2, 0, 0]\n"
    )
    game = describe_game("worldsim/Pong-v0")
    with pytest.raises(ValueError, match=r"'rude_players:Needy' raised TypeError\(.*when it was"):
        load_policy("rude_players:Needy", game)
    for name, sentence in (
        ("lost", r"policy 'rude_players:lost' raised KeyError\('map'\)"),
        ("endless", "policy 'rude_players:endless' must return an action 0 … 2, got inf"),
        ("many", r"policy 'rude_players:many' must return an action 0 … 2, got array\("),
    ):
        policy = load_policy(f"rude_players:{name}", game)
        with pytest.raises(ValueError, match=sentence):
            policy(np.zeros((64, 64, 3), np.uint8), {}, np.random.default_rng(0))
