"""The random numbers of lanes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.model.random import ROW, hashes, keys, normal, normal_table, uniform

pytestmark = pytest.mark.numeric

LANES, FRAMES, HASHES = 64, 20, 32
TABLE = normal_table(torch.device("cpu"))


def drawn(lanes: int = LANES, frame: int = 0) -> torch.Tensor:
    return hashes(keys(torch.arange(lanes)), torch.full((lanes,), frame), HASHES)


@pytest.fixture(scope="module")
def numbers() -> torch.Tensor:
    """Normal numbers (frames lanes n)."""
    return torch.stack([normal(drawn(frame=frame), TABLE) for frame in range(FRAMES)]).double()


def test_a_hash_is_that_of_splitmix() -> None:
    """The published mixing function, written with Python's integers."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    seeds = [0, 7, 2**63 - 1]
    key = keys(torch.tensor(seeds))
    assert [int(k) % 2**64 for k in key] == [
        mix((seed + 0x9E3779B97F4A7C15) % 2**64) for seed in seeds
    ]
    first = hashes(key, torch.zeros(3, dtype=torch.int64), 1)[:, 0]
    assert [int(h) % 2**64 for h in first] == [mix(int(k) % 2**64) for k in key]


def test_a_lane_draws_the_same_alone_in_a_batch_and_beside_longer_draws() -> None:
    alone = hashes(keys(torch.tensor([5])), torch.tensor([3]), 2)
    together = hashes(keys(torch.tensor([9, 5])), torch.tensor([4, 3]), 7)
    assert torch.equal(alone[0], together[1, :2])
    assert torch.equal(normal(alone, TABLE)[0], normal(together, TABLE)[1, : 2 * ROW])


def test_normal_numbers_have_the_moments_of_a_normal_distribution(numbers: torch.Tensor) -> None:
    n = numbers.numel() / 2  # two numbers may share a row of the table
    assert numbers.mean().abs() < 4 / n**0.5
    assert (numbers.var() - 1).abs() < 4 * (2 / n) ** 0.5
    assert (numbers**3).mean().abs() < 4 * (15 / n) ** 0.5
    assert ((numbers**4).mean() - 3).abs() < 4 * (96 / n) ** 0.5


def test_no_number_tells_of_another(numbers: torch.Tensor) -> None:
    """Correlations of neighbours in a frame, of lanes with near seeds, and of frames in a row."""
    for axis in range(3):
        n = numbers.shape[axis]
        left, right = numbers.narrow(axis, 0, n - 1), numbers.narrow(axis, 1, n - 1)
        bound = 4 / (left.numel() / 2) ** 0.5
        assert (left * right).mean().abs() < bound, axis
        assert (left.square() * right.square()).mean().sub(1).abs() < 10 * bound, axis


def test_uniform_numbers_fill_every_tenth_alike() -> None:
    values = torch.stack([uniform(drawn(frame=frame)) for frame in range(FRAMES)]).numpy()
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert np.abs(counts - values.size / 10).max() < 4 * (values.size * 0.09) ** 0.5
