"""Whether a world obeys: what each action really does, from one and the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray

from worldsim.chance import CannotReplayError, replay
from worldsim.frames import MOVING_THRESHOLD
from worldsim.held_out import HeldOutWindows
from worldsim.recording import Recording
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]


class Counterfactuals(NamedTuple):
    """From each of n moments, every action a held for t steps.

    Attributes:
        imagined: The world's frames, ``uint8`` (n a t h w c); all actions share their noise.
        real: The game's, or None where it cannot be brought back to those moments.
        why_not: What kept the game from being played again; empty where it was.
    """

    imagined: Frames
    real: Frames | None
    why_not: str


def counterfactuals(
    world: WorldModel,
    recording: Recording,
    held_out: HeldOutWindows,
    *,
    num_steps: int = 16,
    num_passes: int | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Counterfactuals:
    """Hold every action in turn, in the world and in the real game.

    Args:
        world: The world.
        recording: The game's recording.
        held_out: The moments to begin from: the ends of the contexts.
        num_steps: For how long.
        num_passes: Denoising passes a frame; None takes the world's own number.
        seed: Of the noise.
        on_step: Called after each of the world's steps, for a progress bar.
    """
    n, a = len(held_out.real), world.game.num_actions
    context = held_out.context
    seeds = np.random.default_rng(seed).integers(2**62, size=n)
    rollout = Rollout(world, n * a, num_passes=num_passes)
    rollout.reset(
        repeat(held_out.windows.frames[:, :context], "n t h w c -> (n a) t h w c", a=a),
        repeat(held_out.windows.actions[:, : context - 1], "n t -> (n a) t", a=a),
        [int(lane_seed) for lane_seed in np.repeat(seeds, a)],
    )
    held = np.tile(np.arange(a), n)
    shown = []
    for _ in range(num_steps):
        shown.append(rollout.step(held).frames)
        if on_step is not None:
            on_step()
    imagined = rearrange(np.stack(shown, 1), "(n a) t h w c -> n a t h w c", n=n)
    moments = [(episode, first + context - 1) for episode, first in held_out.places]
    try:
        real = replay(
            recording,
            [moment for moment in moments for _ in range(a)],
            repeat(held, "lanes -> lanes t", t=num_steps),
        )
    except CannotReplayError as error:
        return Counterfactuals(imagined, None, str(error))
    return Counterfactuals(imagined, rearrange(real, "(n a) t h w c -> n a t h w c", n=n), "")


def effect(frames: Frames, noop: int) -> NDArray[np.float64]:
    """What actions change beside doing nothing: pixels that differ at the end, (n a)."""
    last = frames[:, :, -1].astype(np.int16)
    return (np.abs(last - last[:, noop, None]).max(-1) > MOVING_THRESHOLD).mean((-2, -1))


def commotion(frames: Frames, first: Frames) -> NDArray[np.float64]:
    """How much changes from frame to frame, pixels a step (n), of videos (n t h w c)."""
    whole = np.concatenate((first[:, None], frames), axis=1).astype(np.int16)
    return (np.abs(np.diff(whole, axis=1)).max(-1) > MOVING_THRESHOLD).mean(1).sum((-2, -1))
