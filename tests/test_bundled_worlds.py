"""The worlds that ship: they load as they are, and are good enough to play."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import worldsim
from tests.benchmarks.bench_balls import imagine
from tests.benchmarks.bench_maze import remember
from tests.benchmarks.bench_pong import paddle_rows, play
from worldsim.data.recording import Recording
from worldsim.envs import pong
from worldsim.envs.record import main as record
from worldsim.envs.sight import is_colour
from worldsim.find_world import BUNDLED
from worldsim.system.files import checksum
from worldsim.world_folder import SUMMED

pytestmark = pytest.mark.numeric

NAMES = sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())
SESSIONS, CONTEXT, STEPS = 8, 12, 16


def test_three_ship() -> None:
    assert NAMES == ["balls", "maze", "pong"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_world_is_small_complete_and_described(name: str) -> None:
    files = [path for path in (BUNDLED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    world = worldsim.load(name)
    assert "`worldsim record " in world.card
    assert "`worldsim train " in world.card
    env = gymnasium.make("worldsim/WorldModel-v0", world=name)
    frame, _ = env.reset(seed=0)
    played = [env.step(env.action_space.sample())[0] for _ in range(3)]
    assert all(one.shape == frame.shape and one.dtype == np.uint8 for one in played)
    assert (BUNDLED / name / "filmstrip.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_world_knows_the_episodes_of_its_recording(name: str, tmp_path: Path) -> None:
    """Its card's command, asked for fewer steps, records the first of them again."""
    world = worldsim.load(name, device="cpu")
    line = next(line for line in world.card.splitlines() if "`worldsim record " in line)
    words = shlex.split(line.split("`")[1])[2:]
    words[words.index("--steps") + 1] = "600"
    words[words.index("--out") + 1] = str(tmp_path)
    assert record([*words, "--workers", "1"]) == 0
    again = Recording(tmp_path)
    assert world.split is not None
    assert tuple(map(again.fingerprint, range(len(again)))) == world.split.episodes[: len(again)]


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_of_a_bundled_world_are_those_of_its_checksums(name: str) -> None:
    folder = BUNDLED / name
    sums = json.loads((folder / "config.json").read_text(encoding="utf-8"))["checksums"]
    assert sums == {part: checksum(folder / part) for part in SUMMED if (folder / part).exists()}
    assert set(SUMMED[:4]) <= set(sums)


@pytest.fixture(scope="module")
def games() -> tuple[np.ndarray, np.ndarray]:
    """Frames (b t h w c) and actions of real games, in which an action is held for a while."""
    rng = np.random.default_rng(5)
    frames, actions = [], []
    env = gymnasium.make("worldsim/Pong-v0")
    for seed in range(SESSIONS):
        held = np.repeat(rng.integers(3, size=30), rng.integers(1, 8, size=30))
        seen = [env.reset(seed=seed)[0]]
        seen += [env.step(int(action))[0] for action in held[: CONTEXT + STEPS - 1]]
        frames.append(seen)
        actions.append(held[: CONTEXT + STEPS - 1])
    return np.array(frames), np.array(actions)


def test_pong_obeys_and_keeps_its_ball(games: tuple[np.ndarray, np.ndarray]) -> None:
    frames, actions = games
    rollout = worldsim.Rollout(worldsim.load("pong", device="cpu"), SESSIONS)
    rollout.reset(frames[:, :CONTEXT], actions[:, : CONTEXT - 1], range(SESSIONS))
    imagined = np.stack(
        [rollout.step(actions[:, t]).frames for t in range(CONTEXT - 1, CONTEXT + STEPS - 1)], 1
    )
    real = frames[:, CONTEXT:]

    centres = [np.stack([paddle_rows(session) for session in shown]) for shown in (imagined, real)]
    off = np.abs(centres[0] - centres[1])
    stays = np.abs(centres[1] - centres[1][:, :1]).mean()
    assert stays > 3  # the paddle moves
    assert off[:, :8].mean() < 1
    assert off.mean() < 2

    ball = is_colour(imagined, pong.BALL)[..., 8:62, :].sum((-2, -1))
    assert ((ball > 5) & (ball < 30)).mean() > 0.9  # it has 16 pixels


def test_the_maze_keeps_what_is_lit_and_remembers_what_was() -> None:
    again, forgotten, _, lit = remember(worldsim.load("maze", device="cpu"), 5, mazes=8)
    assert lit > 28
    assert again > forgotten + 3


@pytest.mark.slow
def test_pong_has_one_ball_for_as_long_as_it_is_played() -> None:
    balls = play(worldsim.load("pong", device="cpu"), None, steps=150, sessions=8).balls
    assert (balls == 1).mean() > 0.9
    assert (balls[-50:] == 1).mean() > 0.85


@pytest.mark.slow
def test_balls_move_as_they_should_and_neither_vanish_nor_multiply() -> None:
    played = imagine(worldsim.load("balls", device="cpu"), sessions=8, steps=120)
    early = slice(0, 8)
    assert np.nanmean(played.off[:, early]) < 0.5 * np.nanmean(played.stayed[:, early])
    late = slice(-20, None)
    assert played.found[:, late].mean() > 0.85
    assert 0.85 < played.area[:, late].sum() / played.real_area[:, late].sum() < 1.15


def test_pong_gives_exactly_no_reward_where_no_point_is_scored() -> None:
    """Atari's pipelines keep the sign of a reward alone, so that 1e-7 would be a point."""
    envs = worldsim.WorldModelVectorEnv("pong", 4, autoreset_mode="SameStep")
    envs.reset(seed=0)
    rewards = np.array([envs.step(np.full(4, step // 10 % 3))[1] for step in range(100)])
    points = np.sign(rewards)
    assert 0.95 < np.mean(points == 0) < 1.0
    assert np.abs(rewards[points != 0]).mean() > 0.5
