from __future__ import annotations

import numpy as np
import pytest

from worldsim.eval.bootstrap import estimate, wilson
from worldsim.eval.fidelity import to_decibels


def test_value_is_the_ratio_of_sums() -> None:
    found = estimate([1.0, 5.0], [1, 3], [0, 1])
    assert found.value == 1.5
    assert found.low == 1.0
    assert found.high == pytest.approx(5 / 3)
    decibels = estimate([100.0, 300.0], [1, 1], [0, 1], to_decibels)
    assert decibels.value == pytest.approx(10 * np.log10(255**2 / 200))


def test_an_interval_covers_as_often_as_it_claims() -> None:
    """Of many draws from a known mean, some 95 % of the bands hold it."""
    rng = np.random.default_rng(0)
    draws = [estimate(rng.normal(3, 1, 40), np.ones(40), np.arange(40)) for _ in range(200)]
    held = np.mean([one.low <= 3 <= one.high for one in draws])
    assert 0.88 < held < 0.99


def test_windows_of_one_episode_count_as_one_draw() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=10), 20)
    apart = estimate(values, np.ones(200), np.arange(200))
    together = estimate(values, np.ones(200), np.repeat(np.arange(10), 20))
    assert apart.value == pytest.approx(together.value)
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_nothing_and_a_single_episode() -> None:
    assert np.isnan(estimate([0.0], [0], [0])).all()
    value, low, high = estimate([1.0, 3.0], [1, 1], [7, 7])
    assert value == 2.0
    assert np.isnan([low, high]).all()


def test_wilsons_band_is_wide_where_there_is_little_even_if_all_agree() -> None:
    assert wilson(1.0, 1).low < 0.25
    assert wilson(1.0, 5).low < 0.6 < 0.9 < wilson(1.0, 40).low
    assert wilson(1.0, 5).high == 1.0 == 1 - wilson(0.0, 5).low
    half = wilson(0.5, 100)
    assert (half.low, half.high) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert np.isnan(wilson(float("nan"), 0)).all()


def test_wilsons_interval_covers_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    draws = [wilson(rng.binomial(12, 0.8) / 12, 12) for _ in range(1000)]
    assert 0.9 < np.mean([one.low <= 0.8 <= one.high for one in draws]) < 0.99
