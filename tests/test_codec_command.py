"""`worldsim codec`: from a recording to an autoencoder that a world can take."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from tests.tiny_worlds import write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.eval.codec_fidelity import small_things
from worldsim.frames import latents_to_pixels, pixels_to_latents
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.autoencoder_sizes import Compression, make_autoencoder
from worldsim.model.codec import load_codec
from worldsim.train.codec import with_statistics
from worldsim.train.codec_checkpoint import STATE
from worldsim.train.codec_config import CodecTraining, main
from worldsim.train.codec_objective import (
    RunningStatistics,
    codec_loss,
    decode,
    draw_corners,
    draw_crops,
    encode,
    statistics,
)

pytestmark = pytest.mark.numeric
WORDS = ["--log", "--device", "cpu", "--training.crop", "64"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "square"
    write_tiny_recording(path, episodes=4, steps=20)
    return path


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsim.train.codec.has_fast_bfloat16", lambda _: False)


def test_each_compression_is_that_of_its_autoencoder() -> None:
    for frames, side in itertools.product((1, 2, 4, 8), (4, 8, 16, 32)):
        if frames <= side:
            compression = Compression.parse(f"{frames}x{side}x{side}")
            factors = AutoencoderCodec.factors(make_autoencoder(compression, 3))
            assert factors == (frames, side)
    channels = [Compression.parse(text).channels for text in ("1x8x8", "1x16x16", "4x8x8")]
    assert channels == [8, 16, 16]


@pytest.mark.parametrize("text", ["1x8x16", "3x8x8", "8x4x4", "1x64x64", "8x8", "1x8x8\n"])
def test_another_compression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a compression is FRAMESxHEIGHTxWIDTH, with 1, 2, 4 or 8"):
        Compression.parse(text)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["1x4x4", "2x4x4"])
def test_a_trained_codec_is_ready_for_a_world(
    compression: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codec"
    words = [str(recording), "--out", str(out), "--compression", compression, *WORDS]
    assert main([*words, "--steps", "60", "--training.lr", "0.02"]) == 0
    assert f"next: worldsim train {recording} --codec {out}" in capsys.readouterr().out
    codec = load_codec(out, 3)
    assert isinstance(codec, AutoencoderCodec)
    frames = torch.from_numpy(Recording(recording).episode(0).frames[None])
    latents = codec.encode(frames)
    assert 0.7 < latents.std() < 1.3
    assert abs(latents.mean()) < 0.3
    decoded = codec.decode(latents)
    assert decoded.shape == frames.shape
    # It has learned something: better than grey.
    error, of_grey = ((frames.float() - each).abs().mean() for each in (decoded.float(), 128.0))
    assert error < 0.5 * of_grey
    figures = json.loads((out / "figures.json").read_text())
    assert figures["latent_deviation"] == pytest.approx(1, abs=0.3)
    assert figures["psnr"] > 10
    assert (out / "frames.png").stat().st_size > 500
    assert f"{figures['psnr']:.1f} dB" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_codec_goes_on_as_if_it_had_not_been(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(recording), "--compression", "1x4x4", "--steps", "4", *WORDS, "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    calls = itertools.count()

    def killed(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return codec_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("worldsim.train.codec.SAVE_SECONDS", -1.0)
        patch.setattr("worldsim.train.codec.codec_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            main([*words, str(tmp_path / "two")])
    assert main([*words, str(tmp_path / "two"), "--resume"]) == 0
    one, two = (load_file(tmp_path / name / STATE) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    kinds = {"weights", "average", "statistics", "Muon", "AdamW"}
    assert {name.partition(".")[0] for name in one} == kinds
    codecs = [load_codec(tmp_path / name, 3).state_dict() for name in ("one", "two")]
    assert all(torch.equal(tensor, codecs[1][name]) for name, tensor in codecs[0].items())


@pytest.mark.slow
def test_a_stopped_codec_is_kept_and_goes_on(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "codec"
    words = [str(recording), "--out", str(out), "--compression", "1x4x4", *WORDS]
    command = [sys.executable, "-m", "worldsim", "codec", *words, "--minutes", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "from the start" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 130
    assert load_codec(out, 3).space_factor == 4
    with pytest.raises(ValueError, match="already holds a codec: add --resume"):
        main([*words, "--steps", "1"])
    assert main([*words, "--minutes", "0.0001", "--resume"]) == 0
    assert (out / "figures.json").exists()


def test_bad_input_is_named(recording: Path, tmp_path: Path) -> None:
    words = [str(recording), "--out", str(tmp_path / "codec"), "--steps", "1", *WORDS]
    with pytest.raises(ValueError, match="needs frame sides that are multiples of 32, got 16x16"):
        main([*words, "--compression", "1x32x32"])
    with pytest.raises(ValueError, match=r"there is no codec in .* to resume"):
        main([*words, "--resume"])
    assert main([*words, "--compression", "1x4x4"]) == 0
    with pytest.raises(ValueError, match="has --compression 1x4x4, got 1x8x8: leave the option"):
        main([*words, "--compression", "1x8x8", "--resume"])
    (tmp_path / "codec" / STATE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"training\.safetensors is damaged"):
        main([*words, "--resume"])


def test_crops_are_parts_of_recorded_frames(recording: Path) -> None:
    recorded = Recording(recording)
    background = recorded.median_frame()
    config = CodecTraining(batch_size=8, crop=16, moving_weight=3.0)
    crops = draw_crops([recorded], [[0, 1]], [background], config, 3, (0, 0))
    assert crops.images.shape == (8, 3, 3, 8, 8)
    assert crops.weights.mean() == pytest.approx(1)
    levels = crops.weights.unique()
    assert len(levels) == 2  # still and moving
    assert levels[1] / levels[0] == pytest.approx(4)
    frames = np.concatenate([recorded.episode(number).frames for number in (0, 1)])
    every = pixels_to_latents(frames)
    for crop in crops.images[:, :, 0]:
        windows = every.unfold(2, 8, 1).unfold(3, 8, 1)  # n c y x 8 8
        errors = (windows - crop[None, :, None, None]).abs().amax((1, 4, 5))
        assert errors.min() == 0
    again = draw_crops([recorded], [[0, 1]], [background], config, 3, (0, 0))
    assert torch.equal(again.images, crops.images)


def test_crops_see_the_edges_of_frames_too() -> None:
    rng = np.random.default_rng(0)
    corners = draw_corners(rng, np.array([96, 128]), np.array([32, 64]), 4_000)
    assert corners.min(0).tolist() == [0, 0]
    assert corners.max(0).tolist() == [64, 64]
    assert ((corners == 64).mean(0) > 0.15).all()  # 1 in 65 if corners were drawn evenly
    assert ((corners == 0).mean(0) > 0.15).all()


@pytest.mark.parametrize("text", ["1x4x4", "2x4x4"])
def test_a_finished_codec_decodes_what_its_decoder_learned_from(recording: Path, text: str) -> None:
    torch.manual_seed(0)
    compression = Compression.parse(text)
    model = make_autoencoder(compression, 3).eval()
    with torch.no_grad():
        last = model.encoder.conv_out
        getattr(last, "conv", last).bias.add_(7)
    recorded = Recording(recording)
    length = 1 + compression.frames
    crops = draw_crops(
        [recorded], [[0, 1]], [recorded.median_frame()], CodecTraining(), length, (0, 0)
    )
    codec = with_statistics(model, [crops])
    windows = recorded.windows([0, 1], [3, 4], length).frames
    frames = torch.from_numpy(windows if compression.frames > 1 else windows[:, :1])
    latents = codec.encode(frames)
    raw = encode(model, rearrange(pixels_to_latents(frames), "b t c h w -> b c t h w"))
    mean, std = statistics(encode(model, crops.images))
    normal = (raw - mean) / std
    torch.testing.assert_close(
        rearrange(latents, "b t c h w -> b c t h w"), normal, atol=1e-3, rtol=1e-3
    )
    images = rearrange(decode(model, normal), "b c t h w -> b t c h w")
    difference = codec.decode(latents).int() - latents_to_pixels(images).int()
    assert difference.abs().max() <= 1


def test_latents_in_training_are_those_of_play_and_their_scale_cannot_grow() -> None:
    torch.manual_seed(0)
    running = RunningStatistics(2)
    offset = torch.tensor([5.0, -1.0]).view(1, 2, 1, 1, 1)
    for step in range(2_000):
        running.normalise(offset + 3 * torch.randn(4, 2, 1, 4, 4), step)
    torch.testing.assert_close(running.mean, offset, atol=0.1, rtol=0)
    torch.testing.assert_close(running.std, torch.full_like(offset, 3.0), atol=0.1, rtol=0)

    unlike = offset + 1 + 6 * torch.randn(4, 2, 1, 4, 4)  # a batch that shows something else
    scale = torch.ones((), requires_grad=True)
    normal = running.normalise(scale * unlike, 2_000)
    torch.testing.assert_close(normal, (unlike - running.mean) / running.std)
    weights = torch.randn(normal.shape)
    (gradient,) = torch.autograd.grad((normal * weights).sum(), scale)
    assert abs(gradient) < 1e-3 * weights.abs().sum()


def test_small_things_are_found_and_weighed() -> None:
    background = np.full((12, 12, 3), 100, np.uint8)
    real, shown = np.stack([background] * 2), np.stack([background] * 2)
    real[0, 1:3, 1] = 200  # two pixels, well kept
    shown[0, 1:3, 1] = 160
    real[0, 8, 8] = 0  # one pixel, faint
    shown[0, 8, 8] = 60
    real[1, :6, :6] = 250  # no small thing
    assert small_things(real, shown, background) == (2, 0.5)
    assert small_things(real[1:], shown[1:], background)[0] == 0
