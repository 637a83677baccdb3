"""Play in a world that predicts two frames in a step: they are shown and recorded one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_worlds import SIDE, make_tiny_video_codec, make_tiny_world
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.game.describe import describe_game
from worldsim.play.controller import Controller
from worldsim.play.demo import DemoConfig, play_into_files
from worldsim.play.pace import Pace
from worldsim.play.session import Session
from worldsim.play.sources import find_sources
from worldsim.world_folder import load
from worldsim.world_model_env import WorldModelEnv

NOOP, UP, DOWN = 0, 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    game = replace(describe_game("worldsim/Pong-v0"), frame_size=(SIDE, SIDE))
    folder = tmp_path_factory.mktemp("worlds") / "imagined"
    make_tiny_world(game, codec=make_tiny_video_codec()).save(folder)
    return folder


def steps_of_env(folder: Path, seed: int, actions: list[int]) -> tuple[list[np.ndarray], Any]:
    env = WorldModelEnv(load(folder, device="cpu"))
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        _, reward, *_, info = env.step(action)
        frames += [*info["frames"]]
        rewards.append(reward)
    return frames, rewards


def test_a_recorded_dream_has_every_frame_and_the_held_action(folder: Path, tmp_path: Path) -> None:
    sources = find_sources(str(folder))
    with RecordingWriter(tmp_path / "imagined", sources[0].config) as writer:
        played = Session(sources, seed=3, writer=writer)
        ahead = []
        for action in (UP, NOOP, DOWN, UP, NOOP):  # every second one is not taken
            played.step(action)
            ahead.append(played.num_ahead)
        score = played.score
        played.close()
    assert ahead == [1, 0, 1, 0, 1]
    episode = Recording(tmp_path / "imagined").episode(0)
    assert episode.actions.tolist() == [UP, UP, DOWN, DOWN, NOOP]
    assert episode.truncations.tolist() == [False] * 4 + [True]
    assert episode.seed is not None
    frames, rewards = steps_of_env(folder, episode.seed, [UP, DOWN, NOOP])
    assert np.array_equal(episode.frames, np.stack(frames[:6]))  # the last one was not shown
    first, second = np.float32(rewards[:2])
    assert episode.rewards.tolist() == [0, first, 0, second, 0]
    assert score == pytest.approx(first + second)
    assert Recording(tmp_path / "imagined").game.fps == describe_game("worldsim/Pong-v0").fps


def test_a_new_episode_forgets_the_frames_ahead(folder: Path) -> None:
    played = Session(find_sources(str(folder)), seed=3)
    played.step(UP)
    played.restart()
    assert played.num_ahead == 0
    first = played.observation
    played.step(DOWN)
    assert played.last_action == DOWN
    assert not np.array_equal(played.observation, first)
    played.close()


def test_the_window_shows_every_frame_and_takes_a_tap_at_the_next_step(folder: Path) -> None:
    seen: list[int] = []
    now = 0.0

    def policy(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
        seen.append(int(observation.sum()))
        return UP

    played = Session(find_sources(str(folder)), seed=0)
    control = Controller(played, make_policy=lambda: policy, clock=lambda: now)
    times = []
    for _ in range(8):
        now += control.seconds_until_due()
        assert control.advance()
        times.append(now)
    assert played.num_steps == 8 == len(seen)  # a player sees each frame
    np.testing.assert_allclose(np.diff(times), 1 / played.config.fps)
    control.command("take_over")
    for tapped in (None, "down", None, None):  # it is pressed while the frame ahead is shown
        if tapped:
            control.press(tapped)
            control.release(tapped)
        now += control.seconds_until_due()
        control.advance()
    assert played.last_action == DOWN
    played.close()


@pytest.mark.parametrize("work", [0.05, 0.15])
def test_frames_of_a_step_share_the_time_that_computing_leaves(work: float) -> None:
    now, shown = 0.0, []
    clock = Pace(10, clock=lambda: now)
    for frame in range(40):
        now += clock.seconds_until_due()
        took = work if frame % 2 == 0 else 0.0
        now += took
        clock.mark(took, 1 - frame % 2)
        shown.append(now)
    np.testing.assert_allclose(np.diff(shown[::2]), 0.2)  # the pace of the game
    np.testing.assert_allclose(np.diff(shown)[::2], (0.2 - work) / 2)
    assert clock.reached_fps == pytest.approx(10, rel=0.1)
    assert not clock.is_slow


def test_a_demo_shows_every_frame(folder: Path, tmp_path: Path) -> None:
    config = DemoConfig(world=str(folder), out=tmp_path, seconds=1.0)
    lines = play_into_files(config, find_sources(str(folder)), "sticky")
    assert lines[0].startswith("imagined: 15 frames at ")
    assert (tmp_path / "demo.mp4").exists()
