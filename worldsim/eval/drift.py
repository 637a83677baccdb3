"""Drift: whether a world still looks like its game after thousands of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.split import Measurable
from worldsim.eval.bootstrap import RESAMPLES, Estimate, estimate
from worldsim.eval.fidelity import psnr
from worldsim.frames import MOVING_THRESHOLD
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

SIDE = 16  # frames are compared at 16 by 16, where a thing may lie a pixel off
MOST = 20_000  # recorded frames to compare with
STILL = 0.999  # of the frames, in which a pixel that never moves is as in the background
PART = 100  # steps, at most, that each part of a session is measured over
SETTLED = 100  # steps after which the slope is taken


@dataclass(frozen=True)
class Drift:
    """Sessions, part by part (k), and held-out play as they should look.

    Attributes:
        steps: Last step of each part.
        nearest: Distance to the nearest recorded frame, (k sessions): root mean square over a
            frame of 16 by 16, in values of 255.
        objects: Pixels unlike the background, over those of the recording (k sessions): above 1
            where things multiply, below where they vanish.
        motion: Pixels that change in a step, over those of the recording (k sessions).
        still: PSNR of what never moves against the background, in dB, (k).
        held_out_nearest: Distance of held-out frames to the recorded ones.
        held_out_still: PSNR of what never moves in held-out frames.
        ends: Episodes that the world ended.
    """

    steps: list[int]
    nearest: NDArray[np.float64]
    objects: NDArray[np.float64]
    motion: NDArray[np.float64]
    still: NDArray[np.float64]
    held_out_nearest: float
    held_out_still: float
    ends: int

    def at_last(self, parts: NDArray[np.float64]) -> Estimate:
        """The last of such figures as objects or motion, with a band over the sessions."""
        last = parts[-1]
        if not np.isfinite(last).all():
            return Estimate(*3 * (float("nan"),))
        return estimate(last, np.ones(len(last)), np.arange(len(last)))

    @property
    def slope(self) -> Estimate:
        """How much farther from the recording each 1,000 steps lead, after the first hundred.

        The band is bootstrapped over the sessions; nan where fewer than three parts are left.
        """
        late = [i for i, step in enumerate(self.steps) if step >= SETTLED]
        if len(late) < 3:
            return Estimate(*3 * (float("nan"),))
        x = np.array(self.steps)[late] / 1000
        slopes = np.polyfit(x, self.nearest[late], 1)[0]
        rng = np.random.default_rng(0)
        drawn = slopes[rng.integers(len(slopes), size=(RESAMPLES, len(slopes)))].mean(1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        return Estimate(float(slopes.mean()), float(low), float(high))


def drift(
    world: WorldModel,
    recording: Recording,
    episodes: Measurable,
    *,
    background: Frames | None = None,
    bounds: Sequence[int] = (10, 100, 200, 500, 1000, 1500, 2000),
    num_sessions: int = 4,
    num_passes: int | None = None,
    restart: bool = True,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Drift:
    """Play long sessions under recorded actions and measure parts of them.

    Args:
        world: The world.
        recording: A recording of its game.
        episodes: Those whose actions are played and whose frames show how play should look
            (unseen), and those whose frames are known (reference).
        background: What never moves, ``uint8`` (h w c); None takes the world's.
        bounds: Steps at which the parts end; each is the hundred steps before, or fewer.
        num_sessions: Sessions, from the world's starts in turn.
        num_passes: Denoising passes a frame; None takes the world's own number.
        restart: Whether a session begins anew where the world says that a game is over, as in its
            environment, or goes on through the end.
        seed: Decides which actions are played, and the noise.
        on_step: Called after each step, for a progress bar.

    Raises:
        ValueError: If ``bounds`` or ``num_sessions`` is below 1.
    """
    bounds = sorted(set(bounds))
    if not bounds or bounds[0] < 1 or num_sessions < 1:
        raise ValueError(
            f"bounds and num_sessions must be 1 or more, got {bounds} and {num_sessions}"
        )
    background = world.background if background is None else background
    known, still = _known(recording, episodes.reference, background)
    real, before, actions = _held_out(recording, episodes.unseen)
    rng = np.random.default_rng(seed)
    begins = rng.integers(len(actions), size=num_sessions)
    rollout = Rollout(world, num_sessions, num_passes=num_passes)
    rollout.begin(range(num_sessions), range(seed, seed + num_sessions))
    rows = np.arange(num_sessions) % len(world.starts.frames)
    last, ends = world.starts.frames[rows, -1], 0
    parts: list[tuple[Any, ...]] = []
    shown: list[Frames] = []
    previous: list[Frames] = []
    for step in range(1, bounds[-1] + 1):
        played = rollout.step(actions[(begins + step) % len(actions)])
        bound = next(b for b in bounds if b >= step)
        if step > bound - PART:
            shown.append(played.frames)
            previous.append(last)
        last = played.frames
        if restart and played.terminations.any():
            lanes = np.flatnonzero(played.terminations)
            rollout.begin(
                (lanes + step).tolist(),
                (lanes + seed + step * num_sessions).tolist(),
                lanes.tolist(),
            )
            ends += len(lanes)
        if step == bound:
            parts.append(
                _measure(np.stack(shown, 1), np.stack(previous, 1), known, background, still)
            )
            shown, previous = [], []
        if on_step is not None:
            on_step()
    nearest, differing, changing, quiet = (np.array(column) for column in zip(*parts, strict=True))
    reference = _measure(real[None], before[None], known, background, still)
    with np.errstate(invalid="ignore", divide="ignore"):
        objects, motion = differing / reference[1], changing / reference[2]
    return Drift(
        steps=list(bounds),
        nearest=nearest,
        objects=objects,
        motion=motion,
        still=quiet,
        held_out_nearest=float(reference[0][0]),
        held_out_still=float(reference[3]),
        ends=ends,
    )


def _known(
    recording: Recording, episodes: Sequence[int], background: Frames
) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Recorded frames made small, and the pixels (h w) that hardly ever move."""
    stride = -(-int((recording.episode_lengths[episodes] + 1).sum()) // MOST)
    small, same, count = [], np.zeros(background.shape[:2]), 0
    for index in episodes:
        frames = recording.episode(index).frames[::stride]
        small.append(shrink(frames))
        same += (frames == background).all(-1).sum(0)
        count += len(frames)
    return torch.cat(small), same > STILL * count


def _held_out(
    recording: Recording, episodes: Sequence[int], most: int = 800
) -> tuple[Frames, Frames, NDArray[np.int64]]:
    """Held-out frames spread over the episodes, the one before each, and all the actions."""
    read = [recording.episode(index) for index in episodes]
    stride = max(1, sum(len(episode.actions) for episode in read) // most)
    return (
        np.concatenate([episode.frames[1::stride] for episode in read]),
        np.concatenate([episode.frames[:-1:stride] for episode in read]),
        np.concatenate([episode.actions for episode in read]),
    )


def _measure(
    shown: Frames,
    previous: Frames,
    known: torch.Tensor,
    background: Frames,
    still: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """By session: nearest, share unlike the background, share that changes; frames (b t h w c)."""
    distances = np.array([nearest(shrink(frames), known) for frames in shown])
    flat = shown.reshape(-1, *shown.shape[2:])
    quiet = psnr(
        flat, np.broadcast_to(background, flat.shape), np.repeat(still[None], len(flat), 0)
    )
    return distances, _differing(shown, background), _differing(shown, previous), float(quiet)


def shrink(frames: Frames) -> torch.Tensor:
    """Small copies (b d) of frames (b h w c)."""
    small = [cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames]
    return torch.from_numpy(np.stack(small).reshape(len(frames), -1)).float()


def nearest(small: torch.Tensor, known: torch.Tensor) -> float:
    """Mean distance of each to its nearest neighbour, root mean square over pixels."""
    distances = torch.cat([torch.cdist(part, known).min(1).values for part in small.split(64)])
    return float(distances.mean() / known.shape[1] ** 0.5)


def _differing(frames: Frames, other: Frames) -> NDArray[np.float64]:
    """Share of pixels (b) that differ, of frames (b t h w c)."""
    difference = np.abs(frames.astype(np.int16) - other.astype(np.int16)).max(-1)
    return (difference > MOVING_THRESHOLD).mean((1, 2, 3))
