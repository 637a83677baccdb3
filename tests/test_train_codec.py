"""`worldsim train --codec`: worlds that live in the latents of an autoencoder."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import worldsim
from tests.test_train import assert_same_tensors, make_config, read_losses, send_at
from tests.tiny_worlds import (
    make_tiny_dc_codec,
    make_tiny_game,
    make_tiny_vae_codec,
    make_tiny_video_codec,
    write_tiny_recording,
)
from worldsim.model.codec import LATENT_BOUND
from worldsim.model.find_codec import open_codec
from worldsim.train.auto_codec import with_codec
from worldsim.train.config import Model, TrainConfig, read_config
from worldsim.train.dynamics import train
from worldsim.train.presets import CONTRAST, complete
from worldsim.train.processes import Processes

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "square"
    write_tiny_recording(path, steps=12, episodes=6)
    return path


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    make_tiny_vae_codec().save(tmp_path / "codec")
    return tmp_path / "codec"


def in_latents(recording: Path, out: Path, codec: Path, **changes: object) -> TrainConfig:
    return dataclasses.replace(make_config(recording, out, **changes), codec=str(codec))


def test_a_world_carries_its_codec_and_plays_without_the_folder(
    recording: Path, codec: Path, tmp_path: Path
) -> None:
    result = train(in_latents(recording, tmp_path / "run", codec, steps=3))
    shutil.rmtree(codec)
    world = worldsim.load(tmp_path / "run")
    assert world.codec.fingerprint() == make_tiny_vae_codec().fingerprint()
    assert world.dit.config.patch_size == 8  # of 2 pixels: 16 pixels
    assert world.dit.config.latent_channels == 4
    assert "1x2x2, AutoencoderKL" in world.card
    rollout = worldsim.Rollout(world)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], [0])
    assert rollout.step(np.array([1])).frames.shape == (1, 16, 16, 3)
    # The codec is frozen: it is in the world's folder, and no second time beside it.
    (shard,) = (result.checkpoint / "training").iterdir()
    assert not any("codec" in name for name in load_file(shard))


def test_latents_that_grow_from_step_to_step_stay_finite(
    recording: Path, codec: Path, tmp_path: Path
) -> None:
    train(in_latents(recording, tmp_path / "run", codec, steps=3))
    world = worldsim.load(tmp_path / "run")
    with torch.no_grad():
        world.dit.detail.head[-1].weight *= 1e5  # each frame is far larger than the one before
    rollout = worldsim.Rollout(world)
    rollout.begin([0], [0])
    for _ in range(30):
        step = rollout.step(np.array([1]))
        assert np.isfinite(step.rewards).all()
    assert rollout.latents.abs().max() == LATENT_BOUND


def test_a_world_of_video_latents_trains_and_plays_all_frames_of_a_step(
    recording: Path, tmp_path: Path
) -> None:
    make_tiny_video_codec().save(tmp_path / "video")
    train(in_latents(recording, tmp_path / "run", tmp_path / "video", steps=2))
    world = worldsim.load(tmp_path / "run")
    assert world.patch_frames == 2
    rollout = worldsim.Rollout(world)
    rollout.begin([0], [0])
    rollout.step(np.array([1]))
    assert rollout.clip().shape == (1, 2, 16, 16, 3)


def test_a_resumed_run_goes_on_with_its_own_codec_and_no_other(
    recording: Path, codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(in_latents(recording, tmp_path / "whole", codec, steps=6))
    config = in_latents(recording, tmp_path / "parts", codec, steps=6)
    let_run = send_at(monkeypatch, 3, signal.SIGINT)
    assert train(config).ended == "stopped"
    let_run()
    make_tiny_dc_codec().save(tmp_path / "other")
    words = [str(recording), "--out", str(config.out), "--resume"]
    with pytest.raises(ValueError, match=r"began with the codec .*, and the codec .* is another"):
        train(read_config([*words, "--codec", str(tmp_path / "other")]))
    shutil.move(codec, tmp_path / "moved")
    again = [*words, "--codec", str(tmp_path / "moved")]  # the same one
    assert train(read_config(again)).progress.step == 6
    resumed = train(read_config(words))  # the folder that it began with is gone
    assert resumed.ended == "finished before"
    assert_same_tensors(whole.checkpoint, resumed.checkpoint)
    assert read_losses(tmp_path / "parts")[6] == read_losses(tmp_path / "whole")[6]


def test_a_run_of_pixels_is_not_resumed_in_latents(
    recording: Path, codec: Path, tmp_path: Path
) -> None:
    config = make_config(recording, tmp_path / "run", steps=1)
    train(config)
    later = dataclasses.replace(config, codec=str(codec), resume=True, steps=2)
    with pytest.raises(ValueError, match=r"began with raw pixels, and the codec .* is another one"):
        train(later)


def test_histories_change_their_contrast_in_latents_only(
    recording: Path, codec: Path, tmp_path: Path
) -> None:
    config = in_latents(recording, tmp_path / "run", codec)
    latents = complete(config, (16, 16), codec=make_tiny_vae_codec())
    assert latents.recipe.history_contrast == CONTRAST
    assert complete(config, (16, 16)).recipe.history_contrast is None
    given = make_config(recording, tmp_path / "run", **{"recipe.history_contrast": 0.1})
    assert complete(given, (16, 16)).recipe.history_contrast == 0.1


def test_settings_of_a_file_name_the_codec(recording: Path, codec: Path, tmp_path: Path) -> None:
    config = in_latents(recording, tmp_path / "run", codec)
    config.write()
    words = [str(recording), "--out", str(tmp_path / "again")]
    again = read_config([*words, "--config", str(tmp_path / "run/config.toml")])
    assert again.codec == str(codec)
    assert f"--codec {codec}" in again.command()


@pytest.mark.parametrize(
    ("space_factor", "given", "sides"),
    [(1, None, 8), (4, None, 4), (8, None, 2), (16, None, 1), (32, None, 1), (8, (3,), 3)],
)
def test_a_patch_has_about_16_pixels_of_a_codec_unless_it_is_given(
    space_factor: int, given: tuple[int, ...] | None, sides: int
) -> None:
    assert Model(patch_size=given).patch_sides(space_factor) == (sides, sides)


def test_frames_that_do_not_divide_are_refused_with_their_recording(
    codec: Path, tmp_path: Path
) -> None:
    game = make_tiny_game(frame_size=(16, 21))
    write_tiny_recording(tmp_path / "odd", game=game, episodes=2, steps=3)
    config = in_latents(tmp_path / "odd", tmp_path / "run", codec)
    with pytest.raises(
        ValueError, match=r"odd: this codec needs frame sides .* of 2, got 16x21: r"
    ):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_world_does_not_begin_with_the_codec_of_another(
    recording: Path, codec: Path, tmp_path: Path
) -> None:
    train(in_latents(recording, tmp_path / "run", codec, steps=1))
    changed = make_tiny_vae_codec()
    with torch.no_grad():
        for weights in changed.parameters():
            weights.add_(0.01)
    changed.save(tmp_path / "changed")
    config = in_latents(recording, tmp_path / "next", tmp_path / "changed", steps=1)
    train(dataclasses.replace(config, init=str(tmp_path / "run")))
    assert worldsim.load(tmp_path / "next").codec.fingerprint() == changed.fingerprint()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "square"
    write_tiny_recording(path, steps=6, episodes=3, game=make_tiny_game(frame_size=(128, 128)))
    return path


@pytest.mark.slow
def test_large_frames_get_a_codec_that_is_trained_first(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(large, tmp_path / "run", steps=2)
    train(config)
    said = " ".join(capsys.readouterr().err.split())
    assert "frames of 128x128 are large, so the world learns in latents" in said
    assert "a codec is trained first, 1 steps" in said
    world = worldsim.load(tmp_path / "run")
    assert world.codec.space_factor == 8
    assert world.codec.fingerprint() == open_codec(str(tmp_path / "run/codec"), 3).fingerprint()
    # The run goes on with the codec that it has.
    again = read_config([str(large), "--out", str(tmp_path / "run"), "--resume", "--steps", "3"])
    assert again.codec == str(tmp_path / "run/codec")
    train(again)
    assert "a codec is trained first" not in capsys.readouterr().err


@pytest.mark.slow
def test_raw_pixels_can_be_asked_for_and_are_told_where_no_codec_fits(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(large, tmp_path / "pixels", steps=1)
    train(dataclasses.replace(config, codec="pixels"))
    assert worldsim.load(tmp_path / "pixels").codec.exact
    assert not (tmp_path / "pixels/codec").exists()
    odd = tmp_path / "odd"
    write_tiny_recording(odd, steps=6, episodes=3, game=make_tiny_game(frame_size=(130, 128)))
    train(make_config(odd, tmp_path / "odd_run", steps=1))
    said = " ".join(capsys.readouterr().err.split())
    assert "frames of 130x128 suit a codec, but 130 is no multiple of 8" in said
    assert worldsim.load(tmp_path / "odd_run").codec.exact


def test_the_choice_follows_from_the_frames(recording: Path, large: Path, tmp_path: Path) -> None:
    small = make_config(recording, tmp_path / "run", steps=1)
    assert with_codec(small, Processes()) is small
    named = dataclasses.replace(make_config(large, tmp_path / "run", steps=1), codec="codecs/doom")
    assert with_codec(named, Processes()) is named
