"""Mixtures of players: the policy changes within an episode, so that states are diverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.game.config import GameConfig
from worldsim.game.policy import load_policy

SEGMENT_STEPS = (16, 64)  # the shortest and the longest stretch that one player plays


class MixedPolicy:
    """Lets several players take turns, each for a random stretch of 16 to 64 steps.

    Args:
        weights: Player, as `load_policy` names them -> part of the steps it plays.
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
        """Return the action of whose turn it is."""
        if self._steps_left == 0:
            self._policy = self._policies[rng.choice(len(self._policies), p=self._weights)]
            self._steps_left = int(rng.integers(SEGMENT_STEPS[0], SEGMENT_STEPS[1] + 1))
        self._steps_left -= 1
        return int(self._policy(observation, info, rng))


def parse_weights(policies: Sequence[str]) -> dict[str, float]:
    """Read players and the parts that they play.

    Args:
        policies: ``player`` or ``player=weight`` each; a player without a weight has weight 1.

    Raises:
        ValueError: If a weight is no positive number, or a player is named twice.

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
                f"a policy is written player or player=weight with a weight above 0, got {policy!r}"
            )
        if name in weights:
            raise ValueError(f"policy {name} is named twice")
        weights[name] = weight
    if not weights:
        raise ValueError("at least one policy must be named")
    return weights
