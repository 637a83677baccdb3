"""Damaged recordings: each is refused in one sentence, or what is read has not changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.fuzz.mutations import (
    ODD_VALUES,
    assert_a_sentence,
    damage_bytes,
    damage_json,
    damaged,
    replace_by_something_else,
)
from tests.tiny_worlds import make_tiny_episode, make_tiny_game
from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter

ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations", "checksums")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a recording of three episodes; the frames of one are noise, which gzip leaves as is."""
    path = tmp_path_factory.mktemp("whole") / "square-v0"
    game = make_tiny_game()
    with RecordingWriter(path, game, {"seed": 0, "policy": {"random": 1.0}}) as writer:
        for seed in range(3):
            episode = make_tiny_episode(game, 20, seed)
            if seed == 1:
                shape = episode.frames.shape
                episode.frames = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
            writer.write_episode(episode)
    return path


@pytest.fixture(scope="module")
def episodes(whole: Path) -> list[Episode]:
    recording = Recording(whole)
    return [recording.episode(index) for index in range(len(recording))]


def any_shard(path: Path, rng: np.random.Generator) -> Path:
    return path / "data" / "shards" / f"episode_{rng.integers(3):08d}.hdf5"


def damage_shard(path: Path, rng: np.random.Generator) -> str:
    return damage_bytes(any_shard(path, rng), rng)


def damage_metadata(path: Path, rng: np.random.Generator) -> str:
    return damage_json(path / "data" / "metadata.json", rng)


def damage_index(path: Path, rng: np.random.Generator) -> str:
    return damage_bytes(path / "data" / "index.hdf5", rng)


def replace_a_file(path: Path, rng: np.random.Generator) -> str:
    others = [path / "data" / name for name in ("metadata.json", "index.hdf5")]
    file = any_shard(path, rng) if rng.random() < 0.5 else others[rng.integers(2)]
    return replace_by_something_else(file, path.with_name("elsewhere"), rng)


def change_an_array(path: Path, rng: np.random.Generator) -> str:
    """Give an array another type, shape, layout or values, or put something else in its place."""
    with h5py.File(any_shard(path, rng), "r+") as file:
        group = file["episode"]
        name = str(rng.choice(ARRAYS))
        values = group[name][()]
        del group[name]
        changes: dict[str, Callable[[], Any]] = {
            "missing": lambda: None,
            "group": lambda: group.create_group(name),
            "scalar": lambda: group.create_dataset(name, data=values.flat[0]),
            "shorter": lambda: group.create_dataset(name, data=values[:-1]),
            "flat": lambda: group.create_dataset(name, data=values.ravel()),
            "other type": lambda: group.create_dataset(name, data=values.astype(np.float64)),
            "text": lambda: group.create_dataset(name, data="text"),
            "lzf": lambda: group.create_dataset(name, data=values, compression="lzf"),
            "never written": lambda: group.create_dataset(name, values.shape, values.dtype),
            "huge": lambda: group.create_dataset(
                name, (10**9, *values.shape[1:]), values.dtype, chunks=(1, *values.shape[1:])
            ),
            "elsewhere": lambda: group.create_dataset(
                name, values.shape, values.dtype, external=[("/etc/passwd", 0, values.nbytes)]
            ),
            "soft link": lambda: group.__setitem__(name, h5py.SoftLink("/episode/actions")),
            "external link": lambda: group.__setitem__(name, h5py.ExternalLink("x", "y")),
            "reversed": lambda: group.create_dataset(
                name, data=values[::-1], compression="gzip", chunks=(1, *values.shape[1:])
            ),
        }
        how = str(rng.choice(list(changes)))
        changes[how]()
    return f"{name} {how}"


def change_an_attribute(path: Path, rng: np.random.Generator) -> str:
    with h5py.File(any_shard(path, rng), "r+") as file:
        attributes = file["episode"].attrs
        name = str(rng.choice(["seed", "policy", "checksum"]))
        odd = ODD_VALUES[rng.integers(len(ODD_VALUES))]
        del attributes[name]
        if isinstance(odd, (bool, float, str)) or (isinstance(odd, int) and abs(odd) < 2**63):
            attributes[name] = odd
    return f"{name} {odd!r:.20}"


WAYS = (
    *(damage_shard,) * 4,
    *(damage_metadata,) * 3,
    damage_index,
    change_an_array,
    change_an_array,
    change_an_attribute,
    replace_a_file,
)


def assert_same(found: Episode, expected: Episode) -> None:
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(400))
def test_a_damaged_recording_is_refused_or_reads_the_same(
    seed: int, whole: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    with damaged(whole, tmp_path, seed, WAYS) as (path, how):
        for use in (read_all, write_index):
            try:
                found = use(path)
            except (ValueError, OSError) as error:
                assert_a_sentence(error, path, how)
            else:
                kept = episodes if not how.endswith("nothing") else [*found]
                assert len(found) == len(kept), how
                for episode in found:
                    (expected,) = (e for e in episodes if e.seed == episode.seed)
                    assert_same(episode, expected)


def read_all(path: Path) -> list[Episode]:
    recording = Recording(path)
    return [recording.episode(index) for index in range(len(recording))]


def write_index(path: Path) -> list[Episode]:
    with RecordingWriter(path, make_tiny_game()):
        pass
    return read_all(path)
