"""Autoencoders for small games: from a compression to a network of diffusers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (32, 64, 128, 128, 128)  # channels at 2, 4, 8, 16 and 32 pixels a cell
LAYERS = (1, 1, 2, 2, 2)
VIDEO_WIDTHS = (16, 32, 64, 128)  # from the patches on, at each halving


class Compression(NamedTuple):
    """How many frames and pixels become one cell of a latent.

    Attributes:
        frames: Frames (t), a power of 2 up to 8.
        side: Pixels along each side, a power of 2 from 4 to 32.

    Example:
        >>> Compression.parse("4x8x8").channels
        16
    """

    frames: int
    side: int

    @classmethod
    def parse(cls, text: str) -> Compression:
        """Read a compression such as ``1x8x8``.

        Raises:
            ValueError: If it is none.
        """
        found = re.fullmatch(r"([1248])x(4|8|16|32)x(4|8|16|32)", text)
        if found is None or found[2] != found[3] or int(found[1]) > int(found[2]):
            raise ValueError(
                "a compression is FRAMESxHEIGHTxWIDTH, with 1, 2, 4 or 8 frames and equal sides of "
                f"4, 8, 16 or 32 pixels, at least as many as frames, such as 1x8x8; got {text!r}"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.frames}x{self.side}x{self.side}"

    @property
    def channels(self) -> int:
        """Channels of a latent: 8 at 1x8x8, and half as many again for twice the pixels."""
        doublings = (self.frames * self.side**2).bit_length() - 7
        return max(4, 8 * round(1.5**doublings))


def make_autoencoder(compression: Compression, channels: int) -> nn.Module:
    """Make a fresh autoencoder: frame by frame, or causal over time.

    Frames alone take an `AutoencoderDC` (Chen et al. 2024), whose first convolution halves the
    sides: at full size it computes nearly nothing. Video takes an `AutoencoderKLLTXVideo`
    (HaCohen et al. 2024), whose patches do the same. Both have shortcuts past each change of size,
    without which a network draws only mean colours for hundreds of steps.

    Args:
        compression: Its compression.
        channels: Of the frames.
    """
    return (_make_video if compression.frames > 1 else _make_images)(compression, channels)


def _make_images(compression: Compression, channels: int) -> nn.Module:
    from diffusers import AutoencoderDC

    num_levels = compression.side.bit_length() - 1
    sizes: dict[str, Any] = {
        "block_out_channels": (WIDTHS[0], *WIDTHS[:num_levels]),
        "layers_per_block": (0, *LAYERS[:num_levels]),
        "qkv_multiscales": ((),) * (num_levels + 1),
    }
    return AutoencoderDC(
        in_channels=channels,
        latent_channels=compression.channels,
        # Without these shortcuts, the encoder's last layer decides the scale of the latents.
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        **{
            f"{half}_{name}": size
            for half in ("encoder", "decoder")
            for name, size in sizes.items()
        },
    )


def _make_video(compression: Compression, channels: int) -> nn.Module:
    from diffusers import AutoencoderKLLTXVideo

    num_levels = compression.frames.bit_length() - 1  # each halves time and both sides
    levels = num_levels + 1
    sizes: dict[str, Any] = {
        "block_out_channels": VIDEO_WIDTHS[:levels],
        "layers_per_block": (1,) * (levels + 1),
        "spatio_temporal_scaling": (True,) * num_levels + (False,),
    }
    return AutoencoderKLLTXVideo(
        in_channels=channels,
        out_channels=channels,
        latent_channels=compression.channels,
        down_block_types=("LTXVideo095DownBlock3D",) * levels,
        decoder_inject_noise=(False,) * (levels + 1),
        downsample_type=("spatiotemporal",) * levels,
        upsample_residual=(True,) * levels,
        upsample_factor=(1,) * levels,
        patch_size=compression.side // compression.frames,
        decoder_causal=True,
        **{f"{half}{name}": size for half in ("", "decoder_") for name, size in sizes.items()},
    )
