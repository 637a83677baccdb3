"""Latents of a diffusers autoencoder, of single frames or of video."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from worldsim.frames import latents_to_pixels, pixels_to_latents
from worldsim.model.autoencoders import COMPRESSION
from worldsim.model.codec import Codec
from worldsim.model.weights import REMEDY, build_network, read_network_config
from worldsim.system.files import reading

DECODE_CONTEXT = 1  # latents before a latent that a decoder of video sees
PART_PIXELS = 2**20  # that are coded together
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention in weights that an old version of diffusers wrote -> their present names."""


class AutoencoderCodec(Codec):
    """Latents of a diffusers autoencoder, scaled to about unit variance.

    Those of video are causal: the first latent is the first frame, see `Codec`. Each latent is
    decoded together with the one before it, whether frames are decoded one by one or as a clip.

    Args:
        autoencoder: One of the classes of `COMPRESSION`. How latents are scaled follows from its
            ``scaling_factor`` and ``shift_factor``, or ``latents_mean`` and ``latents_std``.

    Raises:
        ValueError: If the scale is not finite, or 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        config: Any = autoencoder.config
        self.latent_channels = int(config.get("latent_channels") or config["z_dim"])
        self.time_factor, self.space_factor = self.factors(autoencoder)
        self.is_video = self.time_factor > 1
        self.decode_context = DECODE_CONTEXT if self.is_video else 0
        buffers = dict(autoencoder.named_buffers())

        def per_channel(name: str, default: float) -> torch.Tensor:
            """A number or one of each channel, in the config or among the weights."""
            value = buffers.get(name, config.get(name))
            value = torch.as_tensor(default if value is None else value, dtype=torch.float32)
            return value.detach().clone().reshape(-1, 1, 1)

        scale = per_channel("scaling_factor", 1.0)
        mean = per_channel("latents_mean", 0.0) + per_channel("shift_factor", 0.0)
        std = per_channel("latents_std", 1.0) / scale
        if not (mean.isfinite().all() and std.isfinite().all() and (std != 0).all()):
            raise ValueError(
                "scaling_factor, shift_factor, latents_mean and latents_std must be finite, and "
                f"none but the means 0; got a mean of {mean.flatten().tolist()} and a deviation of "
                f"{std.flatten().tolist()}"
            )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @staticmethod
    def factors(autoencoder: nn.Module) -> tuple[int, int]:
        """Frames of a latent, and pixels along each side of its cell."""
        config: Any = autoencoder.config
        frames, side = COMPRESSION[type(autoencoder).__name__](config)
        return int(frames), int(side)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the autoencoder in the layout of diffusers."""
        self.autoencoder.save_pretrained(folder)  # type: ignore[operator]

    def settings(self) -> dict[str, list[float]]:
        """Mean and deviation of its latents before they are scaled."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    @classmethod
    def load(
        cls, kind: str, config: Path, weights: Path, channels: int, remedy: str = REMEDY
    ) -> AutoencoderCodec:
        """Read an autoencoder for frames with these channels; errors as in `load_codec`.

        Args:
            kind: Its class, one of `COMPRESSION`.
            config: Its config, a JSON file.
            weights: Its weights, in safetensors.
            channels: Of the frames.
            remedy: What to do if a file is missing, damaged or unfit, for the error.
        """
        import diffusers  # importing takes seconds, and most worlds have no codec

        with reading(config, remedy) as file:
            settings = read_network_config(file)
        with reading(weights, remedy) as file:
            make = getattr(diffusers, kind)
            autoencoder = build_network(lambda: make(**settings), file, OLD_NAMES)
            about = autoencoder.config
            maps = (
                about["in_channels"],
                about.get("out_channels") or about["in_channels"],
            )
            if maps == (channels, channels):
                return cls(autoencoder.eval())
        raise ValueError(
            f"the codec {weights.parent} maps {maps[0]} to {maps[1]} channels, but frames have "
            f"{channels}: {remedy}"
        )

    def identity(self) -> dict[str, Any]:
        """Its class and config, which decide its latents together with its weights."""
        config = self.autoencoder.config
        about = {name: config[name] for name in config if not name.startswith("_")}  # type: ignore
        return {"class": type(self.autoencoder).__name__, **about}

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t height width c) to latents (b t' c h w), see `Codec.encode`."""
        b = len(frames)
        images = pixels_to_latents(frames)
        if self.is_video:
            videos = rearrange(images, "b t c h w -> b c t h w")
            latents = self._encode(videos)
            latents = rearrange(latents, "b c t h w -> b t c h w")
        else:
            flat = self._encode(rearrange(images, "b t c h w -> (b t) c h w"))
            latents = rearrange(flat, "(b t) c h w -> b t c h w", b=b)
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        """Map latents (b t' c h w) to uint8 frames (b t height width c), see `Codec.decode`."""
        b = len(latents)
        if self.is_video:
            every = latents if past is None else torch.cat((past, latents), dim=1)
            videos = rearrange(every * self.std + self.mean, "b t c h w -> b c t h w")
            numbers = range(every.shape[1] - latents.shape[1], every.shape[1])
            decoded = torch.cat([self._decode_one(videos, number) for number in numbers], dim=2)
            return latents_to_pixels(rearrange(decoded, "b c t h w -> b t c h w"))
        flat = rearrange(latents * self.std + self.mean, "b t c h w -> (b t) c h w")
        return latents_to_pixels(rearrange(self._decode(flat), "(b t) c h w -> b t c h w", b=b))

    def _decode_one(self, latents: torch.Tensor, number: int) -> torch.Tensor:
        """The frames (b c p h w) of one of the latents (b c t h w); the first is one frame."""
        seen = latents[:, :, max(0, number - self.decode_context) : number + 1]
        frames = self._decode(seen)
        return frames[:, :, -self.time_factor :] if number else frames

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        def encode(part: torch.Tensor) -> torch.Tensor:
            output = self.autoencoder.encode(part)  # type: ignore[operator]
            latents = output.latent if hasattr(output, "latent") else output.latent_dist.mode()
            assert isinstance(latents, torch.Tensor)
            return latents

        return _in_parts(encode, images, math.prod(images.shape[2:]))

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        def decode(part: torch.Tensor) -> torch.Tensor:
            images = self.autoencoder.decode(part).sample  # type: ignore[operator]
            assert isinstance(images, torch.Tensor)
            return images

        pixels = math.prod(latents.shape[2:]) * self.space_factor**2 * self.time_factor
        return _in_parts(decode, latents, pixels)


def _in_parts(
    function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, pixels: int
) -> torch.Tensor:
    """Apply a function to parts of a batch, so that activations take bounded memory.

    Args:
        function: Maps each entry of a batch by itself.
        inputs: The batch.
        pixels: Those of an entry.
    """
    return torch.cat([function(part) for part in inputs.split(max(1, PART_PIXELS // pixels))])
