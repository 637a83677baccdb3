"""Recordings that are damaged or come from a stranger: refused before use, by the file's name."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.edits import ordinary_user
from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig

GAME = GameConfig("worldsim/Pong-v0", frame_size=(16, 16), action_meanings=("NOOP", "UP", "DOWN"))
STEPS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames = np.zeros((STEPS + 1, 16, 16, 3), np.uint8)
    frames[:, 2, :8] = rng.integers(256, size=(STEPS + 1, 8, 3))
    with RecordingWriter(tmp_path / "pong-v0", GAME, {"seed": 0}) as writer:
        writer.write_episode(
            Episode(
                frames=frames,
                actions=rng.integers(3, size=STEPS),
                rewards=rng.normal(size=STEPS).astype(np.float32),
                terminations=np.arange(STEPS) == STEPS - 1,
                truncations=np.zeros(STEPS, bool),
                seed=3,
                policy="agent",
            )
        )
    return tmp_path / "pong-v0"


def shard_of(path: Path) -> Path:
    return path / "data" / "shards" / "episode_00000000.hdf5"


def refused(path: Path) -> str:
    """Return the one sentence with which a recording is refused, soon and with little memory."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the words
            Recording(path).episode(0)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without_checksum(group: h5py.Group) -> None:
    """Make a shard as it was before shards had checksums."""
    del group["checksums"], group.attrs["checksum"]


class TestMetadata:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda m: [], "it must hold a JSON object"),
            (lambda m: 3, "it must hold a JSON object"),
            (lambda m: {}, "lacks worldsim"),
            (lambda m: {"worldsim": None}, "worldsim is 'None', not of type dict"),
            (lambda m: {"worldsim": {"format": 1}}, "lacks steps_asked"),
            (lambda m: {"worldsim": {**m["worldsim"], "settings": []}}, "not of type dict"),
            (lambda m: {"worldsim": {**m["worldsim"], "game": "pong"}}, "not of type dict"),
            (lambda m: {"worldsim": {**m["worldsim"], "game": {}}}, "damaged"),
            (lambda m: {"worldsim": {**m["worldsim"], "steps_asked": "many"}}, "not of type int"),
            (lambda m: {"worldsim": {**m["worldsim"], "steps_asked": True}}, "not of type int"),
            (lambda m: {"worldsim": {**m["worldsim"], "steps_asked": -1}}, "steps_asked is -1"),
            (lambda m: {"worldsim": {**m["worldsim"], "format": 7}}, "does not have format 1"),
        ],
    )
    def test_of_another_form_is_refused_by_name(
        self, path: Path, change: Callable[[Any], Any], reason: str
    ) -> None:
        file = path / "data" / "metadata.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        said = refused(path)
        assert reason in said
        assert str(file) in said
        with pytest.raises(ValueError, match=r"metadata\.json"):
            RecordingWriter(path, GAME)

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff", "1" * 5000])
    def test_that_is_no_json_is_refused_by_name(self, path: Path, text: str) -> None:
        (path / "data" / "metadata.json").write_bytes(text.encode("latin-1"))
        assert "metadata.json" in refused(path)

    @pytest.mark.parametrize("field", ["frame_size", "channels", "action_meanings"])
    @pytest.mark.parametrize("value", [[], "x", {"a": {}}, None])
    def test_whose_game_is_not_of_this_form_is_refused(
        self, path: Path, field: str, value: Any
    ) -> None:
        file = path / "data" / "metadata.json"
        metadata = json.loads(file.read_text())
        metadata["worldsim"]["game"][field] = value
        file.write_text(json.dumps(metadata))
        assert str(path) in refused(path)


def set_values(name: str, values: Any) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group[name]
        group[name] = values

    return change


def set_step(name: str, step: int, value: Any) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        group[name][step] = value

    return change


def make_group(group: h5py.Group) -> None:
    del group["rewards"]
    group.create_group("rewards")


def read_from_elsewhere(group: h5py.Group) -> None:
    del group["actions"]
    group.create_dataset("actions", (STEPS,), "i8", external=[("/etc/passwd", 0, STEPS * 8)])


def link_elsewhere(group: h5py.Group) -> None:
    del group["actions"]
    group["actions"] = h5py.ExternalLink("/etc/passwd", "actions")


def claim_much(group: h5py.Group) -> None:
    del group["observations"], group["actions"]
    shape = (10**9 + 1, 16, 16, 3)
    group.create_dataset("observations", shape, "u1", chunks=(16, 16, 16, 3), compression="gzip")
    group.create_dataset("actions", (10**9,), "i8", chunks=(4096,), compression="gzip")


def blow_up(group: h5py.Group) -> None:
    """Put a chunk in that inflates to an eighth of a gigabyte."""
    group["observations"].id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**27)))


def end_before_it_begins(group: h5py.Group) -> None:
    frames = group["observations"][:1]
    del group["observations"]
    group.create_dataset("observations", data=frames, chunks=frames.shape, compression="gzip")


def one_large_chunk(group: h5py.Group) -> None:
    del group["observations"]
    shape = (STEPS + 1, 16, 16, 3)
    group.create_dataset(
        "observations", data=np.zeros(shape, "u1"), chunks=shape, compression="gzip"
    )


class TestShards:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (set_values("actions", np.int64(3)), r"has shape ()"),
            (set_values("actions", np.zeros(STEPS - 1, np.int64)), "has shape (19,), not (20)"),
            (set_values("rewards", np.zeros(STEPS + 1, np.float32)), "has shape (21,), not (20)"),
            (set_values("rewards", np.zeros(STEPS)), "not of type float32"),
            (set_values("terminations", np.zeros((STEPS, 1), bool)), "has shape (20, 1)"),
            (set_values("observations", np.zeros((STEPS + 1, 16, 16, 3), "u1")), "gzip chunks"),
            (make_group, "rewards is not a dataset"),
            (read_from_elsewhere, "in another file"),
            (link_elsewhere, "actions is a link"),
            (claim_much, "observations claims more than the file holds"),
            (blow_up, "not have its 12,288 bytes"),
            (end_before_it_begins, "it must have two frames or more"),
            (one_large_chunk, "more than 16 frames"),
            (set_step("actions", 4, 3), "actions must be 0 … 2, got 0 … 3"),
            (set_step("actions", 4, -(2**63)), "actions must be 0 … 2, got -9223"),
            (set_step("rewards", 7, np.nan), "rewards must be finite, got nan at step 7"),
            (set_step("rewards", 7, -np.inf), "rewards must be finite, got -inf at step 7"),
            (set_step("terminations", 5, True), "terminations has one at step 5 of 20"),
            (set_step("truncations", 0, True), "truncations has one at step 0 of 20"),
        ],
    )
    def test_that_are_no_episode_of_the_game_are_refused_by_name(
        self, path: Path, change: Callable[[h5py.Group], None], reason: str
    ) -> None:
        with h5py.File(shard_of(path), "a") as file:
            change(file["episode"])
            without_checksum(file["episode"])
        said = refused(path)
        assert reason in said
        assert said.startswith(f"{shard_of(path)} is damaged (")
        assert said.endswith(
            "delete it, and the command that recorded it will record that episode again"
        )

    @pytest.mark.parametrize("name", ["actions", "rewards", "terminations", "truncations"])
    def test_with_a_value_that_has_changed_do_not_have_their_checksum(
        self, path: Path, name: str
    ) -> None:
        with h5py.File(shard_of(path), "a") as file:
            values = file["episode"][name]
            values[-1] = (
                values[-1] + values.dtype.type(1) if values.dtype != bool else not values[-1]
            )
        assert "checksum" in refused(path) or name == "actions"

    @pytest.mark.parametrize(
        ("name", "value"), [("seed", 4), ("policy", "person"), ("checksum", 0)]
    )
    def test_with_another_attribute_do_not_have_their_checksum(
        self, path: Path, name: str, value: Any
    ) -> None:
        with h5py.File(shard_of(path), "a") as file:
            file["episode"].attrs[name] = value
        assert "its checksum differs" in refused(path)

    def test_whose_frames_have_changed_name_the_frames(self, path: Path) -> None:
        with h5py.File(shard_of(path), "a") as file:
            frames = file["episode/observations"]
            other = np.full((16, 16, 16, 3), 7, np.uint8)
            frames.id.write_direct_chunk((16, 0, 0, 0), zlib.compress(other.tobytes()))
        assert "the checksum of its frames from 16 on differs" in refused(path)

    def test_from_before_there_were_checksums_are_read(self, path: Path) -> None:
        expected = Recording(path).episode(0)
        with h5py.File(shard_of(path), "a") as file:
            without_checksum(file["episode"])
        found = Recording(path).episode(0)
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), values)

    def test_that_are_pipes_do_not_wait(self, path: Path) -> None:
        shard_of(path).unlink()
        os.mkfifo(shard_of(path))
        assert "not a regular file" in refused(path)

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
    @pytest.mark.parametrize("name", ["metadata.json", "shards/episode_00000000.hdf5"])
    def test_that_may_not_be_read_are_not_called_damaged(
        self, path: Path, tmp_path: Path, name: str
    ) -> None:
        (path / "data" / name).chmod(0)
        with (
            ordinary_user(tmp_path),
            pytest.raises(PermissionError, match=f"{name} may not be read by this user"),
        ):
            Recording(path).episode(0)


class TestLinks:
    @pytest.mark.parametrize("name", ["data", "data/shards"])
    def test_to_another_folder_are_refused(self, path: Path, name: str, tmp_path: Path) -> None:
        (path / name).rename(tmp_path / "elsewhere")
        (path / name).symlink_to(tmp_path / "elsewhere")
        assert f"{path / name} is a link" in refused(path)
        with pytest.raises(ValueError, match="is a link"):
            RecordingWriter(path, GAME)

    @pytest.mark.parametrize("name", ["data/metadata.json", "data/shards/episode_00000000.hdf5"])
    def test_to_another_file_are_refused(self, path: Path, name: str, tmp_path: Path) -> None:
        (path / name).rename(tmp_path / "elsewhere")
        (path / name).symlink_to(tmp_path / "elsewhere")
        assert f"{path / name} is a link" in refused(path)

    def test_are_never_written_through(self, path: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("thesis")
        episode = Recording(path).episode(0)
        data = path / "data"
        (data / "main_data.hdf5").unlink()
        for link in (
            data / "main_data.hdf5",
            data / f".main_data.hdf5.{os.getpid()}.part",
            data / "shards" / f".episode_00000001.hdf5.{os.getpid()}.part",
            data / "shards" / "episode_00000001.hdf5",
        ):
            link.symlink_to(victim)
        with RecordingWriter(path, GAME) as writer:
            writer.delete_leftovers()
            writer.write_episode(episode, 1)
        assert victim.read_text() == "thesis"
        assert len(Recording(path)) == 2
