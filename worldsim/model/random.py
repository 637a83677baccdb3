"""Random numbers of lanes, as functions of a lane's seed and its frame number.

A lane draws the same numbers alone and in a batch, and on every device. No generator is kept:
a hash of seed and frame number (SplitMix64, Steele et al. 2014) gives uniform numbers, and chooses
rows of one fixed table of normal numbers. All lanes are drawn at once, by few operations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.model.tables import keep

NUM_ROWS, ROW = 2**14, 64  # of the table: 4 MiB

# Steps of the hashed sequence for a frame and for a number within it: odd, and unrelated.
_FRAME_STEP = 0x9E3779B97F4A7C15 - 2**64
_NUMBER_STEP = 0xC13FA9A902A6328F - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def keys(seeds: torch.Tensor) -> torch.Tensor:
    """A key for each lane's seed, int64 (b). Seeds that are near one another have unlike keys."""
    return _mix(seeds + _FRAME_STEP)


def hashes(keys: torch.Tensor, frames: torch.Tensor, count: int) -> torch.Tensor:
    """Hashes of 64 bits, int64 (b count).

    Args:
        keys: Those of the lanes, from `keys` (b).
        frames: The frame number of each lane, int64 (b).
        count: Hashes for each lane; the first ones do not depend on how many there are.
    """
    numbers = torch.arange(count, device=keys.device) * _NUMBER_STEP
    return _mix((keys + frames * _FRAME_STEP)[:, None] + numbers)


def uniform(hashes: torch.Tensor) -> torch.Tensor:
    """Multiples of 2**-24 in [0, 1), one from the highest bits of each hash."""
    return ((hashes >> 40) & (2**24 - 1)).float() * 2.0**-24


def normal(hashes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers (b n * `ROW`) from hashes (b n) and the table of `normal_table`.

    Each hash chooses two rows of the table, and their sum is normal: there are 2**27 such sums.
    """
    rows = torch.stack((hashes >> 20, hashes >> 40), dim=-1) & (NUM_ROWS - 1)
    numbers = F.embedding_bag(rows.flatten(0, 1), table, mode="sum")
    return numbers.view(len(hashes), -1)


@keep
def normal_table() -> torch.Tensor:
    """Normal numbers of variance 1/2, the same on every device: (`NUM_ROWS` `ROW`)."""
    # NumPy's generator gives the same numbers on every processor.
    rng = np.random.Generator(np.random.PCG64(0))
    numbers = rng.standard_normal((NUM_ROWS, ROW), dtype=np.float32)
    numbers -= numbers.mean()
    numbers *= 0.5**0.5 / numbers.std()
    return torch.from_numpy(numbers)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Hash 64 bits to 64 bits. Shifts fill with zeros, which those of int64 do not."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * multiplier
    return x ^ ((x >> 31) & (2**33 - 1))


def draw_of_frame(
    keys: torch.Tensor,
    positions: torch.Tensor,
    num_uniform: int,
    shape: tuple[int, ...],
    table: torch.Tensor,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Draw what is random in the next frame of each lane.

    Args:
        keys: Those of the lanes, int64 (b).
        positions: Numbers of the frames, int64 (b).
        num_uniform: Numbers in [0, 1) to draw for each lane.
        shape: Of the noise of a lane.
        table: From `normal_table`.

    Returns:
        The uniform numbers, each (b), and standard normal noise (b *shape).
    """
    size = math.prod(shape)
    drawn = hashes(keys, positions, num_uniform + -(-size // ROW))
    noise = normal(drawn[:, num_uniform:], table)[:, :size].view(-1, *shape)
    return uniform(drawn[:, :num_uniform]).unbind(1), noise
