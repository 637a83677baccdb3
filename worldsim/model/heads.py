"""Reward and termination heads, on the same features as the next frame.

A reward is a distribution over bins that are even in symlog space, learned two-hot (DreamerV3,
Hafner et al. 2023). Rewards of any size need no scaling. A termination is a probability.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LIMIT = 8.0  # symlog(2,980): larger rewards are clipped
LOGIT_BOUND = 20.0  # logits beyond it cost: those of rewards that never come fall without end
LOGIT_WEIGHT = 0.001
NUM_BINS = 81  # symlog 0 and about +-0.69, a reward of +-1, fall close to bins


def symlog(x: torch.Tensor) -> torch.Tensor:
    """Logarithm with the sign of x, close to the identity near 0."""
    return x.sign() * x.abs().log1p()


def symexp(x: torch.Tensor) -> torch.Tensor:
    """Inverse of ``symlog``."""
    return x.sign() * x.abs().expm1()


def two_hot(values: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Split each value (...) between the two nearest bins: weights (... bins) that sum to 1."""
    values = values.clamp(bins[0], bins[-1])[..., None]
    spacing = bins[1] - bins[0]
    return (1 - (values - bins).abs() / spacing).clamp_min(0)


class HeadOutput(NamedTuple):
    """The heads' predictions for the transition into each frame.

    Attributes:
        reward_logits: (b t bins).
        termination_logits: (b t).
    """

    reward_logits: torch.Tensor
    termination_logits: torch.Tensor


class RewardTerminationHead(nn.Module):
    """Two small heads on a frame's feature vector.

    Args:
        width: Channels of the feature.
    """

    bins: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.LayerNorm(width, bias=False), nn.Linear(width, width), nn.SiLU()
        )
        self.reward = nn.Linear(width, NUM_BINS)
        self.termination = nn.Linear(width, 1)
        bins = torch.linspace(-LIMIT, LIMIT, NUM_BINS, device="cpu")  # else it imports sympy
        self.register_buffer("bins", bins, persistent=False)
        nn.init.zeros_(self.reward.weight)
        nn.init.zeros_(self.termination.weight)

    def forward(self, features: torch.Tensor) -> HeadOutput:
        """Map features (b t d) to logits."""
        hidden = self.hidden(features)
        return HeadOutput(self.reward(hidden), self.termination(hidden)[..., 0])

    def loss(
        self, output: HeadOutput, rewards: torch.Tensor, terminations: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of rewards and terminations (b t), for each frame (b t).

        Logits beyond `LOGIT_BOUND` cost a little. Without that, those of bins that no reward falls
        into decrease in each step, until small features change them a lot and the head diverges.
        """
        target = two_hot(symlog(rewards), self.bins)
        reward_loss = -(target * output.reward_logits.log_softmax(-1)).sum(-1)
        termination_loss = F.binary_cross_entropy_with_logits(
            output.termination_logits, terminations.float(), reduction="none"
        )
        logits = torch.cat((output.reward_logits, output.termination_logits[..., None]), dim=-1)
        beyond = (logits.abs() - LOGIT_BOUND).clamp_min(0).square().sum(-1)
        return reward_loss + termination_loss + LOGIT_WEIGHT * beyond

    def rewards(self, output: HeadOutput, floor: float = 0.0) -> torch.Tensor:
        """Expected reward (b t); exactly 0 if its absolute value is below ``floor``."""
        expected = (output.reward_logits.softmax(-1) * symexp(self.bins)).sum(-1)
        return expected.where(expected.abs() >= floor, 0.0)

    def termination_probs(self, output: HeadOutput) -> torch.Tensor:
        """Probability (b t) that the episode ended with this frame."""
        return output.termination_logits.sigmoid()
