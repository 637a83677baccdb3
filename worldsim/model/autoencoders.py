"""The autoencoders of diffusers that can be codecs, and how far each compresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def halvings(levels: tuple[int, ...]) -> int:
    """The factor by which the levels of a convolutional network reduce an image's sides."""
    return int(2 ** (len(levels) - 1))


def _ltx(config: Config) -> tuple[int, int]:
    factor = 2 ** sum(config["spatio_temporal_scaling"])
    frames = config["temporal_compression_ratio"] or config["patch_size_t"] * factor
    return frames, config["spatial_compression_ratio"] or config["patch_size"] * factor


COMPRESSION: dict[str, Callable[[Config], tuple[int, int]]] = {
    "AutoencoderKL": lambda c: (1, halvings(c["block_out_channels"])),
    "AutoencoderDC": lambda c: (1, halvings(c["encoder_block_out_channels"])),
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLWan": lambda c: (c["scale_factor_temporal"], c["scale_factor_spatial"]),
    "AutoencoderKLCogVideoX": lambda c: (
        int(c["temporal_compression_ratio"]),
        halvings(c["block_out_channels"]),
    ),
}
"""Class -> its config -> frames of a latent, and pixels along each side of its cell."""
