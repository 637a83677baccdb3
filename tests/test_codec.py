from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.edits import edit_json
from tests.tiny_worlds import (
    make_tiny_dc_codec,
    make_tiny_vae_codec,
    make_tiny_video_codec,
)
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.codec import Codec, PixelCodec, load_codec

pytestmark = pytest.mark.numeric


def random_frames(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8))


class TestPixelCodec:
    @pytest.mark.parametrize("shape", [(2, 3, 16, 16, 3), (1, 1, 63, 65, 1)])
    def test_decoding_gives_the_very_frames(self, shape: tuple[int, ...]) -> None:
        frames = random_frames(*shape)
        codec = PixelCodec(shape[-1])
        latents = codec.encode(frames)
        assert latents.shape == (*shape[:2], codec.latent_channels, *codec.latent_size(shape[2:4]))
        assert torch.equal(codec.decode(latents), frames)

    def test_is_exact_so_that_shown_frames_are_the_remembered_ones(self) -> None:
        codec = PixelCodec()
        assert codec.exact
        shown = codec.decode(torch.randn(1, 2, 3, 8, 8))
        assert torch.equal(codec.decode(codec.encode(shown)), shown)

    def test_leaves_no_files(self, tmp_path: Path) -> None:
        PixelCodec().save(tmp_path / "codec")
        assert not (tmp_path / "codec").exists()
        loaded = load_codec(tmp_path / "codec", 1)
        assert isinstance(loaded, PixelCodec)
        assert loaded.latent_channels == 1


class EveryFourFrames(PixelCodec):
    time_factor = 4


class TestTime:
    """Latent 0 is frame 0 alone, latent k the ``time_factor`` frames after the latent before it."""

    @pytest.mark.parametrize("kind", [PixelCodec, EveryFourFrames])
    def test_every_frame_lies_in_one_latent_in_order(self, kind: type[Codec]) -> None:
        codec = kind()
        frames = [frame for latent in range(6) for frame in codec.frames_of(latent)]
        assert frames == list(range(5 * codec.time_factor + 1))
        assert all(frame in codec.frames_of(codec.latent_of(frame)) for frame in frames)
        assert list(codec.frames_of(0)) == [0]

    def test_what_lies_before_the_first_frame_is_refused(self) -> None:
        with pytest.raises(ValueError, match="frame must be a whole number from 0, got -1"):
            PixelCodec().latent_of(-1)
        with pytest.raises(ValueError, match="latent must be a whole number from 0, got -1"):
            PixelCodec().frames_of(-1)


class TestAutoencoderCodec:
    @pytest.mark.parametrize("kind", [make_tiny_dc_codec, make_tiny_video_codec])
    def test_it_is_found_by_its_name(
        self, kind: Callable[[], AutoencoderCodec], tmp_path: Path
    ) -> None:
        codec, frames = kind(), random_frames(2, 5, 16, 24, 3)
        codec.save(tmp_path / "codec")
        loaded = load_codec(tmp_path / "codec", 3)
        latents = codec.encode(frames)
        assert latents.shape[:2] == (2, 1 + 4 // codec.time_factor)
        assert latents.shape[2:] == (codec.latent_channels, *codec.latent_size((16, 24)))
        assert torch.equal(loaded.encode(frames), latents)
        assert torch.equal(loaded.decode(latents), codec.decode(latents))
        assert codec.decode(latents).shape == frames.shape
        assert loaded.settings() == codec.settings()

    @pytest.mark.parametrize("channels", [1, 3])
    def test_shapes(self, channels: int) -> None:
        codec = make_tiny_vae_codec(channels)
        frames = random_frames(2, 3, 16, 24, channels)
        latents = codec.encode(frames)
        assert latents.shape == (2, 3, codec.latent_channels, *codec.latent_size((16, 24)))
        decoded = codec.decode(latents)
        assert (decoded.shape, decoded.dtype) == (frames.shape, torch.uint8)

    def test_each_frame_is_coded_by_itself(self) -> None:
        codec = make_tiny_vae_codec()
        frames = random_frames(2, 3, 16, 16, 3)
        alone = codec.encode(frames[1:, 2:])
        torch.testing.assert_close(codec.encode(frames)[1:, 2:], alone, atol=1e-5, rtol=1e-5)
        decoded, decoded_alone = codec.decode(codec.encode(frames))[1:, 2:], codec.decode(alone)
        assert (decoded.int() - decoded_alone.int()).abs().max() <= 1

    def test_scale_and_shift_of_the_autoencoder_are_used(self) -> None:
        codec, frames = make_tiny_vae_codec(), random_frames(1, 2, 16, 16, 3)
        codec.autoencoder.register_to_config(scaling_factor=2.0, shift_factor=0.5)
        scaled = AutoencoderCodec(codec.autoencoder)
        plain = codec.encode(frames) * codec.std
        torch.testing.assert_close(scaled.encode(frames), (plain - 0.5) * 2)
        decoded = scaled.decode(scaled.encode(frames))
        assert (decoded.int() - codec.decode(codec.encode(frames)).int()).abs().max() <= 1

    def test_saved_and_loaded_it_codes_alike(self, tmp_path: Path) -> None:
        codec, frames = make_tiny_vae_codec(), random_frames(1, 2, 16, 16, 3)
        codec.save(tmp_path / "codec")
        loaded = load_codec(tmp_path / "codec", 3)
        latents = codec.encode(frames)
        assert torch.equal(loaded.encode(frames), latents)
        assert torch.equal(loaded.decode(latents), codec.decode(latents))

    def test_a_codec_of_an_unknown_kind_is_refused_by_its_name(self, tmp_path: Path) -> None:
        make_tiny_vae_codec().save(tmp_path / "codec")
        edit_json(tmp_path / "codec/config.json", lambda c: {**c, "_class_name": "os.system"})
        with pytest.raises(ValueError, match=r"must be one of AutoencoderKL, .*, got 'os\.system'"):
            load_codec(tmp_path / "codec", 3)

    @pytest.mark.parametrize("frame_size", [(15, 16), (16, 21)])
    def test_frames_that_do_not_divide_are_refused(self, frame_size: tuple[int, int]) -> None:
        h, w = frame_size
        with pytest.raises(
            ValueError, match=f"frame sides that are multiples of 2, got {h}x{w}: record at such"
        ):
            make_tiny_vae_codec().latent_size(frame_size)

    def test_is_not_trained_with_the_world(self) -> None:
        assert not any(p.requires_grad for p in make_tiny_vae_codec().parameters())


class TestVideo:
    """A latent of video is several frames; the first one is the first frame."""

    def test_a_still_is_the_first_latent_of_a_clip(self) -> None:
        codec, frames = make_tiny_video_codec(), random_frames(1, 9, 16, 16, 3)
        latents = codec.encode(frames)
        torch.testing.assert_close(codec.encode(frames[:, :1]), latents[:, :1])
        # No latent tells of later frames.
        torch.testing.assert_close(codec.encode(frames[:, :5]), latents[:, :3])

    def test_frames_are_decoded_one_by_one_as_in_a_clip(self) -> None:
        codec = make_tiny_video_codec()
        latents = torch.randn(2, 6, codec.latent_channels, 8, 8)
        whole = codec.decode(latents)
        assert whole.shape == (2, 11, 16, 16, 3)
        for k in range(1, 6):
            frames = [*codec.frames_of(k)]
            past = latents[:, max(0, k - codec.decode_context) : k]
            alone = codec.decode(latents[:, k : k + 1], past)
            assert (alone.int() - whole[:, frames].int()).abs().max() <= 1

    def test_means_and_deviations_are_those_of_the_weights(self) -> None:
        codec, frames = make_tiny_video_codec(), random_frames(1, 5, 16, 16, 3)
        before = codec.encode(frames)
        with torch.no_grad():
            codec.autoencoder.latents_mean.fill_(0.5)
            codec.autoencoder.latents_std.fill_(2)
        scaled = AutoencoderCodec(codec.autoencoder)
        torch.testing.assert_close(scaled.encode(frames), (before - 0.5) / 2)
        shown = scaled.decode(scaled.encode(frames)).int()
        assert (shown - codec.decode(before).int()).abs().max() <= 1

    def test_a_scale_of_nothing_is_refused(self) -> None:
        codec = make_tiny_dc_codec()
        codec.autoencoder.register_to_config(scaling_factor=float("inf"))
        with pytest.raises(ValueError, match="must be finite, and none but the means 0"):
            AutoencoderCodec(codec.autoencoder)
