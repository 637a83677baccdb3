"""How a frame is made: a few denoising passes from noise to a clean latent.

Samplers are functions of a callable that predicts the clean latent; they know no model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from worldsim.system.options import Passes, check_value


def pass_levels(num_passes: int) -> list[float]:
    """Levels tau at which the passes look: (i / num_passes) ** 1.5, from noise on.

    The first pass can but predict the mean of all that may happen; at low levels the noise still
    decides between them. A second pass that looks later takes the mean for the truth, and where a
    ball may go left or right it draws two.

    Raises:
        ValueError: If ``num_passes`` is not a whole number from 1 to 1,000.

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
        The clean latent that the last pass predicts.
    """
    latent = noise
    for level, next_level in zip(levels, [*levels[1:], 1.0], strict=True):
        clean = denoise(latent, level)
        latent = clean + (1 - next_level) / (1 - level) * (latent - clean)
    return latent
