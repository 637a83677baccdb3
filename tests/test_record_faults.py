"""The command `worldsim record` killed, with games that fail, and beside other commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.envs.record import main
from worldsim.game.describe import describe_game
from worldsim.play import window

PONG = ["worldsim/Pong-v0", "--frame-size", "16", "16", "--max-episode-steps", "40"]


@contextmanager
def recording_of(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command until it is stopped or killed."""
    command = [sys.executable, "-m", "worldsim", "record", *PONG, "--steps", "1000000"]
    process = subprocess.Popen(
        [*command, "--workers", "1", "--out", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def count_shards(path: Path) -> int:
    return len([*path.glob("data/shards/*.hdf5")])


def indexed_episodes(path: Path) -> int:
    """Return the number of episodes that Minari sees."""
    file = path / "data" / "metadata.json"
    return int(json.loads(file.read_text())["total_episodes"]) if file.exists() else 0


def wait_until(path: Path, episodes: int) -> None:
    deadline = time.monotonic() + 60
    while indexed_episodes(path) < episodes:
        assert time.monotonic() < deadline, "no episode within a minute"
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_leaves_good_order_and_a_kill_an_index(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    with recording_of(path) as process:
        wait_until(path, 1)  # at once, not only in the end
        process.kill()
        process.wait()
    killed_with = indexed_episodes(path)
    with recording_of(path) as process:
        wait_until(path, killed_with + 1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out.startswith(f"stopped: {path} keeps each finished episode")
    assert indexed_episodes(path) == count_shards(path) > killed_with


def test_who_plays_into_a_recording_and_who_records_it_keep_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    game = describe_game("worldsim/Pong-v0", frame_size=(16, 16))
    play = ["worldsim/Pong-v0", "--headless", "--steps", "5", "--frame-size", "16", "16"]
    with RecordingWriter(path, game):  # as `play --record` and `record` both do
        for command, arguments in ((main, PONG), (window.main, play)):
            option = "--out" if command is main else "--record"
            with pytest.raises(ValueError, match="is being recorded by another process: wait"):
                command([*arguments, option, str(path)])
    assert window.main([*play, "--record", str(path)]) == 0
    assert Recording(path).total_steps == 5


def test_each_episode_that_a_person_plays_is_in_the_index_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    from worldsim.play.session import Session
    from worldsim.play.sources import find_sources

    sources = find_sources("worldsim/Pong-v0")
    with RecordingWriter(path, sources[0].config) as writer:
        played = Session(sources, writer=writer)
        played.step(0)
        played.restart()
        assert indexed_episodes(path) == 1
        played.close()


def test_shards_that_are_deleted_meanwhile_are_recorded_again(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    shard = path / "data" / "shards" / "episode_00000000.hdf5"
    deleted = threading.Event()

    def delete() -> None:
        while count_shards(path) < 2:
            time.sleep(0.005)
        shard.unlink()
        deleted.set()

    threading.Thread(target=delete, daemon=True).start()
    assert main([*PONG, "--steps", "1000", "--workers", "1", "--out", str(path)]) == 0
    assert deleted.is_set()
    assert shard.exists()
    assert Recording(path).total_steps >= 1000


PLAYER = """
import os, time

def play(frame, info, rng):
    number, _ = rng.bit_generator.seed_seq.spawn_key  # of the episode
    if number == {deadly}:
        os._exit(3)
    time.sleep(0.02)
    return 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


@pytest.mark.parametrize("deadly", [0, 1])
def test_a_process_that_dies_of_an_episode_is_missed_only_if_that_is_needed(
    folder: Path, deadly: int
) -> None:
    (folder / f"player{deadly}.py").write_text(PLAYER.format(deadly=deadly))
    arguments = [*PONG, "--steps", "40", "--workers", "2", "--policy", f"player{deadly}:play"]
    if deadly == 1:
        assert main([*arguments, "--out", "pong-v0"]) == 0
        assert Recording("pong-v0").episode_lengths.tolist() == [40]
        return
    with pytest.raises(OSError, match=r"recorded episode 0 has died \(exit code 3\)"):
        main([*arguments, "--out", "pong-v0"])
    assert count_shards(folder / "pong-v0") == 1  # the other one was let finish


GAME = """
import gymnasium
from worldsim.envs.pong import Pong

class Game(Pong):
    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, {reward}, terminated, truncated, info

gymnasium.register("{name}/Game-v0", entry_point="{name}:Game")
"""


@pytest.mark.parametrize(
    ("name", "reward"), [("nans", "float('nan')"), ("infs", "-float('inf')"), ("larges", "1e300")]
)
def test_a_reward_that_is_not_finite_is_reported_before_it_is_recorded(
    folder: Path, name: str, reward: str
) -> None:
    (folder / f"{name}.py").write_text(GAME.format(name=name, reward=reward))
    arguments = [f"{name}:{name}/Game-v0", *PONG[1:], "--steps", "10", "--workers", "1"]
    sentence = rf"episode 0 has the reward {eval(reward)} at step 0, .*: fix {name}:{name}/Game-v0 "
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+")):
        main([*arguments, "--out", "game-v0"])
    assert count_shards(folder / "game-v0") == 0


def test_a_reward_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    game = describe_game("worldsim/Pong-v0", frame_size=(8, 8))
    ends = np.array([False, True])
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    writer = RecordingWriter(tmp_path / "pong-v0", game)
    for reward in (np.nan, np.inf, 1e300):
        rewards = np.array([0, reward])
        with pytest.raises(ValueError, match=r"rewards must be finite, got .* at step 1"):
            writer.write_episode(Episode(frames, np.array([0, 1]), rewards, ends, ends))
    with pytest.raises(ValueError, match="truncations has one at step 0 of 2"):
        writer.write_episode(Episode(frames, np.array([0, 1]), np.zeros(2), ends, ~ends))
