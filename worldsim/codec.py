"""Frames to latents and back: the identity for small frames, a diffusers VAE for large ones.

A codec has ``latent_channels``, ``exact`` (whether decoding and encoding again gives the same
latent), ``latent_size``, ``encode`` and ``decode``.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn

from worldsim.files import reading
from worldsim.frames import latents_to_pixels, pixels_to_latents
from worldsim.weights import CONFIG, REMEDY, WEIGHTS, build_network, read_network_config

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class PixelCodec(nn.Module):
    """Latents are the pixels themselves, in [-1, 1]; right for frames up to about 96 pixels.

    Args:
        channels: 3 for colour, 1 for grey.
    """

    exact = True

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.latent_channels = channels

    def latent_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latent of a frame."""
        return frame_size

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t h w c) to latents (b t c h w)."""
        return pixels_to_latents(frames)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t h w c)."""
        return latents_to_pixels(latents)


class VAECodec(nn.Module):
    """Latents of a diffusers ``AutoencoderKL``, scaled to about unit variance.

    Args:
        vae: The autoencoder; its config's ``scaling_factor`` and ``shift_factor`` are used.
    """

    exact = False

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.latent_channels = vae.config.latent_channels
        self.reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.shift_factor or 0.0

    def latent_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latent of a frame.

        Raises:
            ValueError: If the frame does not divide into whole latent pixels.
        """
        h, w = frame_size
        if h % self.reduction or w % self.reduction:
            raise ValueError(
                f"this VAE wants frame sides that are multiples of {self.reduction}, got {h}x{w}; "
                "record at such a size"
            )
        return h // self.reduction, w // self.reduction

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t h w c) to latents (b t c h w), the mean of the posterior."""
        images = rearrange(pixels_to_latents(frames), "b t c h w -> (b t) c h w")
        latents = (self.vae.encode(images).latent_dist.mode() - self.shift) * self.scale
        return rearrange(latents, "(b t) c h w -> b t c h w", b=frames.shape[0])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t h w c)."""
        scaled = rearrange(latents, "b t c h w -> (b t) c h w") / self.scale + self.shift
        images = rearrange(
            self.vae.decode(scaled).sample, "(b t) c h w -> b t c h w", b=latents.shape[0]
        )
        return latents_to_pixels(images)


Codec = PixelCodec | VAECodec


def save_codec(codec: Codec, folder: str | os.PathLike[str]) -> None:
    """Write a VAE into ``folder``; the identity leaves nothing to write."""
    if isinstance(codec, VAECodec):
        codec.vae.save_pretrained(folder)


def load_codec(folder: str | os.PathLike[str], channels: int) -> Codec:
    """Read the VAE in ``folder``, or return the identity if there is none.

    Args:
        folder: As ``save_codec`` writes it.
        channels: Of the frames.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: In one sentence, if a file is missing or damaged, or it is no VAE of such
            frames.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return PixelCodec(channels)
    from diffusers import AutoencoderKL  # takes seconds, and most worlds have none

    with reading(folder / CONFIG, REMEDY) as file:
        config = read_network_config(file)
    with reading(folder / WEIGHTS, REMEDY) as file:
        vae = build_network(lambda: AutoencoderKL(**config), file)
        maps = vae.config.in_channels, vae.config.out_channels
        if maps != (channels, channels):
            raise ValueError(f"it maps {maps[0]} to {maps[1]} channels, and frames have {channels}")
        codec = VAECodec(vae)
        if not math.isfinite(codec.scale) or not codec.scale or not math.isfinite(codec.shift):
            raise ValueError(
                "scaling_factor and shift_factor must be finite and the first not 0, got "
                f"{codec.scale} and {codec.shift}"
            )
    return codec
