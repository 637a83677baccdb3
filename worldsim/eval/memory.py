"""Memory: how well a world draws what returns after it was out of sight.

In held-out play, some pixels return to an earlier value after being hidden. Examples are a wall
that the lamp lights again, and a score behind a passing ball. The world predicts them from the full
context, and again from only the newest frames, in which they were hidden. The difference is its
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.eval.bootstrap import Estimate, estimate
from worldsim.eval.fidelity import to_decibels
from worldsim.eval.held_out import HeldOutWindows, roll_out
from worldsim.frames import MOVING_THRESHOLD
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

AGES = (4, 8, 16, 32, 64)  # upper ends of the classes of steps out of sight


class Remembered(NamedTuple):
    """PSNR in dB of returning pixels, of one class of steps out of sight.

    Attributes:
        pixels: Number of pixels.
        episodes: Number of episodes that they are from.
        world: PSNR of the world.
        forgetful: PSNR of the same world from only the newest frames.
        median: PSNR of the world's background, a median frame.
    """

    pixels: int
    episodes: int
    world: Estimate
    forgetful: Estimate
    median: Estimate


def remember(
    world: WorldModel,
    held_out: HeldOutWindows,
    imagined: Frames,
    background: Frames,
    *,
    num_passes: int | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> dict[int, Remembered]:
    """Measure returning pixels, by how long they were out of sight.

    Args:
        world: The world.
        held_out: Recorded windows.
        imagined: The world's frames from the full context, ``uint8`` (b horizon h w c).
        background: The world's background, ``uint8`` (h w c).
        num_passes: Denoising passes of ``imagined``.
        seed: Seed of ``imagined``.
        on_step: Called after each step of the forgetful rollout, for a progress bar.

    Returns:
        By the upper end of each class (4, 8, 16, ...); classes without a pixel are left out.
    """
    newest = 1 + world.patch_frames * (world.num_history - 1)
    ages = hidden_for(held_out, newest, background)
    if not (ages > 0).any():
        return {}
    forgotten = roll_out(
        world, held_out, num_passes=num_passes, seed=seed, newest=newest, on_step=on_step
    )
    found: dict[int, Remembered] = {}
    for low, high in zip((0, *AGES), AGES, strict=False):
        mask = (ages > low) & (ages <= high)
        if not mask.any():
            continue
        counts = mask.sum((1, 2, 3))
        estimates = []
        for predicted in (imagined, forgotten, np.broadcast_to(background, imagined.shape)):
            errors = [  # one window at a time, to save memory
                np.square(real[inside].astype(np.float64) - frames[inside]).mean(-1).sum()
                for real, frames, inside in zip(held_out.real, predicted, mask, strict=True)
            ]
            estimates.append(estimate(errors, counts, held_out.episodes, to_decibels))
        episodes = len(np.unique(held_out.episodes[counts > 0]))
        found[high] = Remembered(int(mask.sum()), episodes, *estimates)
    return found


def hidden_for(held_out: HeldOutWindows, newest: int, background: Frames) -> NDArray[np.int64]:
    """Find returning pixels and for how many steps they were hidden.

    Args:
        held_out: Recorded windows.
        newest: Number of last context frames in which a pixel must have been hidden.
        background: The world's background; pixels equal to it need no memory.

    Returns:
        Steps since the pixel was last visible, (b horizon h w); 0 for all other pixels.
    """
    frames = held_out.windows.frames
    first = held_out.context
    ages = np.zeros(held_out.real.shape[:-1], np.int64)
    for now in range(first, frames.shape[1]):
        current = frames[:, now].astype(np.int16)

        def alike(other: Frames, current: NDArray[np.int16] = current) -> NDArray[np.bool_]:
            return (np.abs(current - other) <= MOVING_THRESHOLD).all(-1)

        # Search back in time for the last frame in which each pixel had its current value.
        searched = ~alike(background)
        for before in range(now - 1, -1, -1):
            if not searched.any():
                break
            found = searched & alike(frames[:, before])
            searched &= ~found
            if before < first - newest:
                ages[:, now - first][found] = now - before
    return ages
