"""What the model learns: flow matching with a noise level of its own for each frame.

A noisy latent is ``tau * clean + (1 - tau) * noise``: tau 0 is noise, tau 1 is clean. The model
predicts the clean latent (x-prediction), and its squared error counts ``0.9 tau + 0.1`` (the ramp
of Dreamer 4, Hafner et al. 2025). Each frame of a sequence draws its own tau (diffusion forcing,
Chen et al. 2024), so that one forward pass trains every mixture of noisy present and clean past.
"""

from __future__ import annotations

import torch


def add_noise(latents: torch.Tensor, noise: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Mix latents (b t c h w) with noise of the same shape at levels tau (b t)."""
    tau = tau[..., None, None, None]
    return tau * latents + (1 - tau) * noise


def sample_tau(
    batch_size: int, num_frames: int, clean_fraction: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw a level for each frame: the square of a uniform number, exactly clean for a fraction.

    Noisy levels, where the frame must be foretold rather than cleaned, so come more often; they
    are where small things and obedience are learned. The clean ones are as the past is at play
    time, when a finished frame is committed.

    Returns:
        Levels (b t) in [0, 1].
    """
    shape = (batch_size, num_frames)
    tau = torch.rand(shape, generator=generator).square()
    clean = torch.rand(shape, generator=generator) < clean_fraction
    return tau.masked_fill(clean, 1.0)


def ramp_weight(tau: torch.Tensor) -> torch.Tensor:
    """Weight of the squared error at level tau: 0.1 for noise up to 1 for clean."""
    return 0.9 * tau + 0.1


def frame_errors(
    predicted: torch.Tensor, latents: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each frame, (b t), from latents (b t c h w).

    Args:
        predicted: Predicted clean latents.
        latents: The true ones.
        weights: Weight of each place (b t 1 h w), of mean about 1; all places alike if none.
    """
    squared = (predicted - latents).square()
    if weights is not None:
        squared = squared * weights
    return squared.mean(dim=(2, 3, 4))
