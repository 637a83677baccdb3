"""Frames to latents and back: the identity for small frames, an autoencoder for large ones.

A world's folder has its codec in ``codec/``, in the layout of diffusers; ``_class_name`` in its
config is one of `worldsim.model.autoencoders.COMPRESSION`. A world of pixels has no such folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldsim.frames import latents_to_pixels, pixels_to_latents
from worldsim.model.autoencoders import COMPRESSION
from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, digest
from worldsim.system.files import read_object, reading

# Latents have a deviation of about 1, and 7 at most where they were measured. Beyond the bound a
# rollout would read its own errors back, larger in each step, until they are not finite.
LATENT_BOUND = 10.0


class Codec(nn.Module):
    """Base class: maps frames to latents and back.

    Time is compressed causally: latent 0 is frame 0 only, and latent k the frames
    ``time_factor * (k - 1) + 1`` to ``time_factor * k``.

    Attributes:
        latent_channels: Channels of a latent.
        space_factor: Pixels along each side of a latent's cell.
        time_factor: Frames per latent.
        decode_context: Latents before a latent that decoding it needs, where there are as many.
        exact: Whether decoding and encoding again gives the same latent, with one frame per latent.
    """

    latent_channels: int
    space_factor: int = 1
    time_factor: int = 1
    decode_context: int = 0
    exact: bool = False

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t height width c) to latents (b t' c h w).

        With a ``time_factor`` p, t is 1 + p * (t' - 1): the first latent is the first frame alone.
        """
        raise NotImplementedError

    def decode(self, latents: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        """Map latents (b t' c h w) to uint8 frames (b t height width c).

        Args:
            latents: Latents that begin a sequence, or go on with it.
            past: The latents right before them (b n c h w): ``decode_context`` or more, or all that
                there are. None if the latents begin the sequence: their first is one frame. All
                others are ``time_factor`` frames each.
        """
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder that `load_codec` reads, and create it."""
        raise NotImplementedError

    def settings(self) -> dict[str, list[float]]:
        """The numbers that decide its latents, apart from its weights."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What decides its latents together with its weights, as JSON values."""
        return {"class": type(self).__name__, "latent_channels": self.latent_channels}

    def describe(self) -> str:
        """Its compression, class and channels, such as ``1x8x8, AutoencoderKL, 8 channels``."""
        factors = f"{self.time_factor}x{self.space_factor}x{self.space_factor}"
        return f"{factors}, {self.identity()['class']}, {self.latent_channels} channels"

    def fingerprint(self) -> str:
        """A digest of all that decides its latents: codecs with one digest are the same."""
        return digest(json.dumps(self.identity(), sort_keys=True), self.state_dict())

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

    def decode(self, latents: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t height width c)."""
        return latents_to_pixels(latents)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write nothing: a world without the folder has pixels as latents."""


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
    from worldsim.model.autoencoder_codec import AutoencoderCodec  # whose base is here

    folder = Path(folder)
    if not folder.is_dir():
        return PixelCodec(channels)
    with reading(folder / CONFIG, REMEDY) as file:
        kind = read_object(file).get("_class_name")
        if not isinstance(kind, str) or kind not in COMPRESSION:
            raise ValueError(
                f"its _class_name must be one of {', '.join(COMPRESSION)}, got {kind!r}"
            )
    return AutoencoderCodec.load(kind, folder / CONFIG, folder / WEIGHTS, channels)
