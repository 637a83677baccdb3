"""Conversion between pixels and latents; no other module converts them.

Pixels, of games and files, are ``uint8`` (... h w c). Latents, of networks, are ``float32``
(... c h w) in [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange

MOVING_THRESHOLD = 12  # of 255: smaller differences may be shading
UNKNOWN = 128  # of a pixel in a frame that nobody recorded; next to 0 in latents


def pixels_to_latents(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Convert pixels to latents.

    Args:
        pixels: ``uint8`` array or tensor of shape (... h w c).

    Returns:
        ``float32`` tensor of shape (... c h w) in [-1, 1], on the pixels' device.

    Raises:
        TypeError: If ``pixels`` is not ``uint8``.

    Example:
        >>> pixels_to_latents(np.array([[[0, 255]]], dtype=np.uint8)).flatten().tolist()
        [-1.0, 1.0]
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be uint8 in 0..255, got {pixels.dtype}")
    return rearrange(pixels, "... h w c -> ... c h w").float().div_(127.5).sub_(1.0)


def latents_to_pixels(latents: torch.Tensor) -> torch.Tensor:
    """Convert latents to pixels; values outside [-1, 1] are clipped.

    Args:
        latents: Float tensor of shape (... c h w), nominally in [-1, 1].

    Returns:
        ``uint8`` tensor of shape (... h w c), on the same device.
    """
    pixels = latents.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return rearrange(pixels, "... c h w -> ... h w c").contiguous()


def moving_pixels(frames: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Which pixels of frames (b t h w c) differ from the median frame (h w c), bool (b t h w)."""
    difference = (frames.short() - background.short()).abs().amax(-1)
    return difference > MOVING_THRESHOLD
