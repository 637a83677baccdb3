"""What a step of a rollout returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange

from worldsim.system.devices import to_host
from worldsim.world_model import WorldModel


class Outcome(NamedTuple):
    """The result of a step of each lane, without its frame.

    Attributes:
        rewards: Expected reward, float32 (b). Below a twentieth of the recording's smallest reward
            it is exactly 0.0, see `RecordedRewards`.
        terminations: Whether the episode ended, drawn with its probability, bool (b).
        termination_probs: That probability, float32 (b).
        uncertainties: How much the next frame depends on the noise, float32 (b), see `Rollout`;
            None unless measured.
    """

    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


class RolloutStep(NamedTuple):
    """The result of a step of each lane: its frame, uint8 (b h w c), and its `Outcome`."""

    frames: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


def decode_newest(
    world: WorldModel, latents: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Decode all frames of the newest time of each lane, uint8 (b patch_frames h w c).

    Args:
        world: The world.
        latents: The newest latents of each lane, newest first (b num_kept*c h w).
        positions: How many times each lane has so far (b).
    """
    size = world.dit.config.channels
    newest = latents[:, None, :size]
    if not world.decode_past:
        return world.decode(newest)
    past = rearrange(
        latents[:, size : size * (1 + world.decode_past)], "b (n c) h w -> b n c h w", c=size
    ).flip(1)
    # Lanes that have just begun have less past. All lanes are decoded with each number of latents,
    # so that no lane depends on another.
    before = (positions - 1).clamp(0, world.decode_past)
    frames = None
    for count in np.unique(to_host(before)).tolist():
        decoded = world.decode(newest, past[:, past.shape[1] - count :] if count else None)
        decoded = decoded.expand(-1, world.patch_frames, -1, -1, -1)  # the first time is one frame
        chosen = rearrange(before == count, "b -> b 1 1 1 1")
        frames = decoded if frames is None else torch.where(chosen, decoded, frames)
    assert frames is not None
    return frames
