"""Flow matching with a separate noise level for each frame.

A noisy latent is ``tau * clean + (1 - tau) * noise``: tau 0 is noise, tau 1 is clean. The model
predicts the clean latent (x-prediction). Its squared error has the weight ``0.5 tau + 0.5``: the
ramp of Dreamer 4 (Hafner et al. 2025), with more weight on noise.

Each frame of a sequence draws its own tau (diffusion forcing, Chen et al. 2024). So one forward
pass trains all mixtures of noisy and clean frames.
"""

from __future__ import annotations

import torch


def add_noise(latents: torch.Tensor, noise: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Mix latents (b t c h w) with noise of the same shape at levels tau (b t)."""
    tau = tau[..., None, None, None]
    return tau * latents + (1 - tau) * noise


def sample_tau(
    batch_size: int,
    num_frames: int,
    clean_fraction: float,
    noise_fraction: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw a level for each frame: exactly clean, pure noise, or the square of a uniform number.

    Clean frames are like the context of a rollout, pure noise is where each new frame begins. At
    noisy levels a frame must be predicted rather than denoised: the model learns small objects and
    the effect of actions there.

    Args:
        batch_size: Sequences (b).
        num_frames: Frames of each (t).
        clean_fraction: Share of frames at level 1.
        noise_fraction: Share of frames at level 0; both together at most 1.
        generator: Source of the draws; the levels are on its device.

    Returns:
        Levels (b t) in [0, 1].
    """
    draws = (2, batch_size, num_frames)
    tau, kind = torch.rand(draws, generator=generator, device=generator.device)
    tau = tau.square()
    tau = tau.masked_fill(kind < clean_fraction, 1.0)
    return tau.masked_fill(kind >= 1 - noise_fraction, 0.0)


def ramp_weight(tau: torch.Tensor) -> torch.Tensor:
    """Weight of the squared error at level tau: from 0.5 for noise to 1 for clean."""
    return 0.5 * tau + 0.5


def frame_errors(
    predicted: torch.Tensor, latents: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each frame, (b t), from latents (b t c h w).

    Args:
        predicted: Predicted clean latents.
        latents: The true ones.
        weights: Weight of each position (b t 1 h w), with mean about 1; None: equal weights.
    """
    squared = (predicted - latents).square()
    if weights is not None:
        squared = squared * weights
    return squared.mean(dim=(2, 3, 4))
