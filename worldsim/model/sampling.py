"""Samplers: a few denoising passes from noise to a clean latent.

A sampler takes a callable that predicts the clean latent, so it is independent of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from worldsim.system.options import Passes, check_value


def pass_levels(num_passes: int) -> list[float]:
    """The level tau of each pass: (i / num_passes) ** 1.5, from pure noise on.

    From pure noise, the first pass can only predict the mean outcome. At low levels the noise still
    selects one outcome. A second pass at a high level keeps the mean: where a ball may go left or
    right, it draws two.

    Raises:
        ValueError: If ``num_passes`` is not an integer from 1 to 1,000.

    Example:
        >>> [round(level, 2) for level in pass_levels(4)]
        [0.0, 0.12, 0.35, 0.65]
    """
    check_value("num_passes", num_passes, Passes)
    return [(i / num_passes) ** 1.5 for i in range(num_passes)]


def euler(
    denoise: Callable[[torch.Tensor, float], torch.Tensor],
    noise: torch.Tensor,
    levels: list[float],
) -> torch.Tensor:
    """Follow the flow from noise to a clean latent by Euler steps.

    Args:
        denoise: Maps a noisy latent and its level tau to the predicted clean latent.
        noise: Standard normal noise of the latent's shape.
        levels: Rising levels in [0, 1), the first of them 0.

    Returns:
        The clean latent predicted by the last pass.
    """
    latent = noise
    for level, next_level in zip(levels, [*levels[1:], 1.0], strict=True):
        clean = denoise(latent, level)
        latent = clean + (1 - next_level) / (1 - level) * (latent - clean)
    return latent
