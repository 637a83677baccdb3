"""Frames to latents and back: the identity for small frames, a diffusers VAE for large ones.

A world's folder has its codec in ``codec/``, in the layout of diffusers; ``_class_name`` in its
config is the key in `CODECS`. A world of pixels has no such folder.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn

from worldsim.frames import latents_to_pixels, pixels_to_latents
from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, build_network, read_network_config
from worldsim.system.files import read_object, reading

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Codec(nn.Module):
    """Base class: maps frames to latents and back.

    Time is compressed causally: latent 0 is frame 0 only, and latent k the frames
    ``time_factor * (k - 1) + 1`` to ``time_factor * k``.

    Attributes:
        latent_channels: Channels of a latent.
        space_factor: Pixels along each side of a latent's cell.
        time_factor: Frames per latent; a world needs 1 so far.
        exact: Whether decoding and encoding again gives the same latent.
    """

    latent_channels: int
    space_factor: int = 1
    time_factor: int = 1
    exact: bool = False

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t height width c) to latents (b t c h w)."""
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t height width c)."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder that `load_codec` reads, and create it."""
        raise NotImplementedError

    def settings(self) -> dict[str, float]:
        """The numbers that decide its latents, apart from its weights."""
        return {}

    def latent_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latent of a frame.

        Raises:
            ValueError: If a side is not a multiple of ``space_factor``.
        """
        h, w = frame_size
        if h % self.space_factor or w % self.space_factor:
            raise ValueError(
                f"this codec needs frame sides that are multiples of {self.space_factor}, got "
                f"{h}x{w}: record at such a size"
            )
        return h // self.space_factor, w // self.space_factor

    def latent_of(self, frame: int) -> int:
        """The index of a frame's latent.

        Raises:
            ValueError: If ``frame`` is negative.
        """
        if frame < 0:
            raise ValueError(f"frame must be a whole number from 0, got {frame}")
        return -(-frame // self.time_factor)

    def frames_of(self, latent: int) -> range:
        """The indices of a latent's frames, in the order of time.

        Raises:
            ValueError: If ``latent`` is negative.
        """
        if latent < 0:
            raise ValueError(f"latent must be a whole number from 0, got {latent}")
        first = self.time_factor * (latent - 1) + 1 if latent else 0
        return range(first, self.time_factor * latent + 1)


class PixelCodec(Codec):
    """Latents are the pixels themselves, in [-1, 1], for frames up to about 96 pixels.

    Args:
        channels: 3 for colour, 1 for grey.
    """

    exact = True

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.latent_channels = channels

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t height width c) to latents (b t c h w)."""
        return pixels_to_latents(frames)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t height width c)."""
        return latents_to_pixels(latents)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write nothing: a world without the folder has pixels as latents."""


class VAECodec(Codec):
    """Latents of a diffusers ``AutoencoderKL``, scaled to about unit variance.

    Args:
        vae: The autoencoder; its config's ``scaling_factor`` and ``shift_factor`` are used.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.latent_channels = vae.config.latent_channels
        self.space_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.shift_factor or 0.0

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the autoencoder in the layout of diffusers."""
        self.vae.save_pretrained(folder)

    def settings(self) -> dict[str, float]:
        """Its scale and shift."""
        return {"scale": self.scale, "shift": self.shift}

    @classmethod
    def load(cls, config: Path, weights: Path, channels: int) -> VAECodec:
        """Read an autoencoder for frames with these channels; errors as in `load_codec`."""
        from diffusers import AutoencoderKL  # importing takes seconds, and most worlds have none

        with reading(config, REMEDY) as file:
            settings = read_network_config(file)
        with reading(weights, REMEDY) as file:
            vae = build_network(lambda: AutoencoderKL(**settings), file)
            maps = vae.config.in_channels, vae.config.out_channels
            if maps != (channels, channels):
                raise ValueError(
                    f"it maps {maps[0]} to {maps[1]} channels, but frames have {channels}"
                )
            codec = cls(vae)
            if not math.isfinite(codec.scale) or not codec.scale or not math.isfinite(codec.shift):
                raise ValueError(
                    "scaling_factor and shift_factor must be finite and the first not 0, got "
                    f"{codec.scale} and {codec.shift}"
                )
        return codec

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t height width c) to the posterior's mean (b t c h w)."""
        images = rearrange(pixels_to_latents(frames), "b t c h w -> (b t) c h w")
        latents = (self.vae.encode(images).latent_dist.mode() - self.shift) * self.scale
        return rearrange(latents, "(b t) c h w -> b t c h w", b=frames.shape[0])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t height width c)."""
        scaled = rearrange(latents, "b t c h w -> (b t) c h w") / self.scale + self.shift
        images = rearrange(
            self.vae.decode(scaled).sample, "(b t) c h w -> b t c h w", b=latents.shape[0]
        )
        return latents_to_pixels(images)


CODECS = {"AutoencoderKL": VAECodec}


def load_codec(folder: str | os.PathLike[str], channels: int) -> Codec:
    """Read the codec in ``folder``, or return the identity if there is none.

    Args:
        folder: A folder of ``Codec.save``.
        channels: Of the frames.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: If a file is missing or damaged, the kind of codec is unknown, or its channels
            differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return PixelCodec(channels)
    with reading(folder / CONFIG, REMEDY) as file:
        kind = read_object(file).get("_class_name")
        if not isinstance(kind, str) or kind not in CODECS:
            raise ValueError(f"its _class_name must be one of {', '.join(CODECS)}, got {kind!r}")
    return CODECS[kind].load(folder / CONFIG, folder / WEIGHTS, channels)
