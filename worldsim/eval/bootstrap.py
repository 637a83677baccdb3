"""Bootstrap confidence intervals over episodes, which are the independent samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
_NORMAL = 1.96  # standard deviations on either side that hold 95 %


class Estimate(NamedTuple):
    """A figure and its 95 % confidence interval; all three are nan if nothing was measured.

    Attributes:
        value: The figure.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def estimate(
    sums: ArrayLike,
    counts: ArrayLike,
    episodes: ArrayLike,
    transform: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
) -> Estimate:
    """The ratio of two sums, with a bootstrap confidence interval over episodes.

    Windows of one episode resemble one another. So episodes, not windows, are resampled with
    replacement (the cluster bootstrap, Davison and Hinkley 1997). The same call gives the same
    interval.

    Args:
        sums: Each window's part of the numerator, (n), such as its squared error.
        counts: Its part of the denominator, (n), such as its number of pixels.
        episodes: The episode of each window, (n).
        transform: Applied to the ratio, such as from squared error to decibels.

    Returns:
        The figure of all windows. With a single episode the interval is nan.

    Example:
        >>> estimate([1.0, 3.0], [1, 1], [0, 1])
        Estimate(value=2.0, low=1.0, high=3.0)
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    _, rows = np.unique(np.asarray(episodes), return_inverse=True)
    above, below = np.bincount(rows, sums), np.bincount(rows, counts)
    if not below.sum():
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = float(transform(above.sum() / below.sum()))
    if len(above) < 2:
        return Estimate(value, float("nan"), float("nan"))
    even = np.full(len(above), 1 / len(above))
    times = np.random.default_rng(0).multinomial(len(above), even, size=RESAMPLES)
    drawn = times @ below
    ratios = transform((times @ above)[drawn > 0] / drawn[drawn > 0])
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def wilson(share: float, number: float) -> Estimate:
    """A share of independent cases, with Wilson's confidence interval (1927).

    Args:
        share: The share, between 0 and 1.
        number: The number of cases.

    Returns:
        The share and its interval; nan without cases.

    Example:
        >>> [round(float(value), 2) for value in wilson(1.0, 5)]
        [1.0, 0.57, 1.0]
    """
    if not number or not share >= 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    spread = _NORMAL**2 / number
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Estimate(share, float(max(0.0, middle - half)), float(min(1.0, middle + half)))
