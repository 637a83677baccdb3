"""Recordings among others in a folder that Minari lists: each is found, whatever it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game

minari = pytest.importorskip("minari")


def write(path: Path, game: GameConfig) -> Path:
    shape = (4, *game.frame_size, game.channels)
    with RecordingWriter(path, game) as writer:
        writer.write_episode(
            Episode(
                frames=np.arange(np.prod(shape)).reshape(shape).astype(np.uint8),
                actions=np.array([0, 1, 2]),
                rewards=np.array([0, 1, 0], np.float32),
                terminations=np.array([False, False, True]),
                truncations=np.zeros(3, bool),
            )
        )
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


GAME = GameConfig("worldsim/Pong-v0", frame_size=(8, 8), action_meanings=("NOOP", "UP", "DOWN"))


def test_minari_lists_and_loads_recordings_of_any_name(folder: Path) -> None:
    for name in ("pong-v0", "pong", "p", "my pong", "pong.v2-v1"):
        write(folder / name, GAME)
        assert len(Recording(folder / name)) == 1
    listed = minari.list_local_datasets()
    assert sorted(listed) == ["pong-v0", "pong/recording-v0"]
    for name in listed:
        (episode,) = minari.load_dataset(name).iterate_episodes()
        np.testing.assert_array_equal(episode.actions, [0, 1, 2])


@pytest.mark.parametrize(
    ("env_id", "package", "settings"),
    [
        ("worldsim/Maze-v0", "worldsim", {}),
        ("ALE/Pong-v5", "ale_py", {"difficulty": 1}),
        ("MiniGrid-Empty-5x5-v0", "minigrid", {"max_steps": 7}),
    ],
)
def test_minari_makes_the_game_again(
    folder: Path, env_id: str, package: str, settings: dict[str, int]
) -> None:
    pytest.importorskip(package)
    write(folder / "game-v0", describe_game(env_id, frame_size=(16, 16), env_kwargs=settings))
    env = minari.load_dataset("game-v0").recover_environment()
    assert env.spec.id == env_id
    assert settings.items() <= env.spec.kwargs.items()
    env.reset(seed=0)
    env.close()


def test_a_game_that_is_not_registered_here_keeps_its_description(folder: Path) -> None:
    game = GameConfig("Elsewhere-v0", frame_size=(8, 8), action_meanings=("NOOP", "UP", "DOWN"))
    path = write(folder / "else-v0", game)
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    assert "env_spec" not in metadata
    file.write_text(json.dumps({**metadata, "env_spec": "{}"}))
    write(path, game)
    assert json.loads(file.read_text())["env_spec"] == "{}"
    assert len(Recording(path)) == 2


def test_a_recording_with_its_files_in_data_keeps_them_there(folder: Path) -> None:
    write(folder / "pong-v0", GAME).rename(folder / "pong")
    write(folder / "pong", GAME)
    assert len(Recording(folder / "pong")) == 2
    assert [file.name for file in (folder / "pong").iterdir()] == ["data"]
