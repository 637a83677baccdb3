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
from worldsim.system.devices import to_host
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

SIDE = 16  # frames are compared at 16 by 16, so that objects may be a pixel off
MOST = 20_000  # recorded frames to compare with
STILL = 0.999  # share of frames in which a still pixel equals the background
PART = 100  # steps, at most, over which each part of a lane is measured
SETTLED = 100  # first step that counts for the slope


@dataclass(frozen=True)
class Drift:
    """Measures of long lanes in k parts, and of held-out play for comparison.

    Attributes:
        steps: Last step of each part.
        nearest: Distance to the nearest recorded frame, (k lanes): root mean square over a frame
            of 16 by 16, in values of 255.
        objects: Pixels that differ from the background, divided by those of held-out play,
            (k lanes). Above 1 objects multiply, below 1 they vanish.
        motion: Pixels that change per step, divided by those of held-out play, (k lanes).
        still: PSNR of still pixels against the background, in dB, (k).
        held_out_nearest: Distance of held-out frames to the nearest recorded ones.
        held_out_still: PSNR of still pixels in held-out frames, in dB.
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
        """The last part of ``objects`` or ``motion``, with an interval over the lanes."""
        last = parts[-1]
        if not np.isfinite(last).all():
            return Estimate(*3 * (float("nan"),))
        return estimate(last, np.ones(len(last)), np.arange(len(last)))

    @property
    def slope(self) -> Estimate:
        """Growth of ``nearest`` per 1,000 steps, after the first 100.

        The interval is bootstrapped over the lanes; nan if fewer than three parts are left.
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
    num_lanes: int = 4,
    num_passes: int | None = None,
    restart: bool = True,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Drift:
    """Play long lanes under recorded actions and measure them part by part.

    Args:
        world: The world.
        recording: A recording of its game.
        episodes: ``unseen`` gives the actions and the held-out frames, ``reference`` the frames
            for the nearest neighbours.
        background: The background, ``uint8`` (h w c); None takes the world's.
        bounds: Last step of each part, which is the 100 steps before it, or fewer. A step is a
            frame, also where the world predicts several together.
        num_lanes: Number of lanes; they begin from the world's starts in turn.
        num_passes: Denoising passes per frame; None takes the world's own number.
        restart: Whether a lane restarts when the world ends its episode, as in its environment,
            or continues.
        seed: Seed of the actions and the noise.
        on_step: Called after each step, for a progress bar.

    Raises:
        ValueError: If ``bounds`` or ``num_lanes`` is below 1.
    """
    bounds = sorted(set(bounds))
    if not bounds or bounds[0] < 1 or num_lanes < 1:
        raise ValueError(f"bounds and num_lanes must be 1 or more, got {bounds} and {num_lanes}")
    # What frames should look like: recorded frames, still pixels and held-out play.
    background = world.background if background is None else background
    known, still = _known(recording, episodes.reference, background)
    real, before, actions = _held_out(recording, episodes.unseen)
    # Each lane plays the recorded actions from a random place on.
    rng = np.random.default_rng(seed)
    begins = rng.integers(len(actions), size=num_lanes)
    rollout = Rollout(world, num_lanes, num_passes=num_passes)
    rollout.begin(range(num_lanes), range(seed, seed + num_lanes))
    rows = np.arange(num_lanes) % len(world.starts.frames)
    last, ends = world.starts.frames[rows, -1], 0
    parts: list[tuple[Any, ...]] = []
    imagined: list[Frames] = []
    previous: list[Frames] = []
    p = world.patch_frames
    ahead: list[Frames] = []  # frames of the last step, the next one last
    for step in range(1, bounds[-1] + 1):
        if not ahead:
            taken = actions[(begins[:, None] + step + np.arange(p)) % len(actions)]
            terminations = rollout.advance(taken if p > 1 else taken[:, 0]).terminations
            ahead = [*to_host(rollout.clip()).swapaxes(0, 1)][::-1]
        frames = ahead.pop()
        bound = next(b for b in bounds if b >= step)
        if step > bound - PART:
            imagined.append(frames)
            previous.append(last)
        last = frames
        # Restart ended lanes, with starts and seeds that no lane has had.
        if restart and not ahead and terminations.any():
            lanes = np.flatnonzero(terminations)
            rollout.begin(
                (lanes + step).tolist(),
                (lanes + seed + step * num_lanes).tolist(),
                lanes.tolist(),
            )
            ends += len(lanes)
        if step == bound:
            parts.append(
                _measure(np.stack(imagined, 1), np.stack(previous, 1), known, background, still)
            )
            imagined, previous = [], []
        if on_step is not None:
            on_step()
    # Objects and motion are relative to held-out play, in which games may have none.
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
    """Small copies (n d) of recorded frames, and the pixels (h w) that almost never move."""
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
    """Held-out frames spread over the episodes, the frame before each, and all actions."""
    read = [recording.episode(index) for index in episodes]
    stride = max(1, sum(len(episode.actions) for episode in read) // most)
    return (
        np.concatenate([episode.frames[1::stride] for episode in read]),
        np.concatenate([episode.frames[:-1:stride] for episode in read]),
        np.concatenate([episode.actions for episode in read]),
    )


def _measure(
    frames: Frames,
    previous: Frames,
    known: torch.Tensor,
    background: Frames,
    still: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Of frames (b t h w c): nearest, objects and motion by lane (b), and PSNR of still pixels."""
    distances = np.array([nearest(shrink(lane), known) for lane in frames])
    flat = frames.reshape(-1, *frames.shape[2:])
    quiet = psnr(
        flat, np.broadcast_to(background, flat.shape), np.repeat(still[None], len(flat), 0)
    )
    return distances, _differing(frames, background), _differing(frames, previous), float(quiet)


def shrink(frames: Frames) -> torch.Tensor:
    """Small copies (b d) of frames (b h w c)."""
    small = [cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames]
    return torch.from_numpy(np.stack(small).reshape(len(frames), -1)).float()


def nearest(small: torch.Tensor, known: torch.Tensor) -> float:
    """Mean distance to the nearest neighbour, root mean square over pixels."""
    distances = torch.cat([torch.cdist(part, known).min(1).values for part in small.split(64)])
    return float(distances.mean() / known.shape[1] ** 0.5)


def _differing(frames: Frames, other: Frames) -> NDArray[np.float64]:
    """Share of pixels (b) that differ, of frames (b t h w c)."""
    difference = np.abs(frames.astype(np.int16) - other.astype(np.int16)).max(-1)
    return (difference > MOVING_THRESHOLD).mean((1, 2, 3))
