"""What a world remembers of things that it no longer sees.

In held-out play, pixels are sought that show again what they showed before, after having been
hidden for a while: a wall that the lamp finds again, a score behind a passing ball. A world that
was shown the whole context is asked for them, and so is the same world shown only the newest
frames, in which they were hidden already. What the first knows better, it remembers.
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

AGES = (4, 8, 16, 32, 64)  # steps since something was last seen, up to which it is counted


class Remembered(NamedTuple):
    """PSNR in dB of what comes back after so many steps out of sight.

    Attributes:
        pixels: How many there are.
        episodes: How many episodes they are from.
        world: Of the world.
        forgetful: Of the same world when it was shown only the newest frames.
        median: Of the world's background, a median frame.
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
    """Measure what comes back, by how long it was out of sight.

    Args:
        world: The world.
        held_out: Recorded windows.
        imagined: What the world made of them with ``seed``, ``uint8`` (b horizon h w c).
        background: The world's background, ``uint8`` (h w c).
        num_passes: As ``imagined`` was made.
        seed: As ``imagined`` was made.
        on_step: Called after each step of the forgetful rollout, for a progress bar.

    Returns:
        By the most steps out of sight of each class, (4, 8, 16, ...); classes without a pixel are
        left out.
    """
    newest = max(1, world.num_history)
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
            errors = [  # a window at a time, since all at once would fill the memory
                np.square(real[seen].astype(np.float64) - shown[seen]).mean(-1).sum()
                for real, shown, seen in zip(held_out.real, predicted, mask, strict=True)
            ]
            estimates.append(estimate(errors, counts, held_out.episodes, to_decibels))
        episodes = len(np.unique(held_out.episodes[counts > 0]))
        found[high] = Remembered(int(mask.sum()), episodes, *estimates)
    return found


def hidden_for(held_out: HeldOutWindows, newest: int, background: Frames) -> NDArray[np.int64]:
    """For how many steps each pixel had been hidden that shows again what it showed before.

    Args:
        held_out: Recorded windows.
        newest: Frames at the end of the context in which it must have been hidden already.
        background: The world's background: what looks like it needs no memory.

    Returns:
        Steps since it was last seen, (b horizon h w); 0 for all other pixels.
    """
    frames = held_out.windows.frames
    first = held_out.context
    ages = np.zeros(held_out.real.shape[:-1], np.int64)
    for now in range(first, frames.shape[1]):
        shown = frames[:, now].astype(np.int16)

        def alike(other: Frames, shown: NDArray[np.int16] = shown) -> NDArray[np.bool_]:
            return (np.abs(shown - other) <= MOVING_THRESHOLD).all(-1)

        searched = ~alike(background)
        for before in range(now - 1, -1, -1):
            if not searched.any():
                break
            seen = searched & alike(frames[:, before])
            searched &= ~seen
            if before < first - newest:
                ages[:, now - first][seen] = now - before
    return ages
