"""The index of a recording: opening reads no shard that it knows, and believes nothing wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.tiny_worlds import make_tiny_episode, make_tiny_game
from worldsim.data import open_shards
from worldsim.data.index import ENTRY, encode_index
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.writer import RecordingWriter

STEPS = (20, 3, 17, 30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, game = tmp_path_factory.mktemp("whole") / "square-v0", make_tiny_game()
    with RecordingWriter(path, game) as writer:
        for seed, steps in enumerate(STEPS):
            writer.write_episode(make_tiny_episode(game, steps, seed))
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "square-v0")
    return tmp_path / "square-v0"


def index_of(path: Path) -> Path:
    return path / "data" / "index.hdf5"


def shard_of(path: Path, number: int) -> Path:
    return path / "data" / "shards" / f"episode_{number:08d}.hdf5"


def spoil(path: Path, number: int) -> None:
    """Make a shard unreadable, with the size it had."""
    shard_of(path, number).write_bytes(bytes(shard_of(path, number).stat().st_size))


def entries_of(path: Path) -> np.ndarray:
    with h5py.File(index_of(path)) as file:
        group = file["episodes"]
        entries = np.zeros(len(group["number"]), ENTRY)
        for name in ENTRY.names or ():
            entries[name] = group[name]
    return entries


def assert_same(found: Recording, expected: Recording) -> None:
    assert found.episode_lengths.tolist() == expected.episode_lengths.tolist()
    assert Split.of(found, 0.3) == Split.of(expected, 0.3)
    assert found.recorded_rewards() == expected.recorded_rewards()


def test_what_the_index_knows_is_known_without_a_shard(whole: Path, path: Path) -> None:
    for number in range(len(STEPS)):
        spoil(path, number)
    assert_same(Recording(path), Recording(whole))
    with pytest.raises(ValueError, match=r"episode_00000002.hdf5 is damaged"):
        Recording(path).windows([2], [0], 4)


def test_without_one_the_shards_tell_the_same(whole: Path, path: Path) -> None:
    index_of(path).unlink()
    assert_same(Recording(path), Recording(whole))
    spoil(path, 2)
    with pytest.raises(ValueError, match=r"episode_00000002.hdf5 is damaged"):
        Recording(path)


def test_episodes_that_were_added_or_deleted_since_are_seen(path: Path) -> None:
    game = make_tiny_game()
    RecordingWriter(path, game).write_episode(make_tiny_episode(game, 9, 9))  # as of a killed one
    shard_of(path, 1).unlink()
    spoil(path, 0)
    recording = Recording(path)
    assert recording.episode_lengths.tolist() == [20, 17, 30, 9]
    assert recording.episode(3).seed == 9
    assert len(set(map(recording.fingerprint, range(4)))) == 4


def test_another_episode_of_the_same_size_is_found_out_when_it_is_read(path: Path) -> None:
    game, shard = make_tiny_game(), shard_of(path, 2)
    size = shard.stat().st_size
    RecordingWriter(path, game).write_episode(make_tiny_episode(game, STEPS[2], 77), 2)
    data = shard.read_bytes()
    shard.write_bytes(data + bytes(max(0, size - len(data))))
    if shard.stat().st_size != size:  # the other one is larger: let the index tell of its size
        entries = entries_of(path)
        entries["num_bytes"][2] = shard.stat().st_size
        index_of(path).write_bytes(encode_index(entries))
    recording = Recording(path)
    sentence = r"episode_00000002.hdf5 is not the episode that the index tells of: delete .*index"
    with pytest.raises(ValueError, match=sentence) as caught:
        recording.windows([2], [0], 4)
    assert "\n" not in str(caught.value)
    RecordingWriter(path, game).close()
    assert Recording(path).episode(2).seed == 77


def test_to_add_an_episode_reads_no_shard_that_the_index_knows(path: Path) -> None:
    game = make_tiny_game()
    for number in range(len(STEPS)):
        times = shard_of(path, number).stat()
        spoil(path, number)
        os.utime(shard_of(path, number), ns=(times.st_atime_ns, times.st_mtime_ns))
    with RecordingWriter(path, game) as writer:
        assert writer.write_episode(make_tiny_episode(game, 9, 9)) == len(STEPS)
        assert list(writer.episode_steps().values()) == [*STEPS, 9]
    assert Recording(path).total_steps == sum(STEPS) + 9
    spoil(path, 1)
    with pytest.raises(ValueError, match=r"episode_00000001.hdf5 is damaged"):
        RecordingWriter(path, game).close()


def change(name: str, value: float, recompute: bool = True) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        entries = entries_of(path)
        if recompute:
            entries[name][1] = value
            index_of(path).write_bytes(encode_index(entries))
        else:
            with h5py.File(index_of(path), "a") as file:
                file["episodes"][name][1] = value

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: index_of(path).write_bytes(b""),
        lambda path: index_of(path).write_bytes(index_of(path).read_bytes()[:-900]),
        lambda path: index_of(path).write_bytes(encode_index(entries_of(path)[::-1])),
        lambda path: index_of(path).rename(path / "x") and index_of(path).symlink_to(path / "x"),
        lambda path: index_of(path).unlink() or index_of(path).mkdir(),
        change("num_steps", 4, recompute=False),
        change("num_steps", 0),
        change("num_steps", 2**60),
        change("highest_score", np.nan),
        change("lowest_score", 1.0),
        change("smallest", np.inf),
    ],
)
def test_a_damaged_one_is_not_believed(
    whole: Path, path: Path, damage: Callable[[Path], None]
) -> None:
    damage(path)
    assert_same(Recording(path), Recording(whole))


@pytest.mark.parametrize(
    ("name", "value"), [("num_steps", 1000), ("fingerprint", 7), ("smallest", 7), ("checksum", 7)]
)
def test_one_that_tells_wrong_is_found_out_when_the_episode_is_read(
    path: Path, name: str, value: int
) -> None:
    change(name, value)(path)
    recording = Recording(path)
    for read in (recording.episode, recording.rewards, lambda i: recording.windows([i], [2], 9)):
        with pytest.raises(ValueError, match="is not the episode that the index tells of"):
            read(1)


def test_shards_that_were_opened_long_ago_are_closed(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "MAX_BYTES", 3 * 2**11)
    recording = Recording(whole)
    for index in (0, 1, 2, 3, 0, 2, 1, 3) * 3:
        assert len(recording.episode(index).actions) == STEPS[index]
        assert sum(shard.num_bytes for shard in recording._shards._shards.values()) < 3 * 2**11
