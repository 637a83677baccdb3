"""Captions: what an episode shows, from a game, a command or a file to the recording's reader."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.buckets import Bucket
from tests.edits import ordinary_user
from tests.tiny_worlds import make_tiny_episode, make_tiny_game
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.envs.record import main
from worldsim.system.files import MAX_TEXT_BYTES

GAME = make_tiny_game()
PONG = ["worldsim/Pong-v0", "--frame-size", "32", "32", "--max-episode-steps", "40"]
GAME_FILE = """
import gymnasium
from worldsim.envs.pong import Pong

class Talking(Pong):
    def reset(self, **kwargs):
        frame, info = super().reset(**kwargs)
        return frame, {**info, "caption": CAPTION}

gymnasium.register("tests/NAME-v0", entry_point="NAME:Talking")
"""


def captions_of(path: Path) -> list[str | None]:
    recording = Recording(path)
    return [recording.caption(index) for index in range(len(recording))]


def write(path: Path, captions: list[str | None]) -> Path:
    with RecordingWriter(path, GAME) as writer:
        for seed, caption in enumerate(captions):
            writer.write_episode(replace(make_tiny_episode(GAME, 5, seed), caption=caption))
    return path


def shard_of(path: Path, number: int) -> Path:
    return path / "data" / "shards" / f"episode_{number:08d}.hdf5"


def put(path: Path, captions: Any) -> Path:
    file = path / "data" / "captions.json"
    file.write_bytes(captions if isinstance(captions, bytes) else json.dumps(captions).encode())
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "square-v0", ["a red ball", None, "zwei Bälle, 球 🎱"])


@pytest.fixture
def make_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """Write a game that tells captions, and return the arguments that record it."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, caption: str) -> list[str]:
        code = GAME_FILE.replace("NAME", name).replace("CAPTION", caption)
        (tmp_path / f"{name}.py").write_text(code)
        return [f"{name}:tests/{name}-v0", *PONG[1:]]

    return make


class TestShards:
    def test_a_caption_is_kept_with_its_episode_and_pickled(self, path: Path) -> None:
        recording = Recording(path)
        expected = ["a red ball", None, "zwei Bälle, 球 🎱"]
        assert [recording.caption(index) for index in range(3)] == expected
        assert [recording.episode(index).caption for index in range(3)] == expected
        again = pickle.loads(pickle.dumps(recording))
        assert [again.caption(index) for index in range(3)] == expected
        (path / "data" / "index.hdf5").unlink()
        assert captions_of(path) == expected
        with pytest.raises(ValueError, match=r"episodes must be 0 … 2, got \[3\]"):
            recording.caption(3)

    def test_a_shard_without_one_is_as_it_was_before_captions(self, path: Path) -> None:
        with h5py.File(shard_of(path, 1)) as file:
            names = ["checksum", "id", "policy", "seed", "total_steps"]
            assert sorted(file["episode"].attrs) == names
        fingerprints = {
            Recording(write(path.parent / name, [name])).fingerprint(0) for name in "ab"
        }
        assert len(fingerprints) == 1, "worlds keep the fingerprints of older recordings"

    def test_a_changed_caption_is_noticed(self, path: Path) -> None:
        with h5py.File(shard_of(path, 0), "r+") as file:
            file["episode"].attrs["caption"] = "a tan ball"
        with pytest.raises(ValueError, match=r"episode_00000000\.hdf5 is damaged \(its checksum"):
            Recording(path).caption(0)

    @pytest.mark.parametrize("caption", ["", "a\nb", "\x1b[2J", "a" * 2001, "\ud800", 3, b"ball"])
    def test_only_a_line_of_text_is_written(self, tmp_path: Path, caption: Any) -> None:
        rule = "caption must be (a line of 1 to 2,000 printable characters|text)"
        with pytest.raises(ValueError, match=rule):
            write(tmp_path / "new", [caption])

    @pytest.mark.parametrize("caption", ["\x1b[2J", "a" * 2001, 3, np.arange(3)])
    def test_a_strangers_shard_is_refused(self, path: Path, caption: Any) -> None:
        with h5py.File(shard_of(path, 0), "r+") as file:
            file["episode"].attrs["caption"] = caption
        with pytest.raises(ValueError, match=r"episode_00000000\.hdf5 is damaged \(.*caption"):
            Recording(path).caption(0)

    def test_minari_opens_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        minari = pytest.importorskip("minari")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(path.parent))
        put(path, "a ball")
        episodes = list(minari.load_dataset("square-v0").iterate_episodes())
        assert [len(episode.actions) for episode in episodes] == [5, 5, 5]


class TestFile:
    def test_one_text_is_for_all_episodes(self, path: Path) -> None:
        put(path, "a box")
        assert captions_of(path) == ["a box"] * 3
        assert Recording(path).episode(1).caption == "a box"
        assert pickle.loads(pickle.dumps(Recording(path))).caption(2) == "a box"

    def test_an_object_is_by_number_and_wins_over_the_shards(self, path: Path) -> None:
        put(path, {"1": "a box", "2": "two boxes"})
        assert captions_of(path) == ["a red ball", "a box", "two boxes"]
        shard_of(path, 0).unlink()
        assert captions_of(path) == ["a box", "two boxes"]

    @pytest.mark.parametrize(
        ("captions", "reason"),
        [
            (3, "it must hold a JSON string or object, got 3"),
            (["a"], "it must hold a JSON string or object"),
            (b"{", "Expecting property name"),
            (b"[" * 100_000, "nested too deeply"),
            (b"", "Expecting value"),
            (b'"\xff"', "codec can't decode"),
            ("a\x1b[2J", "the caption must be text without control characters"),
            ("a" * 2001, "the caption must be a line"),
            ({"0": "a\nb"}, "the caption of 0 must be a line"),
            ({"0": None}, "the caption of 0 must be text, got None"),
            ({"3": "a"}, "its keys must be numbers of the recording's 3 episodes, got '3'"),
            ({"00": "a"}, "its keys must be"),
            ({"-1": "a"}, "its keys must be"),
            ({"१": "a"}, "its keys must be"),
            ({"../x": "a"}, "its keys must be"),
        ],
    )
    def test_a_strangers_file_is_refused_by_its_name(
        self, path: Path, captions: Any, reason: str
    ) -> None:
        file = put(path, captions)
        with pytest.raises(ValueError, match="captions") as caught:
            Recording(path)
        said = str(caught.value)
        assert said.startswith(f"{file} is damaged (")
        assert reason in said
        assert "correct it, or delete it" in said
        assert "\n" not in said

    def test_a_link_a_huge_and_an_unreadable_file_are_refused(self, path: Path) -> None:
        file = put(path, "a" * MAX_TEXT_BYTES)
        with pytest.raises(ValueError, match=r"captions\.json is damaged .* at most 16,777,216"):
            Recording(path)
        put(path, "a box")
        file.chmod(0)
        with (
            ordinary_user(path),
            pytest.raises(PermissionError, match=r"captions\.json may not be"),
        ):
            Recording(path)
        file.unlink()
        file.symlink_to("/etc/hostname")
        with pytest.raises(ValueError, match=r"captions\.json is a link"):
            Recording(path)

    def test_it_is_read_from_a_bucket(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "cache"))
        Bucket.downloads.clear()
        put(path, {"1": "a box"})
        remote = Recording(f"bucket://{path}")
        assert remote.caption(1) == "a box"
        assert not [name for name in Bucket.downloads if name.startswith("episode_")]
        assert remote.caption(0) == "a red ball"
        put(path, {"7": "a box"})
        with pytest.raises(ValueError, match=r"^bucket://.*captions\.json is damaged \(its keys"):
            Recording(f"bucket://{path}")


class TestCommand:
    def test_one_caption_for_all_survives_workers_and_a_second_command(
        self, tmp_path: Path
    ) -> None:
        out = tmp_path / "pong-v0"
        begin = [*PONG, "--workers", "2", "--out", str(out), "--caption", "a white ball"]
        assert main([*begin, "--steps", "60"]) == 0
        assert captions_of(out) == ["a white ball"] * 2
        assert main([*begin, "--steps", "130"]) == 0
        assert captions_of(out) == ["a white ball"] * 4
        assert Recording(out).settings["caption"] == "a white ball"
        for changed in (["--caption", "a red ball"], []):
            with pytest.raises(ValueError, match="recorded with caption 'a white ball', not"):
                main([*begin[:-2], *changed, "--steps", "130"])

    def test_without_one_nothing_is_kept(self, tmp_path: Path) -> None:
        arguments = [*PONG, "--workers", "1", "--steps", "30", "--out", str(tmp_path / "a-v0")]
        assert main(arguments) == 0
        assert captions_of(tmp_path / "a-v0") == [None]
        assert "caption" not in Recording(tmp_path / "a-v0").settings
        with pytest.raises(ValueError, match="recorded with caption None, not 'a ball'"):
            main([*arguments, "--caption", "a ball"])
        with pytest.raises(ValueError, match="--caption must be a line of 1 to 2,000"):
            main([*arguments, "--caption", ""])

    def test_a_game_tells_its_caption_and_the_command_wins(
        self, make_game: Callable[[str, str], list[str]], tmp_path: Path
    ) -> None:
        game = make_game("talking", "f'paddle at {self._player_y}'")
        arguments = [*game, "--workers", "2", "--steps", "100"]
        assert main([*arguments, "--out", "told-v0"]) == 0
        told = captions_of(tmp_path / "told-v0")
        assert len(set(told)) > 1
        assert all(caption and caption.startswith("paddle at ") for caption in told)
        assert main([*arguments, "--out", "one-v0", "--caption", "pong"]) == 0
        assert set(captions_of(tmp_path / "one-v0")) == {"pong"}

    def test_a_game_that_tells_no_text_is_named(
        self, make_game: Callable[[str, str], list[str]]
    ) -> None:
        game = make_game("listing", "['a', 'b']")
        arguments = [*game, "--workers", "1", "--steps", "30"]
        with pytest.raises(ValueError, match=r'info\["caption"\] of the game must be text, got'):
            main([*arguments, "--out", "bad-v0"])
        assert main([*arguments, "--out", "good-v0", "--caption", "pong"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_workers_of_a_cluster_tell_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [*PONG, "--steps", "60", "--caption", "a ball"]
    for name, where in (("here-v0", []), ("ray-v0", ["--ray", "auto"])):
        assert main([*arguments, "--workers", "1", "--out", str(tmp_path / name), *where]) == 0
    assert captions_of(tmp_path / "ray-v0") == ["a ball"] * 2
    assert shard_of(tmp_path / "ray-v0", 1).read_bytes() == (
        shard_of(tmp_path / "here-v0", 1).read_bytes()
    )


class TestWindows:
    def test_have_the_captions_of_their_episodes(self, tmp_path: Path) -> None:
        recording = Recording(write(tmp_path / "square", ["a box", None, "two boxes"]))
        windows = recording.windows([2, 1, 0, 2], [0, -1, 2, 1], 3)
        assert windows.captions == ("two boxes", None, "a box", "two boxes")
        assert "captions" not in windows.arrays

    def test_keep_them_when_some_are_selected(self, tmp_path: Path) -> None:
        recording = Recording(write(tmp_path / "square", ["a box", None, "two boxes"]))
        windows = recording.windows([0, 1, 2], [0, 0, 0], 3)
        assert windows[1:].captions == (None, "two boxes")
        assert windows[[2, 0], :2].captions == ("two boxes", "a box")
        assert windows[np.array([True, False, True])].captions == ("a box", "two boxes")

    def test_without_any_have_none(self, tmp_path: Path) -> None:
        windows = Recording(write(tmp_path / "square", [None, None])).windows([0, 1], [0, 0], 3)
        assert windows.captions == windows[1:].captions == ()
