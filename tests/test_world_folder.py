"""World folders: they come back as they were, and nothing in one can do more than be played."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import worldsim
from tests.tiny_worlds import make_tiny_game, make_tiny_vae_codec, make_tiny_world
from worldsim.find_world import BUNDLED
from worldsim.rollout import Rollout
from worldsim.system.files import checksum
from worldsim.world_folder import load
from worldsim.world_model import WorldModel


def play(world: WorldModel, steps: int = 6) -> list[np.ndarray]:
    rollout = Rollout(world)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], seeds=[5])
    return [part for t in range(steps) for part in rollout.step(np.array([t % 3]))]


class TestFolder:
    @pytest.mark.parametrize("with_vae", [False, True])
    def test_a_saved_world_plays_the_very_same_frames(self, tmp_path: Path, with_vae: bool) -> None:
        codec = make_tiny_vae_codec() if with_vae else None
        world = make_tiny_world(codec=codec)
        world.metrics, world.card, world.num_passes = {"psnr": {"1": 30.5}}, "# Square\nτ", 3
        world.save(tmp_path / "square")
        loaded = load(tmp_path / "square", device="cpu")
        assert not loaded.training
        assert (loaded.metrics, loaded.card) == (world.metrics, world.card)
        assert (loaded.num_passes, loaded.window) == (3, world.window)
        assert loaded.game == world.game
        assert np.array_equal(loaded.background, world.background)
        for name, ours in world.starts.arrays.items():
            theirs = loaded.starts.arrays[name]
            assert np.array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        weights = world.state_dict()
        assert all(torch.equal(weights[name], p) for name, p in loaded.state_dict().items())
        for ours, theirs in zip(play(world), play(loaded), strict=True):
            assert np.array_equal(ours, theirs)

    def test_no_file_of_it_is_a_pickle(self, tmp_path: Path) -> None:
        make_tiny_world(codec=make_tiny_vae_codec()).save(tmp_path / "square")
        files = [path for path in (tmp_path / "square").rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".json", ".safetensors", ".h5", ".md"}
        assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in files)

    @pytest.mark.parametrize("folder", ["model", "codec"])
    def test_a_pickle_in_it_is_not_opened(self, tmp_path: Path, folder: str) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        weights = path / folder / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
        with pytest.raises(ValueError, match=f"there is no .*/{folder}/.*safetensors"):
            load(path)

    def test_of_another_format_it_is_refused_with_both_numbers(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path)
        (tmp_path / "config.json").write_text('{"format": 1}')
        with pytest.raises(
            ValueError, match="has format 1 and this version of worldsim reads 3 to 4"
        ):
            load(tmp_path)

    def test_whoever_may_read_the_folder_may_read_its_weights(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "square")
        files = [path for path in (tmp_path / "square").rglob("*") if path.is_file()]
        assert len({path.stat().st_mode for path in files}) == 1

    def test_saving_again_replaces_the_complete_world(self, tmp_path: Path) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        world = make_tiny_world(make_tiny_game(fps=30.0))
        world.save(path)
        assert load(path).game.fps == 30
        assert not (path / "codec").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["square"]

    def test_a_grey_world_of_odd_size_comes_back(self, tmp_path: Path) -> None:
        game = make_tiny_game(frame_size=(20, 27), channels=1)
        world = make_tiny_world(game)
        world.save(tmp_path / "grey")
        for ours, theirs in zip(play(world), play(load(tmp_path / "grey")), strict=True):
            assert np.array_equal(ours, theirs)


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff\x00\x81" * 40)


def forget_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path, metadata={"format": "pt"})


def forget_an_entry(path: Path) -> None:
    values = json.loads(path.read_text())
    values.pop("num_passes")
    path.write_text(json.dumps(values))


class TestDamage:
    @pytest.mark.parametrize("damage", [halve, scramble, Path.unlink])
    @pytest.mark.parametrize(
        "name",
        [
            "config.json",
            "head.safetensors",
            "starts.h5",
            "metrics.json",
            "model/config.json",
            "model/diffusion_pytorch_model.safetensors",
            "codec/diffusion_pytorch_model.safetensors",
        ],
    )
    def test_is_reported_in_one_sentence(
        self, tmp_path: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        damage(path / name)
        gone = damage is Path.unlink and name == "config.json"  # then it is no world at all
        if gone:
            reason = f"no world at {str(path)!r}"
        elif damage is Path.unlink:
            reason = f"there is no {path / name}: save the world again"
        else:
            reason = f"{path / name} is damaged"
        with pytest.raises(ValueError, match=re.escape(reason)) as error:
            load(path)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("config.json", forget_an_entry),
            ("head.safetensors", forget_a_weight),
            ("model/diffusion_pytorch_model.safetensors", forget_a_weight),
        ],
    )
    def test_what_lacks_a_part_is_not_filled_up_at_random(
        self, tmp_path: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        make_tiny_world().save(tmp_path / "square")
        damage(tmp_path / "square" / name)
        with pytest.raises(ValueError, match="is damaged"):
            load(tmp_path / "square")


class TestChecksums:
    @pytest.mark.parametrize(
        "name",
        [
            "starts.h5",
            "head.safetensors",
            "model/config.json",
            "model/diffusion_pytorch_model.safetensors",
            "codec/config.json",
            "codec/diffusion_pytorch_model.safetensors",
        ],
    )
    def test_a_flipped_bit_is_named(self, tmp_path: Path, name: str) -> None:
        make_tiny_world(codec=make_tiny_vae_codec()).save(tmp_path / "square")
        file = tmp_path / "square" / name
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged .its checksum differs"):
            load(tmp_path / "square")

    def test_they_are_those_that_sha256sum_prints(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "square")
        sums = json.loads((tmp_path / "square" / "config.json").read_text())["checksums"]
        assert set(sums) == {
            "starts.h5",
            "head.safetensors",
            "model/config.json",
            "model/diffusion_pytorch_model.safetensors",
        }
        (tmp_path / "empty").touch()
        assert checksum(tmp_path / "empty").startswith("sha256:e3b0c44298fc1c149afbf4c8996fb924")


class TestNames:
    def test_an_unknown_name_lists_the_bundled_ones(self) -> None:
        bundled = sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())
        with pytest.raises(ValueError, match="no world at 'atlantis'") as error:
            worldsim.load("atlantis")
        assert f"({', '.join(bundled)})" in str(error.value)

    def test_a_run_folder_means_its_newest_checkpoint(self, tmp_path: Path) -> None:
        for step in (999, 10_000, 9_000):
            make_tiny_world(make_tiny_game(fps=step)).save(tmp_path / f"step_{step:08d}")
        (tmp_path / "step_00020000.partial").mkdir()
        (tmp_path / "step_00030000").symlink_to(tmp_path / "step_00000999")  # none is followed
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        assert load(tmp_path).game.fps == load(str(tmp_path)).game.fps == 10_000

    def test_an_empty_run_is_no_world(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a run folder with a checkpoint"):
            load(tmp_path)

    def test_a_path_in_the_home_folder_is_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        make_tiny_world().save("~/square")
        assert (tmp_path / "square" / "config.json").is_file()
        assert worldsim.load("~/square").num_passes == 2


@pytest.mark.slow
def test_a_world_comes_back_whatever_the_locale(tmp_path: Path) -> None:
    world = make_tiny_world(make_tiny_game(action_meanings=("乒", "乓", "τ")))
    world.card = "# Öffne τ 乒乓"
    world.save(tmp_path / "written in UTF-8")
    script = (
        "import locale, sys, worldsim\n"
        "assert locale.getpreferredencoding(False).upper() not in ('UTF-8', 'UTF8')\n"
        "world = worldsim.load(sys.argv[1])\n"
        "world.save(sys.argv[2])\n"
    )
    paths = [str(tmp_path / name) for name in ("written in UTF-8", "written in ASCII")]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, *paths], env=environment, check=True)
    loaded = load(paths[1])
    assert (loaded.card, loaded.game) == (world.card, world.game)
