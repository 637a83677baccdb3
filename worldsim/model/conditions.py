"""Conditions: what a frame is predicted from, beside the noisy frame and the past in the cache."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Conditions(NamedTuple):
    """The conditions of each frame, by name.

    Attributes:
        tau: Noise level (b t), from 0 for noise to 1 for a clean frame.
        actions: The action that led into the frame (b t), ``num_actions`` where unknown.
        history: The ``num_history`` frames before it, newest first, (b t num_history*c h w).
    """

    tau: torch.Tensor
    actions: torch.Tensor
    history: torch.Tensor
