"""A world's folder from anyone: refused in one sentence that names the file, or played."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.edits import edit_json, edit_starts, edit_tensor, ordinary_user
from tests.tiny_worlds import make_tiny_vae_codec, make_tiny_world
from worldsim.world_folder import load
from worldsim.world_model_env import WorldModelEnv


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world's folder as an older version wrote it, without checksums, to be copied."""
    path = tmp_path_factory.mktemp("worlds") / "square"
    make_tiny_world(codec=make_tiny_vae_codec()).save(path)
    edit_json(path / "config.json", lambda config: {**config, "checksums": {}})
    return path


@pytest.fixture
def world_folder(square: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(square, tmp_path / "square"))


def refused(path: Path, words: str, limit: float = 20.0) -> None:
    """Loading says this in one sentence, and far sooner than a bomb would go off."""
    begin = time.monotonic()
    with pytest.raises((ValueError, PermissionError), match=words) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < limit


class TestContents:
    def test_a_world_without_checksums_loads(self, world_folder: Path) -> None:
        assert load(world_folder).num_passes == 2

    @pytest.mark.parametrize(
        ("entry", "value", "words"),
        [
            (
                "num_passes",
                float("inf"),
                "a whole number from 1 to 1,000, got inf",
            ),
            ("num_passes", "2", r"got '2'"),
            ("num_passes", True, r"got True"),
            ("num_passes", 10**9, r"got 1000000000"),
            ("format", "3", "format must be a whole number from 1 to 2,147,483,647, got '3'"),
            ("format", None, "config.json is damaged .format must be"),
            ("game", [], "config.json is damaged"),
            ("checksums", 5, "config.json is damaged"),
            ("checksums", {"starts.h5": 5}, "starts.h5 is damaged"),
        ],
    )
    def test_an_entry_of_the_config_that_makes_no_sense_is_named(
        self, world_folder: Path, entry: str, value: object, words: str
    ) -> None:
        edit_json(world_folder / "config.json", lambda config: {**config, entry: value})
        refused(world_folder, words)

    @pytest.mark.parametrize("name", ["config.json", "metrics.json", "model/config.json"])
    @pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000])
    def test_json_that_is_no_object_is_named(
        self, world_folder: Path, name: str, text: str
    ) -> None:
        (world_folder / name).write_text(text)
        refused(world_folder, rf"{name} is damaged")

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            ("depth", 10**6),
            ("width", 10**6),
            ("width", 10**30),
            ("num_registers", 10**9),
            ("num_registers", -1),
            ("latent_channels", 10**9),
            ("detail_width", 10**9),
            ("patch_size", 10**9),
            ("mlp_ratio", 1e300),
            ("mlp_ratio", float("nan")),
            ("mlp_ratio", True),
            ("time_every", 0),
            ("num_heads", 0),
            ("num_kv_heads", "1"),
            ("num_history", 2.0),
            ("attention", 3),
            ("attention", [3]),
            ("attention", ["local:reach=1000000"]),
            ("attention", ["full"]),
            ("window", 10**9),
            ("window", 1.5),
            ("window", None),
            ("num_actions", 4),
            ("colour", 3),
        ],
    )
    def test_a_model_config_that_does_not_fit_the_weights_is_refused_at_once(
        self, world_folder: Path, entry: str, value: object
    ) -> None:
        edit_json(world_folder / "model/config.json", lambda config: {**config, entry: value})
        refused(world_folder, r"square(/model/\S+)? is damaged")

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            ("layers_per_block", 10**6),
            ("block_out_channels", [8] * 10**5),
            ("block_out_channels", [10**9, 10**9]),
            ("down_block_types", ["os.system", "os.system"]),
            ("act_fn", "os.system"),
            ("norm_num_groups", 0),
            ("scaling_factor", float("nan")),
            ("scaling_factor", 0),
            ("scaling_factor", "1"),
            ("shift_factor", float("inf")),
            ("in_channels", 1),
            ("latent_channels", 5),
            ("colour", 3),
        ],
    )
    def test_a_codec_config_that_does_not_fit_the_weights_is_refused_at_once(
        self, world_folder: Path, entry: str, value: object
    ) -> None:
        edit_json(world_folder / "codec/config.json", lambda config: {**config, entry: value})
        refused(world_folder, r"square/codec/\S+ is damaged")

    @pytest.mark.parametrize(
        "name",
        [
            "head.safetensors",
            "model/diffusion_pytorch_model.safetensors",
            "codec/diffusion_pytorch_model.safetensors",
        ],
    )
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda tensor: tensor * torch.nan, "must hold finite"),
            (lambda tensor: tensor / 0.0, "must hold finite"),
            (lambda tensor: tensor.int(), "floating-point numbers"),
            (lambda tensor: torch.zeros(1_000), r"has shape \(1000,\), but"),
        ],
    )
    def test_weights_that_are_no_numbers_of_the_network_are_named(
        self,
        world_folder: Path,
        name: str,
        change: Callable[[torch.Tensor], torch.Tensor],
        words: str,
    ) -> None:
        edit_tensor(world_folder / name, change)
        refused(world_folder, rf"{name} is damaged \(its .*{words}")

    @pytest.mark.parametrize(
        ("name", "change", "words"),
        [
            ("frames", lambda a: a[:, :, :8], "frames has shape"),
            ("frames", lambda a: a[:0], "no start frame"),
            ("frames", lambda a: a.astype(np.float32), "frames is not of type uint8"),
            ("actions", lambda a: a + 3, r"actions must be in 0..2, or 3 if unknown, got"),
            ("actions", lambda a: a - 1, r"actions must be in 0..2"),
            ("actions", lambda a: a[:, 1:], "actions has shape"),
            ("actions", lambda a: a.astype(np.int8), "actions is not of type int64"),
            ("rewards", lambda a: a * np.nan, "rewards are not all finite"),
            ("rewards", lambda a: a + np.inf, "rewards are not all finite"),
            ("terminations", lambda a: a.astype(np.uint8), "terminations is not of type bool"),
            ("truncations", lambda a: a[0], "truncations has shape"),
            ("valid", lambda a: a[:, 1:], "valid has shape"),
            ("background", lambda a: a[:8], "background has shape"),
        ],
    )
    def test_starts_that_are_not_of_this_game_are_named(
        self, world_folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray], words: str
    ) -> None:
        edit_starts(world_folder / "starts.h5", name, change)
        refused(world_folder, rf"starts.h5 is damaged \(.*{words}")

    def test_starts_that_claim_gigabytes_are_not_read(self, world_folder: Path) -> None:
        with h5py.File(world_folder / "starts.h5", "r+") as file:
            del file["frames"]
            shape = (10**6, 12, 16, 16, 3)
            file.create_dataset("frames", shape, "u1", compression="gzip")
        assert (world_folder / "starts.h5").stat().st_size < 1e6
        refused(world_folder, r"frames takes 9,216,000,000 bytes")


class TestStrangers:
    """A folder from a stranger can do nothing but be played."""

    @pytest.mark.parametrize(
        "name",
        [
            "README.md",
            "metrics.json",
            "head.safetensors",
            "starts.h5",
            "model/config.json",
            "model/diffusion_pytorch_model.safetensors",
            "codec/config.json",
        ],
    )
    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_only_regular_files_are_read(
        self, world_folder: Path, tmp_path: Path, name: str, kind: str
    ) -> None:
        file = world_folder / name
        file.rename(tmp_path / "elsewhere")
        if kind == "link":
            file.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(file)
        else:
            file.mkdir()
        words = "is a link" if kind == "link" else "is not a regular file"
        refused(world_folder, f"{re.escape(str(file))} {words}")

    @pytest.mark.parametrize("name", ["model", "codec"])
    def test_a_folder_in_it_that_is_a_link_is_refused(
        self, world_folder: Path, tmp_path: Path, name: str
    ) -> None:
        (world_folder / name).rename(tmp_path / "elsewhere")
        (world_folder / name).symlink_to(tmp_path / "elsewhere")
        refused(world_folder, f"square/{name} is a link")

    def test_a_module_that_a_config_names_is_not_imported(
        self, world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in (tmp_path, world_folder, world_folder / "model"):
            (folder / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        named = {
            "_class_name": ["payload", "VideoDiT"],
            "_diffusers_version": "payload:run",
            "_use_default_values": ["payload"],
            "auto_map": {"AutoModel": "payload.VideoDiT"},
        }
        for part in ("model", "codec"):
            edit_json(world_folder / part / "config.json", lambda config: {**config, **named})
        refused(world_folder, "auto_map")
        named.pop("auto_map")
        for part in ("model", "codec"):
            edit_json(
                world_folder / part / "config.json",
                lambda config: {k: v for k, v in config.items() if k != "auto_map"},
            )
        refused(world_folder, "its _class_name must be one of AutoencoderKL")
        edit_json(
            world_folder / "codec/config.json",
            lambda config: {**config, "_class_name": "AutoencoderKL"},
        )
        assert load(world_folder).num_passes == 2
        assert not (tmp_path / "ran").exists()

    def test_saving_follows_no_link_and_replaces_nothing_but_a_world(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "thesis").touch()
        (tmp_path / "square.writing").symlink_to(victim)
        make_tiny_world().save(tmp_path / "square")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["square", "victim"]
        with pytest.raises(ValueError, match="victim exists and is not a world"):
            make_tiny_world().save(victim)
        assert [path.name for path in victim.iterdir()] == ["thesis"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
@pytest.mark.parametrize(
    "name", ["config.json", "model", "starts.h5", "head.safetensors", "README.md"]
)
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    world_folder: Path, tmp_path: Path, name: str
) -> None:
    (world_folder / name).chmod(0)
    with ordinary_user(tmp_path):
        refused(world_folder, rf"square/{name}\S* may not be read by this user")


def test_weights_that_overflow_are_reported_and_not_played_as_black_frames(tmp_path: Path) -> None:
    world = make_tiny_world()
    for weight in world.dit.parameters():
        weight.data.fill_(3e38)
    world.save(tmp_path / "square")
    env = WorldModelEnv(tmp_path / "square")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the world predicts numbers that are not finite"):
        env.step(1)
