"""Conditions: the inputs of the denoiser besides the noisy frame and the cache."""

from __future__ import annotations

from typing import NamedTuple

import torch

from worldsim.model.text import Text


class Conditions(NamedTuple):
    """The conditions of each frame, by name.

    Attributes:
        tau: Noise level (b t), from 0 for noise to 1 for a clean frame.
        actions: The action that led into the frame (b t), ``num_actions`` if unknown; with
            spacetime patches, that into each frame of the patch (b t patch_frames).
        history: The ``num_history`` frames before it, newest first, (b t num_history*c h w).
        chance: Chance code of the frame (b t bits), zeros for none, see `ChanceCodes`. None: no
            frame has one.
        text: Caption of each sequence; None in a world without text, or if none has one.
    """

    tau: torch.Tensor
    actions: torch.Tensor
    history: torch.Tensor
    chance: torch.Tensor | None = None
    text: Text | None = None
