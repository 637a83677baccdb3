"""Mixtures of policies: the policy changes within an episode, so that states are diverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.game.config import GameConfig
from worldsim.game.policy import load_policy

SEGMENT_STEPS = (16, 64)  # the shortest and the longest segment of one policy


class MixedPolicy:
    """Several policies take turns, each for a random segment of 16 to 64 steps.

    Args:
        weights: Policy, as `load_policy` names it -> share of the steps.
        game: The game to play.
    """

    def __init__(self, weights: Mapping[str, float], game: GameConfig) -> None:
        self._policies = [load_policy(name, game) for name in weights]
        total = sum(weights.values())
        self._weights = [weight / total for weight in weights.values()]
        self._policy = self._policies[0]
        self._steps_left = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return the action of the current policy."""
        if self._steps_left == 0:
            self._policy = self._policies[rng.choice(len(self._policies), p=self._weights)]
            self._steps_left = int(rng.integers(SEGMENT_STEPS[0], SEGMENT_STEPS[1] + 1))
        self._steps_left -= 1
        return int(self._policy(observation, info, rng))


def parse_weights(policies: Sequence[str]) -> dict[str, float]:
    """Parse policies and their weights.

    Args:
        policies: ``policy`` or ``policy=weight`` each; the weight is 1 if not given.

    Raises:
        ValueError: If a weight is not a positive number, or a policy is named twice.

    Example:
        >>> parse_weights(["random=0.3", "sticky=0.7", "my_game.players:chase"])
        {'random': 0.3, 'sticky': 0.7, 'my_game.players:chase': 1.0}
    """
    weights: dict[str, float] = {}
    for policy in policies:
        name, has_weight, text = policy.partition("=")
        try:
            weight = float(text) if has_weight else 1.0
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise ValueError(
                f"a policy is written NAME or NAME=WEIGHT with a weight above 0, got {policy!r}"
            )
        if name in weights:
            raise ValueError(f"policy {name} is named twice")
        weights[name] = weight
    if not weights:
        raise ValueError("at least one policy must be named")
    return weights
