"""A study: one world, held-out play, and what the world made of it. Every section measures this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.split import Measurable
from worldsim.eval.held_out import HeldOutWindows, check_match, choose_windows, roll_out
from worldsim.eval.inverse_dynamics import (
    FRAMES,
    InverseDynamics,
    recognise,
    train_inverse_dynamics,
)
from worldsim.world_model import WorldModel

from .effort import Effort

Frames = NDArray[np.uint8]
Advance = Callable[[], None]
Stage = Callable[[str, int], AbstractContextManager[Advance]]
"""A bar of the progress display: what is done and how often ``advance`` will be called."""

RECOGNISED_STEPS = 64


@dataclass(frozen=True)
class Recognised:
    """What the judge of all worlds, an inverse dynamics model, makes of some frames.

    Attributes:
        actions: The actions that it recognises, (b t).
        features: Its features, (b t d).
    """

    actions: NDArray[np.int64]
    features: torch.Tensor


@dataclass(frozen=True)
class Study:
    """One world, held-out play, and what the world made of it.

    Attributes:
        name: The world's name, as it was asked for.
        world: The world.
        recording: A recording of its game.
        episodes: Those to measure on, and those to compare with.
        background: What never moves, ``uint8`` (h w c); the same for all worlds of a report.
        held_out: Recorded windows.
        imagined: What the world made of them, ``uint8`` (b horizon h w c).
        judge: Recognises actions in frames.
        recognised_real: What it recognises in the first steps of the recorded windows.
        recognised_imagined: What it recognises in those of the imagined ones.
        effort: How much to measure.
        stage: Opens a bar of the progress display.
        num_passes: Denoising passes a frame; None takes the world's own number.
        seed: Decides windows, permutations and noise.
        i3d: The network of FVD, where it is at hand.
    """

    name: str
    world: WorldModel
    recording: Recording
    episodes: Measurable
    background: Frames
    held_out: HeldOutWindows
    imagined: Frames
    judge: InverseDynamics
    recognised_real: Recognised
    recognised_imagined: Recognised
    effort: Effort
    stage: Stage
    num_passes: int | None
    seed: int
    i3d: Path | None

    @property
    def num_windows(self) -> int:
        """Recorded windows."""
        return len(self.held_out.real)

    @property
    def num_episodes(self) -> int:
        """Episodes that the windows are of."""
        return len(np.unique(self.held_out.episodes))

    def recognise(self, frames: Frames) -> Recognised:
        """Recognise the actions of frames (b t h w c) that follow the contexts of the windows."""
        return Recognised(*recognise(self.judge, self.held_out.with_context(frames, FRAMES - 1)))


def train_judge(
    recording: Recording,
    episodes: Sequence[int],
    effort: Effort,
    stage: Stage,
    device: torch.device | str = "cpu",
) -> InverseDynamics:
    """Train the inverse dynamics model, which judges all worlds, on some episodes."""
    with stage("training an inverse dynamics model", effort.inverse_steps) as advance:
        return train_inverse_dynamics(
            recording, episodes, steps=effort.inverse_steps, device=device, on_step=advance
        )


def begin_study(
    name: str,
    world: WorldModel,
    recording: Recording,
    episodes: Measurable,
    judge: InverseDynamics,
    effort: Effort,
    stage: Stage,
    *,
    background: Frames | None = None,
    num_passes: int | None = None,
    seed: int = 0,
    i3d: Path | None = None,
) -> Study:
    """Choose held-out windows and let the world predict them.

    The arguments are attributes of `Study`; ``background`` is by default the world's own.

    Raises:
        ValueError: If world and recording do not fit, or the episodes are too short.
    """
    check_match(world, recording)
    held_out = choose_windows(
        world,
        recording,
        episodes.unseen,
        horizons=effort.horizons,
        num_windows=effort.windows,
        seed=seed,
    )
    with stage("rolling out", num_batches(held_out) * held_out.horizon) as advance:
        imagined = roll_out(world, held_out, num_passes=num_passes, seed=seed, on_step=advance)
    real, ours = (
        Recognised(
            *recognise(judge, held_out.with_context(frames[:, :RECOGNISED_STEPS], FRAMES - 1))
        )
        for frames in (held_out.real, imagined)
    )
    return Study(
        name=name,
        world=world,
        recording=recording,
        episodes=episodes,
        background=world.background if background is None else background,
        held_out=held_out,
        imagined=imagined,
        judge=judge,
        recognised_real=real,
        recognised_imagined=ours,
        effort=effort,
        stage=stage,
        num_passes=num_passes,
        seed=seed,
        i3d=i3d,
    )


def num_batches(held_out: HeldOutWindows) -> int:
    """In how many batches the windows are rolled out."""
    return -(-len(held_out.real) // 64)
