"""Statistics of a recording's rewards: the smallest nonzero reward, and the range of scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FLOOR = 0.05  # of the smallest recorded reward: a smaller expectation counts as 0


@dataclass(frozen=True)
class RecordedRewards:
    """Rewards of a recording in three figures, kept in the world's ``config.json``.

    A score is the sum of an episode's rewards so far.

    Attributes:
        smallest: The smallest absolute reward other than 0; 0 if there is none.
        lowest_score: The lowest score of any episode at any step, at most 0.
        highest_score: The highest, at least 0.

    Example:
        >>> import numpy as np
        >>> rewards = RecordedRewards.of([np.array([0, 1, 0, -1, -1]), np.array([0.5, 0])])
        >>> rewards
        RecordedRewards(smallest=0.5, lowest_score=-1.0, highest_score=1.0)
        >>> rewards.floor, rewards.are_beyond(-2.0)
        (0.025, True)
    """

    smallest: float
    lowest_score: float
    highest_score: float

    @classmethod
    def of(cls, episodes: Iterable[np.ndarray]) -> RecordedRewards:
        """Compute them from the rewards (t,) of each episode."""
        smallest, lowest, highest = math.inf, 0.0, 0.0
        for rewards in episodes:
            scores = np.cumsum(rewards, dtype=np.float64)
            sizes = np.abs(rewards[rewards != 0], dtype=np.float64)
            smallest = min(smallest, float(sizes.min(initial=math.inf)))
            lowest, highest = min(lowest, float(scores.min())), max(highest, float(scores.max()))
        return cls(0.0 if math.isinf(smallest) else smallest, lowest, highest)

    @classmethod
    def merged(cls, parts: Iterable[RecordedRewards]) -> RecordedRewards:
        """Compute them from those of parts of a recording."""
        smallest, lowest, highest = math.inf, 0.0, 0.0
        for part in parts:
            smallest = min(smallest, part.smallest or math.inf)
            lowest, highest = min(lowest, part.lowest_score), max(highest, part.highest_score)
        return cls(0.0 if math.isinf(smallest) else smallest, lowest, highest)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecordedRewards:
        """Undo `to_dict`.

        Raises:
            ValueError: If a value is missing, unknown, not a number or out of range.
        """
        try:
            if not all(type(value) in (int, float) for value in values.values()):
                raise TypeError("a value is not a number")
            rewards = cls(**{name: float(value) for name, value in values.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"recorded rewards are three numbers by name, got {values!r}"
            ) from error
        if not (
            0 <= rewards.smallest < math.inf
            and -math.inf < rewards.lowest_score <= 0 <= rewards.highest_score < math.inf
        ):
            raise ValueError(
                "the smallest recorded reward must be 0 or more, and the scores on both sides of "
                f"0, got {rewards}"
            )
        return rewards

    def to_dict(self) -> dict[str, float]:
        """Return JSON values."""
        return asdict(self)

    @property
    def floor(self) -> float:
        """The absolute value below which an expected reward becomes exactly 0."""
        return FLOOR * self.smallest if self.smallest else math.inf

    def are_beyond(self, score: float) -> bool:
        """Whether a score lies further from 0 than any recorded one, by more than rounding."""
        slack = max(0.5 * self.smallest, 0.01 * (self.highest_score - self.lowest_score))
        return not self.lowest_score - slack <= score <= self.highest_score + slack
