"""The cache of latents: made once, gone on with, and made again where it is of something else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.buckets import Bucket
from tests.edits import ordinary_user
from tests.test_distributed import SIX, assert_same_training, run_together
from tests.test_train import make_config
from tests.test_train_codec import in_latents
from tests.tiny_worlds import (
    make_tiny_dc_codec,
    make_tiny_episode,
    make_tiny_game,
    make_tiny_vae_codec,
    write_tiny_recording,
)
from worldsim.data.folder import SHARDS, data_folder
from worldsim.data.latent_cache import LatentCache, encode_episodes
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.model.codec import Codec
from worldsim.train import run as run_module
from worldsim.train.config import read_config
from worldsim.train.dynamics import train
from worldsim.train.run import Run
from worldsim.train.run_folder import RunProgress

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]

GREY = np.full((16, 16, 3), 20, np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tiny_recording(tmp_path / "square", steps=12, episodes=6)
    return tmp_path / "square"


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    make_tiny_vae_codec().save(tmp_path / "codec")
    return tmp_path / "codec"


def open_cache(
    path: Path, codec: Codec | None = None, background: np.ndarray = GREY
) -> LatentCache:
    recording = Recording(path)
    return LatentCache(recording, range(len(recording)), codec or make_tiny_vae_codec(), background)


def fill(cache: LatentCache) -> None:
    (no_latents, no_moving), _ = cache.missing()
    todo = [(cache, index) for index in sorted({*no_latents, *no_moving})]
    encode_episodes(todo, 2, lambda done: None)
    assert cache.missing() == (([], []), [])


def written(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


class TestWhatIsMissing:
    def test_a_full_cache_is_left_as_it_is(self, path: Path) -> None:
        cache = open_cache(path)
        assert cache.missing() == (([*range(6)], [*range(6)]), [])
        fill(cache)
        assert cache.latents.folder.parent == path / "latents"
        before = written(cache.latents.folder), written(cache.moving.folder)
        again = open_cache(path)
        fill(again)
        assert (written(again.latents.folder), written(again.moving.folder)) == before

    def test_another_codec_has_a_folder_of_its_own(self, path: Path) -> None:
        fill(open_cache(path))
        other = open_cache(path, make_tiny_dc_codec())
        assert other.missing()[0] == ([*range(6)], [])  # what moves does not depend on it
        fill(other)
        assert open_cache(path).missing()[0] == ([], [])

    def test_another_median_frame_lets_only_what_moves_be_found_again(self, path: Path) -> None:
        cache = open_cache(path)
        fill(cache)
        before = written(cache.latents.folder)
        other = open_cache(path, background=GREY + 100)
        assert other.missing()[0] == ([], [*range(6)])
        fill(other)
        assert written(other.latents.folder) == before
        one, two = (each.reader().windows([0], [0], 5).moving for each in (cache, other))
        assert not np.array_equal(one, two)

    def test_episodes_that_were_recorded_later_are_added(self, path: Path) -> None:
        cache = open_cache(path)
        fill(cache)
        before = written(cache.latents.folder)
        game = make_tiny_game()
        with RecordingWriter(path, game) as writer:
            writer.write_episode(make_tiny_episode(game, 9, seed=77))
        longer = open_cache(path)
        assert longer.missing() == (([6], [6]), [])
        fill(longer)
        assert written(longer.latents.folder).items() > before.items()

    def test_an_episode_that_was_recorded_again_is_encoded_again(self, path: Path) -> None:
        fill(open_cache(path))
        game = make_tiny_game()
        changed = make_tiny_episode(game, 12, seed=2)
        changed.frames[5] += 1  # all else is as before
        with RecordingWriter(path, game) as writer:
            writer.write_episode(changed, number=2)
        cache = open_cache(path)
        assert cache.missing()[0] == ([2], [2])

    def test_without_the_first_episode_the_others_are_known(self, path: Path) -> None:
        fill(open_cache(path))
        with RecordingWriter(path, make_tiny_game()) as writer:
            writer.delete_episode(0)
        assert open_cache(path).missing()[0] == ([], [])

    def test_damaged_files_are_named_and_made_again(self, path: Path) -> None:
        cache = open_cache(path)
        fill(cache)
        one, two = (cache.latents.path(cache.names[index]) for index in (1, 4))
        shutil.copy(one, two)  # equally long episodes: only its content differs
        one.write_bytes(one.read_bytes()[:-10])
        (no_latents, no_moving), damaged = open_cache(path).missing()
        assert (no_latents, no_moving) == ([1], [])
        assert len(damaged) == 1
        assert damaged[0].startswith(f"{one} is damaged (it has ")
        fill(open_cache(path))

    def test_leftovers_of_a_killed_process_are_deleted_after_a_while(self, path: Path) -> None:
        cache = open_cache(path)
        fill(cache)
        old, new = (cache.latents.folder / f".{name}.part" for name in ("a", "b"))
        for each in (old, new):
            each.touch()
        os.utime(old, (0, time.time() - 7200))
        cache.latents.delete_leftovers()
        assert new.exists()
        assert not old.exists()


class TestPlace:
    def test_that_of_a_recording_elsewhere_is_in_the_folder_of_caches(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "caches"))
        Bucket.downloads.clear()
        recording = Recording(f"bucket://{path}")
        cache = LatentCache(recording, range(6), make_tiny_vae_codec(), GREY)
        fill(cache)
        assert cache.latents.folder.parent == tmp_path / "caches" / "latents"
        assert not (path / "latents").exists()
        # The copy of a recording has the same latents.
        assert cache.names == open_cache(path).names

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
    def test_that_of_a_recording_of_others_too_unless_it_is_complete(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "caches"))
        path.chmod(0o555)
        with ordinary_user(tmp_path):
            assert open_cache(path).latents.folder.is_relative_to(tmp_path / "caches")
        path.chmod(0o755)
        fill(open_cache(path))
        path.chmod(0o555)
        with ordinary_user(tmp_path):
            cache = open_cache(path)
            assert cache.latents.folder.is_relative_to(path)
            assert cache.reader().windows([0], [0], 3).latents is not None

    def test_a_link_is_not_followed(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (path / "latents").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="latents is a link, which is not followed"):
            open_cache(path)


class TestTraining:
    def test_makes_the_cache_and_says_so_once(
        self, path: Path, codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = in_latents(path, tmp_path / "run", codec, steps=2)
        train(config)
        said = capsys.readouterr().err
        assert f"{path}: encoding 5 episodes, once (1x2x2, AutoencoderKL, 4 channels; " in said
        assert "frames a second; training reads these latents" in said
        (folder,) = (path / "latents").glob("[!m]*")
        assert len(list(folder.iterdir())) == 5  # none that is held out
        train(dataclasses.replace(config, resume=True, steps=4))
        assert "encoding" not in capsys.readouterr().err
        next(folder.iterdir()).write_bytes(b"")
        train(dataclasses.replace(config, out=tmp_path / "other"))
        said = capsys.readouterr().err
        assert "is damaged (Expecting value: line 1 column 1 (char 0)), so it is made again" in said
        assert "encoding 1 of 5 episodes, once" in said

    def test_pixels_need_none(self, path: Path, tmp_path: Path) -> None:
        train(make_config(path, tmp_path / "run", steps=1))
        assert not (path / "latents").exists()

    def test_steps_read_no_frames(self, path: Path, codec: Path, tmp_path: Path) -> None:
        run = Run.of(in_latents(path, tmp_path / "run", codec), None)
        shutil.rmtree(data_folder(path) / SHARDS)  # steps are in memory, frames are not
        with pytest.raises(ValueError, match=r"is damaged \(.*No such file"):
            run.data.recordings[0].windows([0], [0], 10)
        losses, _ = run.take_step(RunProgress())
        assert torch.isfinite(losses.frame).all()

    def test_a_full_disk_is_told_before(
        self, path: Path, codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def huge(self: LatentCache, index: int) -> int:
            return 10**18

        monkeypatch.setattr(LatentCache, "num_bytes", huge)
        with pytest.raises(ValueError, match=r"latents of the recording take 5e\+09 GB, and the d"):
            train(in_latents(path, tmp_path / "run", codec))

    @pytest.mark.slow
    def test_processes_share_the_work(self, path: Path, codec: Path, tmp_path: Path) -> None:
        shutil.copytree(path, tmp_path / "copy")
        changes = {"codec": str(codec), **SIX}
        sharded = {"engine.parallel": "fsdp", **changes}
        run_together(2, path, {tmp_path / "two": changes, tmp_path / "sharded": sharded})
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(run_module, "has_fast_bfloat16", lambda device: False)
            monkeypatch.setattr("worldsim.train.optimizers.has_fast_bfloat16", lambda device: False)
            train(make_config(tmp_path / "copy", tmp_path / "one", **changes))
        for name in ("two", "sharded"):
            assert_same_training(tmp_path / name, tmp_path / "one")
        assert len(list((path / "latents").glob("*/*.safetensors"))) == 10


def start_encoding(path: Path, codec: Path, out: Path) -> subprocess.Popen[str]:
    """Train in a process of its own; return when it has encoded some episodes."""
    words = [str(path), "--codec", str(codec), "--out", str(out), "--steps", "1", "--log"]
    process = subprocess.Popen(
        [sys.executable, "-m", "worldsim", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(list(path.glob("latents/*/*.safetensors"))) < 8:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return process


@pytest.mark.slow
class TestInterruption:
    @pytest.fixture
    def long(self, tmp_path: Path) -> Path:
        """A recording that takes seconds to encode."""
        write_tiny_recording(tmp_path / "long", steps=500, episodes=40)
        return tmp_path / "long"

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
    def test_a_stopped_cache_goes_on_with_what_it_has(
        self, signum: signal.Signals, long: Path, codec: Path, tmp_path: Path
    ) -> None:
        process = start_encoding(long, codec, tmp_path / "run")
        process.send_signal(signum)
        _, said = process.communicate(timeout=20)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[signum]
        assert "Traceback" not in said
        files = list(long.glob("latents/*/*.safetensors"))
        before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
        assert 8 <= len(files) < 72
        words = [str(long), "--codec", str(codec), "--out", str(tmp_path / "run")]
        train(read_config([*words, "--steps", "1", "--log"]))
        for file, known in before.items():
            assert (file.stat().st_mtime_ns, file.read_bytes()) == known
        assert len(list(long.glob("latents/*/*.safetensors"))) == 2 * 36  # 4 are held out
