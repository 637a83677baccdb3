"""The embedding of the actions that lead into a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn

if TYPE_CHECKING:
    from worldsim.model.dit_config import DiTConfig


def by_times(actions: torch.Tensor, patch_frames: int) -> torch.Tensor:
    """Actions (b t*patch_frames) by times: (b t patch_frames), or (b t) where a time is a frame."""
    if patch_frames == 1:
        return actions
    return rearrange(actions, "b (t p) -> b t p", p=patch_frames)


class ActionEmbedding(nn.Embedding):
    """One vector for the actions of a time: one action, or one for each of its frames.

    Args:
        config: The sizes of the network.
    """

    def __init__(self, config: DiTConfig) -> None:
        self.patch_frames, self.num_kinds = config.frames_per_time, config.num_actions + 1
        super().__init__(self.patch_frames * self.num_kinds, config.width)

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        """Map actions (...), or (... patch_frames), to vectors (... d)."""
        if self.patch_frames == 1:
            return super().forward(actions)
        places = torch.arange(self.patch_frames, device=actions.device) * self.num_kinds
        return super().forward(actions + places).sum(-2) * self.patch_frames**-0.5
