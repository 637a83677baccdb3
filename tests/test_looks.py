"""Looks of the bundled games: the usual game, draws from a seed, words, and readers of frames."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim.data.recording import Recording
from worldsim.envs import balls, pong
from worldsim.envs.look_readers import (
    GAMES,
    READERS,
    count_balls,
    is_night,
    read_player_colour,
    read_pong_colour,
)
from worldsim.envs.record import main
from worldsim.registration import register_envs

register_envs()

BALLS, PONG, MAZE = "worldsim/Balls-v0", "worldsim/Pong-v0", "worldsim/Maze-v0"
HELD_OUT = [{"ball_colour": "red", "num_balls": 3}, {"ball_colour": "blue", "night": False}]
every_game = pytest.mark.parametrize("env_id", GAMES)


def make(env_id: str, **kwargs: Any) -> gymnasium.Env[np.ndarray, np.int64]:
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def look_of(env_id: str, info: dict[str, Any]) -> dict[str, Any]:
    return GAMES[env_id].captions()[info["caption"]]


def looks_drawn(env_id: str, num: int, **kwargs: Any) -> list[dict[str, Any]]:
    env = make(env_id, **kwargs)
    return [look_of(env_id, env.reset(seed=seed)[1]) for seed in range(num)]


def matches(look: dict[str, Any]) -> bool:
    return any(entry.items() <= look.items() for entry in HELD_OUT)


class TestUsualGame:
    @pytest.mark.parametrize(
        ("env_id", "digest"), [(PONG, "1dd0cf7465629db8"), (MAZE, "586e6621ee2e57bd")]
    )
    def test_it_is_that_of_before_there_were_looks(self, env_id: str, digest: str) -> None:
        env, hashed = make(env_id), hashlib.blake2b(digest_size=8)
        for seed in (1, 2):
            rng = np.random.default_rng(seed)
            frame, info = env.reset(seed=seed)
            hashed.update(frame.tobytes())
            assert "caption" not in info
            for _ in range(200):
                action = int(rng.integers(env.action_space.n))
                frame, reward, terminated, truncated, info = env.step(action)
                hashed.update(frame.tobytes())
                hashed.update(np.float64(reward).tobytes())
                if terminated or truncated:
                    hashed.update(env.reset()[0].tobytes())
        assert hashed.hexdigest() == digest

    def test_balls_are_those_of_before_up_to_rounding(self) -> None:
        env = make(BALLS)
        frame, info = env.reset(seed=1)
        assert "caption" not in info
        np.testing.assert_allclose(info["positions"][4], [34.57887176, 7.43307389], atol=1e-6)
        np.testing.assert_allclose([frame.mean(), frame.std()], [50.851888, 50.955017], atol=0.01)
        for step in range(20):
            frame, *_, info = env.step(step % 5)
        np.testing.assert_allclose(info["positions"][4], [30.96500909, 17.83982539], atol=1e-6)
        np.testing.assert_allclose([frame.mean(), frame.std()], [50.833740, 51.048285], atol=0.01)

    @every_game
    def test_giving_the_usual_values_changes_nothing(self, env_id: str) -> None:
        given, (frame, info) = make(env_id, **GAMES[env_id].usual), make(env_id).reset(seed=5)
        same, about = given.reset(seed=5)
        np.testing.assert_array_equal(frame, same)
        assert info.keys() == about.keys()


class TestDraws:
    @every_game
    def test_gymnasium_checker_is_content(self, env_id: str) -> None:
        check_env(make(env_id, vary=[*GAMES[env_id].words], render_mode="rgb_array").unwrapped)

    @every_game
    def test_every_look_is_drawn_and_the_seed_decides(self, env_id: str) -> None:
        vary = [*GAMES[env_id].words]
        looks = looks_drawn(env_id, 600, vary=vary)
        counts = Counter(tuple(look.items()) for look in looks)
        num = int(np.prod([len(words) for words in GAMES[env_id].words.values()]))
        assert len(counts) == num
        assert max(counts.values()) < 3 * 600 / num
        assert looks_drawn(env_id, 20, vary=vary) == looks[:20]
        one, other = (make(env_id, vary=vary).reset(seed=3) for _ in range(2))
        np.testing.assert_array_equal(one[0], other[0])

    def test_what_is_not_varied_stays_and_is_told(self) -> None:
        looks = looks_drawn(BALLS, 40, num_balls=2, vary=["night"])
        assert {look["night"] for look in looks} == {True, False}
        assert {(look["num_balls"], look["ball_colour"]) for look in looks} == {(2, None)}
        assert make(PONG, ball_colour="red").reset()[1]["caption"] == "pong: a red ball, at night"
        assert make(MAZE, night=False).reset()[1]["caption"] == "maze: by day"

    def test_two_recordings_can_share_out_the_looks(self) -> None:
        vary = ["num_balls", "ball_colour", "night"]
        rest = looks_drawn(BALLS, 300, vary=vary, vary_except=HELD_OUT)
        held_out = looks_drawn(BALLS, 300, vary=vary, vary_only=HELD_OUT)
        assert not any(map(matches, rest))
        assert all(map(matches, held_out))
        assert len({tuple(look.items()) for look in held_out}) == 2 + 5
        assert {look["ball_colour"] for look in rest} == {*balls.LOOKS.words["ball_colour"]}
        both = looks_drawn(BALLS, 50, vary=vary, vary_only=HELD_OUT, vary_except=HELD_OUT[:1])
        assert {look["ball_colour"] for look in both} == {"blue"}

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"num_balls": 6}, "num_balls must be one of 1, 2, 3, 4, 5, got 6"),
            ({"num_balls": True}, "num_balls must be one of .* got True"),
            ({"ball_colour": "pink"}, "ball_colour must be one of 'red', .* None, got 'pink'"),
            ({"night": 1}, "night must be one of True, False, got 1"),
            ({"vary": "night"}, "vary must be a list of some of .* got 'night'"),
            ({"vary": ["gravity"]}, "vary must be a list of some of num_balls, ball_colour, night"),
            ({"vary": ["night", "night"]}, "each once"),
            ({"vary": ["night"], "night": False}, "night must not be given if vary has it"),
            ({"vary_only": [{"night": True}]}, r"vary_only must be .* where vary is \[\]"),
            ({"vary": ["night"], "vary_except": [{}]}, "vary_except must be a list of objects"),
            ({"vary": ["night"], "vary_except": {"night": True}}, "vary_except must be a list"),
            ({"vary": ["night"], "vary_only": [{"night": 2}]}, "night in vary_only must be one"),
            (
                {"vary": ["night"], "vary_except": [{"night": True}, {"night": False}]},
                "must leave one look or more",
            ),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            make(BALLS, **arguments)

    def test_the_scripted_player_of_pong_wins_in_any_look(self) -> None:
        env, rng = make(PONG, vary=["ball_colour", "night"]), np.random.default_rng(0)
        for seed in range(4):
            frame, info = env.reset(seed=seed)
            terminated = False
            while not terminated:
                frame, _, terminated, _, info = env.step(pong.play(frame, info, rng))
            assert info["player_score"] == pong.WINNING_SCORE


class TestWords:
    @every_game
    def test_each_look_has_its_own_caption_of_few_words(self, env_id: str) -> None:
        looks = GAMES[env_id]
        num = {BALLS: 5 * 7 * 2, PONG: 7 * 2, MAZE: 7 * 2}[env_id]
        assert len(looks.captions()) == num
        for caption, look in looks.captions().items():
            assert looks.caption(look) == caption
            assert caption.isprintable()

    def test_captions_are_as_the_documentation_shows(self) -> None:
        look = {"num_balls": 3, "ball_colour": "red", "night": True}
        assert balls.LOOKS.caption(look) == "balls: three balls, the player's is red, at night"
        look = {"num_balls": 5, "ball_colour": None, "night": False}
        assert balls.LOOKS.caption(look) == "balls: five balls, by day"

    def test_a_recording_tells_what_its_frames_show(self, tmp_path: Path) -> None:
        settings = [
            'vary=["num_balls","ball_colour","night"]',
            'vary_except=[{"num_balls":3,"ball_colour":"red"}]',
        ]
        arguments = [BALLS, "--steps", "300", "--max-episode-steps", "20", "--workers", "2"]
        out = str(tmp_path / "balls-v0")
        assert main([*arguments, "--out", out, "--env-kwargs", *settings]) == 0
        recording = Recording(out)
        captions = {recording.caption(index) for index in range(len(recording))}
        assert len(captions) > 5
        for index in range(len(recording)):
            look = look_of(BALLS, {"caption": recording.caption(index)})
            frames = recording.episode(index).frames
            read = {name: reader(frames) for name, reader in READERS[BALLS].items()}
            assert read == look


def shown(env_id: str, num: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Frames somewhere in episodes of random play, and their looks."""
    env, rng = make(env_id, vary=[*READERS[env_id]]), np.random.default_rng(0)
    for seed in range(num):
        frame, info = env.reset(seed=seed)
        for _ in range(int(rng.integers(80))):
            following, _, terminated, *_ = env.step(int(rng.integers(env.action_space.n)))
            if not terminated:
                frame = following
        yield frame, look_of(env_id, info)


def imperfect(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame as a learned world may imagine it: blurred, tinted and noisy."""
    blurred = cv2.GaussianBlur(frame, (0, 0), 0.8)
    noise = rng.normal(0, 8, 3) + rng.normal(0, 12, frame.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


class TestReaders:
    @every_game
    def test_they_read_real_and_imperfect_frames(self, env_id: str) -> None:
        right: Counter[tuple[str, str]] = Counter()
        rng, num = np.random.default_rng(1), 200
        for frame, look in shown(env_id, num):
            pictures = {
                "real": frame,
                "imperfect": imperfect(frame, rng),
                "small": cv2.resize(frame, (48, 48), interpolation=cv2.INTER_AREA),
            }
            for name, read in READERS[env_id].items():
                for kind, picture in pictures.items():
                    right[name, kind] += read(picture) == look[name]
        for (name, kind), count in right.items():
            least = {"real": 0.99, "small": 0.97, "imperfect": 0.95}[kind]
            assert count >= least * num, f"{name} of {kind} frames: {count} of {num}"

    def test_of_several_frames_the_most_frequent_answer_counts(self) -> None:
        env = make(BALLS, ball_colour="red", num_balls=2, night=False)
        frame, _ = env.reset(seed=0)
        bare = np.full_like(frame, frame[4, 4])
        assert (count_balls(bare), read_player_colour(bare)) == (0, None)
        clip = np.stack([bare, bare, frame, frame, frame])
        assert (count_balls(clip), read_player_colour(clip), is_night(clip)) == (2, "red", False)
        assert read_player_colour(clip[:3]) == "red", "a frame without a ball has no answer"
        court, info = make(PONG, ball_colour="purple").reset(seed=0)
        assert read_pong_colour(court) == "purple"
        x, y = info["ball_x"], info["ball_y"]
        court[y : y + pong.BALL_SIZE, x : x + pong.BALL_SIZE] = pong.BACKGROUND
        assert read_pong_colour(court) is None

    def test_they_count_balls_in_the_usual_game_too(self) -> None:
        env = make(BALLS)
        assert [count_balls(env.reset(seed=seed)[0]) for seed in range(40)] == [5] * 40
        assert is_night(env.reset(seed=0)[0])
