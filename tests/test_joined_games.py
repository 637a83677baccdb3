"""Several games as one: actions by what they mean."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_pictures import write_pictures
from tests.tiny_worlds import make_tiny_game, write_tiny_recording
from worldsim.data.opening import open_recordings, read_games
from worldsim.data.recording import Recording
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game, find_script, make_game
from worldsim.game.joined import join_games
from worldsim.game.keys import NOOP_WORDS

names = st.sampled_from(["NOOP", "noop", "Stay", "UP", "up", "LEFT", "ACTION_0", "ß" * 200])
games = st.lists(names, min_size=1, max_size=6).flatmap(
    lambda words: st.builds(
        make_tiny_game,
        env_id=st.sampled_from(["tests/A-v0", "module:tests/B-v1", "tests/" + "C" * 190]),
        action_meanings=st.just(tuple(words)),
        noop_action=st.integers(0, len(words) - 1),
        key_bindings=st.dictionaries(
            st.sampled_from(["up", "left", "space"]), st.integers(0, len(words) - 1)
        ),
    )
)


@given(st.lists(games, min_size=1, max_size=4))
def test_joining_keeps_every_action_apart_and_its_meaning(several: list[GameConfig]) -> None:
    joint, tables = join_games(several)
    assert GameConfig.from_dict(joint.to_dict()) == joint
    for game, table in zip(several, tables, strict=True):
        assert table.dtype == np.int64
        assert table[-1] == joint.num_actions, "unknown stays unknown"
        assert len(set(table.tolist())) == game.num_actions + 1, "no two actions become one"
        noop = game.noop_action
        for action, name in enumerate(game.action_meanings):
            joint_name = joint.action_meanings[table[action]].upper()
            if action == noop and name.upper() in NOOP_WORDS:
                assert table[action] == joint.noop_action
            else:
                assert joint_name.startswith(name.upper()[:100])
    assert set(joint.key_bindings) == {keys for game in several for keys in game.key_bindings}
    for keys, action in joint.key_bindings.items():
        owner = next(i for i, game in enumerate(several) if keys in game.key_bindings)
        assert action == tables[owner][several[owner].key_bindings[keys]], "the first game wins"


def test_the_union_is_in_the_order_of_first_appearance() -> None:
    one = make_tiny_game(
        env_id="my:tests/A-v0", action_meanings=("Up", "Stay", "Down"), noop_action=1,
        key_bindings={"up": 0, "down": 2}, env_kwargs={"level": 2}, fps=20.0,
    )  # fmt: skip
    two = make_tiny_game(
        env_id="tests/B-v0", action_meanings=("NOOP", "JUMP", "UP", "UP"), frame_size=(8, 32),
        key_bindings={"up": 1, "space": 1, "down+up": 3}, frame_skip=4, scripted_policy="a:b",
    )  # fmt: skip
    joint, tables = join_games([one, two])
    assert joint == GameConfig(
        env_id="tests/A-v0+tests/B-v0",
        frame_size=(16, 16),
        fps=20.0,
        action_meanings=("NOOP", "UP", "DOWN", "JUMP", "UP 2"),
        key_bindings={"up": 1, "down": 2, "space": 3, "down+up": 4},
        noop_action=0,
    )
    assert [table.tolist() for table in tables] == [[1, 0, 2, 5], [0, 3, 1, 4, 5]]


def test_equal_games_stay_as_they_are() -> None:
    game = make_tiny_game(action_meanings=("Left", "Noop", "right"), noop_action=1, frame_skip=3)
    sizes = [dataclasses.replace(game, frame_size=(side, side)) for side in (48, 64, 96)]
    for given_games in ([game], sizes):
        joint, tables = join_games(given_games)
        assert joint == given_games[0]
        assert all(table.tolist() == [0, 1, 2, 3] for table in tables)


def test_an_action_that_does_something_is_no_noop() -> None:
    cart = make_tiny_game(env_id="tests/Cart-v0", action_meanings=("LEFT", "RIGHT"))
    joint, tables = join_games([cart, make_tiny_game()])
    assert joint.action_meanings == ("NOOP", "LEFT", "RIGHT")
    assert [table.tolist() for table in tables] == [[1, 2, 3], [0, 1, 2, 3]]
    joint, _ = join_games([cart, dataclasses.replace(cart, action_meanings=("RIGHT", "LEFT"))])
    assert (joint.action_meanings, joint.noop_action) == (("LEFT", "RIGHT"), 0)


def test_colour_and_grey_do_not_join() -> None:
    with pytest.raises(ValueError, match=r"Square-v0 with 3, tests/Square-v0 with 1 channels"):
        join_games([make_tiny_game(), make_tiny_game(channels=1)])
    many = tuple(f"A{number}" for number in range(40_000))
    more = tuple(f"B{number}" for number in range(40_000))
    with pytest.raises(ValueError, match=r"80,000 actions together, and a world at most 65,536"):
        join_games([make_tiny_game(action_meanings=words) for words in (many, more)])


def test_there_is_no_real_game_of_several() -> None:
    pong, maze = (describe_game(f"worldsim/{name}-v0") for name in ("Pong", "Maze"))
    joint, _ = join_games([pong, maze])
    sentence = (
        r"^worldsim/Pong-v0\+worldsim/Maze-v0 is several games .*: name one of them, such as "
        "worldsim/Pong-v0$"
    )
    for call in (
        lambda: make_game(joint),
        lambda: make_game(joint, trust_code=True),
        lambda: describe_game(joint.env_id),
        lambda: find_script(joint.env_id),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_recordings_of_several_games_are_read_as_those_of_one(tmp_path: Path) -> None:
    one = write_tiny_recording(tmp_path / "one", steps=9, episodes=2)
    other = make_tiny_game(
        env_id="tests/Other-v0", action_meanings=("RIGHT", "NOOP", "FIRE"), noop_action=1,
        frame_size=(24, 16),
    )  # fmt: skip
    two = write_tiny_recording(tmp_path / "two", steps=9, episodes=2, game=other)
    write_pictures(tmp_path / "stills")
    paths = [tmp_path / name for name in ("stills", "one", "two")]
    stills, joint_one, joint_two = open_recordings(paths)
    assert stills.game == joint_one.game
    assert joint_one.game.action_meanings == ("NOOP", "LEFT", "RIGHT", "FIRE")
    assert joint_two.game == dataclasses.replace(joint_one.game, frame_size=(24, 16))

    windows = two.windows([0, 1], [-2, 3], 8)
    joint_two = pickle.loads(pickle.dumps(joint_two))
    joint_windows = joint_two.windows([0, 1], [-2, 3], 8)
    table = np.array([2, 0, 3, 4])
    np.testing.assert_array_equal(joint_windows.actions, table[windows.actions])
    assert (joint_windows.actions[0, :2] == 0).all(), "padding too"
    np.testing.assert_array_equal(joint_windows.frames, windows.frames)
    assert isinstance(joint_two, Recording)
    np.testing.assert_array_equal(joint_two.episode(1).actions, table[two.episode(1).actions])
    assert joint_two.fingerprint(1) == two.fingerprint(1)
    assert (stills.windows([0], [-2], 3).actions == 4).all()
    np.testing.assert_array_equal(joint_one.episode(0).actions, one.episode(0).actions)
    assert open_recordings([tmp_path / "two"])[0].game == other

    grey = make_tiny_game(channels=1)
    write_tiny_recording(tmp_path / "grey", steps=3, episodes=2, game=grey)
    with pytest.raises(ValueError, match="record them alike"):
        read_games([*paths, tmp_path / "grey"])
