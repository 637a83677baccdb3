"""What a step of a rollout returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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
