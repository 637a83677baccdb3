"""What to measure in a world of a game that is left to chance, whatever the game.

PSNR cannot see whether a world draws one future: it prefers the mean of all. So samples are
compared one by one with what was recorded (the best of many, and their mean), and their looks with
those of the game: how much there is, how sharp, in how many pieces, and how near to real frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.split import Measurable
from worldsim.eval.control import action_shuffle_ratio
from worldsim.eval.drift import nearest, shrink
from worldsim.eval.fidelity import frechet, moving_mask, to_decibels
from worldsim.eval.held_out import HeldOutWindows, choose_windows, lane_seeds
from worldsim.eval.speed import begin, step_cost
from worldsim.frames import MOVING_THRESHOLD, pixels_to_latents
from worldsim.media import filmstrip
from worldsim.model.random import keys
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

LONG_WINDOWS, LONG_HORIZONS = 8, (8, 32, 200)
PIECE = 4  # pixels, at least, of an object
LANES = 64  # of a batch
WINDOWS, HORIZON = 80, 16  # each continued once
SAMPLED, SAMPLES = 10, 8  # of these windows, so many are continued so many times
REAL_CLIPS, CLIP = 640, 8  # recorded clips to compare with, and their frames
FEATURES = 32
FILMED, FILM_STEPS, EVERY = 3, 30, 3  # samples of a window, their steps, steps a column


class Found(NamedTuple):
    """Figures by name: of the world, and of the game or of guesses without a world."""

    world: dict[str, float]
    game: dict[str, float]


@dataclass(frozen=True)
class Scene:
    """A world, the recording to measure it on, and how.

    Attributes:
        world: The world.
        recording: A recording of its game.
        episodes: Its episodes that the world has not seen, and the others.
        passes: Denoising passes per frame.
        seed: Seed of the choice of windows and of all noise.
    """

    world: WorldModel
    recording: Recording
    episodes: Measurable
    passes: int
    seed: int

    @cached_property
    def long(self) -> HeldOutWindows:
        """A few windows of many steps, or of as many as the episodes have."""
        return choose_windows(
            self.world,
            self.recording,
            self.episodes.unseen,
            horizons=LONG_HORIZONS,
            num_windows=LONG_WINDOWS,
            seed=self.seed,
        )


def draw(scene: Scene, held_out: HeldOutWindows, rows: Sequence[int]) -> Frames:
    """Continue windows under the recorded actions, each time with other noise.

    A context is passed through the network once, however often it is continued.

    Args:
        scene: The world and its passes.
        held_out: The windows.
        rows: The window of each continuation (b); a window may occur many times.

    Returns:
        ``uint8`` (b horizon h w c).
    """
    context = held_out.context
    used, places = np.unique(rows, return_inverse=True)
    windows = held_out.windows[used]
    begun = Rollout(scene.world, len(used))
    begun.reset(windows.frames[:, :context], windows.actions[:, : context - 1], range(len(used)))
    state = begun.clone_state()
    # Lanes of one context get random numbers of their own.
    own = keys(torch.tensor(lane_seeds(scene.seed, len(rows))))
    batches = []
    for first in range(0, len(rows), LANES):
        lanes = slice(first, first + LANES)
        chosen = places[lanes]
        rollout = Rollout(scene.world, len(chosen), num_passes=scene.passes)
        taken = state.take_lanes(chosen.tolist())
        rollout.restore_state(replace(taken, keys=own[lanes]))
        actions = windows.actions[chosen, context - 1 :]
        batches.append(np.stack([rollout.step(now).frames for now in actions.T], axis=1))
    return np.concatenate(batches)


def looks(scene: Scene) -> Found:
    """Area, edges and objects of long rollouts, divided by those of the recorded frames.

    Area is the number of pixels unlike the background, edges the mean size of a frame's gradient,
    objects the number of connected pieces of that area. Each is averaged over the quarter of the
    steps up to a horizon. The game's figures are those of as many other recorded windows: they
    show how far from 1 chance alone leads.
    """
    held_out, background = scene.long, scene.world.background
    imagined = draw(scene, held_out, range(len(held_out.real)))
    horizon, lengths = held_out.horizon, scene.recording.episode_lengths
    # Shorter episodes would be padded; they are taken only if there is no longer one.
    whole = [index for index in scene.episodes.reference if lengths[index] >= horizon]
    others = scene.recording.sample_windows(
        np.random.default_rng(scene.seed),
        len(imagined),
        horizon,
        whole or scene.episodes.reference,
    ).frames
    world, game = {}, {}
    for until in (h for h in LONG_HORIZONS if h <= horizon):
        steps = slice(until - until // 4, until)
        real = _looks(held_out.real[:, steps], background)
        for name, value in _looks(imagined[:, steps], background).items():
            world[f"{name} at {until}"] = value / real[name] if real[name] else float("nan")
        for name, value in _looks(others[:, steps], background).items():
            game[f"{name} at {until}"] = value / real[name] if real[name] else float("nan")
    return Found(world, game)


def _looks(frames: Frames, background: Frames) -> dict[str, float]:
    """Mean area, edges and objects of frames (b t h w c)."""
    flat = frames.reshape(-1, *frames.shape[2:])
    unlike = np.abs(flat.astype(np.int16) - background).max(-1) > MOVING_THRESHOLD
    grey = flat.mean(-1)
    slopes = np.hypot(*np.gradient(grey, axis=(1, 2)))
    return {
        "area": float(unlike.sum((1, 2)).mean()),
        "edges": float(slopes.mean()),
        "objects": float(np.mean([count_objects(mask) for mask in unlike])),
    }


def count_objects(mask: NDArray[np.bool_]) -> int:
    """Count the connected pieces of a mask (h w) that have ``PIECE`` pixels or more."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2]
    return int((stats[1:, cv2.CC_STAT_AREA] >= PIECE).sum())


def samples(scene: Scene) -> Found:
    """PSNR of samples, and how near they are to real frames and real frames to them.

    PSNR is that of moving pixels: of one sample, of the best one of each window, and of their mean.

    Distances are those of 16 by 16 pixels in values of 255. *Generated to real* is that of the
    sample of each window, at the last step, to the nearest frame of other episodes (precision);
    *real to generated* is that of such frames to the nearest frame of the samples (recall). The
    *clip distance* is a Frechet distance as in FVD, but of features of a random network, so that
    it compares only within this program. The game's figures have the recorded frames in place of
    the samples.
    """
    world, recording, episodes = scene.world, scene.recording, scene.episodes
    held_out = choose_windows(
        world,
        recording,
        episodes.unseen,
        horizons=(HORIZON,),
        num_windows=WINDOWS,
        seed=scene.seed,
    )
    # One sample of every window, and further ones of the first.
    count = len(held_out.real)
    sampled = range(min(SAMPLED, count))
    rows = np.concatenate((np.arange(count), np.repeat(sampled, SAMPLES - 1)))
    frames = draw(scene, held_out, rows.tolist())
    many = np.stack([frames[rows == row] for row in sampled])
    found = _psnr_of_samples(many, held_out.first(len(many), HORIZON), world.background)

    rng = np.random.default_rng(scene.seed)
    real = recording.sample_windows(rng, REAL_CLIPS, CLIP, episodes.reference).frames
    features = RandomFeatures(real, world.background)
    every, known = shrink(real.reshape(-1, *real.shape[2:])), features(real)
    for figures, clips in (
        (found.world, frames[:count, -CLIP:]),
        (found.game, held_out.real[:, -CLIP:]),
    ):
        small = shrink(clips.reshape(-1, *clips.shape[2:]))
        figures["generated to real"] = nearest(small[CLIP - 1 :: CLIP], every)
        figures["real to generated"] = nearest(every[CLIP - 1 :: CLIP], small)
        figures["clip distance"] = frechet(known, features(clips))
    return found


def _psnr_of_samples(many: Frames, held_out: HeldOutWindows, background: Frames) -> Found:
    """PSNR on moving pixels of samples (b n t h w c) of windows, and of guesses without a world."""
    found = Found({}, {})
    for step in (1, HORIZON // 2, HORIZON):
        real, drawn = held_out.real[:, step - 1], many[:, :, step - 1]
        mask = moving_mask(real, held_out.last_context, background)
        single = np.stack([_error(real, each, mask) for each in drawn.swapaxes(0, 1)])
        mean = _error(real, drawn.mean(1), mask)
        for figures, name, error in (
            (found.world, f"dB at {step}: one sample", single.mean(0)),
            (found.world, f"dB at {step}: best of {len(single)}", single.min(0)),
            (found.world, f"dB at {step}: mean of {len(single)}", mean),
            (found.game, f"dB at {step}: copied", _error(real, held_out.last_context, mask)),
            (found.game, f"dB at {step}: median frame", _error(real, background, mask)),
        ):
            figures[name] = float(to_decibels(error.sum() / mask.sum()))
    return found


def _error(real: Frames, guess: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Squared error of frames (b h w c), summed over the moving pixels of each (b)."""
    return (np.square(real.astype(np.float64) - guess).mean(-1) * mask).sum((1, 2))


class RandomFeatures:
    """Features of clips by a fixed random network, in units of their spread over real clips.

    Args:
        real: Clips that set the units, ``uint8`` (n t h w c).
        background: Subtracted from all frames, so that features are of what moves.
    """

    def __init__(self, real: Frames, background: Frames) -> None:
        generator = torch.Generator().manual_seed(0)
        self._background = pixels_to_latents(background)[:, None]
        sizes = ((32, real.shape[-1], 3, 5, 5), (64, 32, 3, 3, 3))
        self._kernels = [
            torch.randn(size, generator=generator) / np.prod(size[1:]) ** 0.5 for size in sizes
        ]
        self._projection = torch.randn(64 * 4, FEATURES, generator=generator)
        self._mean, self._spread = torch.zeros(FEATURES), torch.ones(FEATURES)
        found = self(real)
        self._mean, self._spread = found.mean(0), found.std(0)

    @torch.no_grad()
    def __call__(self, clips: Frames) -> torch.Tensor:
        """Features (n d) of clips, ``uint8`` (n t h w c)."""
        parts = []
        for begun in range(0, len(clips), 32):
            latents = pixels_to_latents(clips[begun : begun + 32]).transpose(1, 2)
            x = latents - self._background
            for kernel in self._kernels:
                x = torch.nn.functional.conv3d(x, kernel, stride=2, padding=1).relu()
            pooled = torch.nn.functional.adaptive_avg_pool3d(x, (1, 2, 2)).flatten(1)
            parts.append(pooled @ self._projection)
        return (torch.cat(parts) - self._mean) / self._spread


def control(scene: Scene) -> Found:
    """How many times larger the error is under other windows' actions; 1: they are ignored."""
    ratio = action_shuffle_ratio(
        scene.world, scene.recording, scene.episodes.unseen, seed=scene.seed, num_batches=4
    )
    return Found({"control ratio": ratio.overall}, {})


def cost(scene: Scene) -> Found:
    """Median time of a step of one lane."""
    rollout = begin(scene.world, 1)
    rollout.num_passes = scene.passes
    return Found({"ms a step": step_cost(rollout, seconds=2).p50}, {})


def filmed(scene: Scene) -> HeldOutWindows:
    """Two windows for a filmstrip."""
    return scene.long.first(2, FILM_STEPS)


def film(scene: Scene, held_out: HeldOutWindows, path: Path) -> None:
    """Write a filmstrip of windows: the recorded frames above samples with other noise."""
    shown = slice(EVERY - 1, None, EVERY)
    count = len(held_out.real)
    drawn = draw(scene, held_out, np.repeat(range(count), FILMED).tolist())[:, shown]
    rows, labels = [], []
    for row, real in enumerate(held_out.real):
        rows += [real[shown], *drawn[row * FILMED : (row + 1) * FILMED]]
        labels += ["game", *(f"sample {n + 1}" for n in range(FILMED))]
    steps = [f"{step + 1}" for step in range(EVERY - 1, held_out.horizon, EVERY)]
    filmstrip(rows, path, labels=labels, column_labels=steps)
