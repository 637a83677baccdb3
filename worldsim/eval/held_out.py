"""Held-out windows: recorded contexts for a world to continue, and what really followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.rollout import Rollout, RolloutStep
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

_BATCH = 64  # windows rolled out together


@dataclass(frozen=True)
class HeldOutWindows:
    """Recorded windows to predict: a context, and what really followed.

    Attributes:
        windows: Windows of ``context + horizon`` frames, all of those after the context valid.
        context: Frames given.
        horizon: Frames to predict.
        places: Episode and first frame of each, which is negative where it begins before it.
    """

    windows: Windows
    context: int
    horizon: int
    places: tuple[tuple[int, int], ...] = ()

    @property
    def last_context(self) -> Frames:
        """The frames that predictions start from, ``uint8`` (b h w c)."""
        return self.windows.frames[:, self.context - 1]

    @property
    def real(self) -> Frames:
        """What followed, ``uint8`` (b horizon h w c)."""
        return self.windows.frames[:, self.context :]

    @property
    def episodes(self) -> NDArray[np.int64]:
        """The episode of each window (b)."""
        return np.array([episode for episode, _ in self.places], np.int64)

    def with_context(self, frames: Frames, num_given: int) -> Frames:
        """Put the last given frames before what followed, real or imagined (b t h w c)."""
        last = np.maximum(np.arange(self.context - num_given, self.context), 0)
        return np.concatenate((self.windows.frames[:, last], frames), axis=1)

    def first(self, num_windows: int, horizon: int) -> HeldOutWindows:
        """The first windows alone, and fewer steps of them."""
        horizon = min(horizon, self.horizon)
        windows = self.windows[:num_windows, : self.context + horizon]
        return HeldOutWindows(windows, self.context, horizon, self.places[:num_windows])


def choose_windows(
    world: WorldModel,
    recording: Recording,
    episodes: Sequence[int],
    *,
    horizons: Sequence[int],
    num_windows: int = 64,
    seed: int = 0,
) -> HeldOutWindows:
    """Draw windows, no position twice, whose frames up to the horizon are all recorded.

    The first of them are of as many episodes as can be, for those who look at some alone.

    The horizon is the largest of those asked for that an episode is long enough for. Contexts are
    whole where an episode is long enough; else they may begin before it, with its first frame
    repeated.

    Raises:
        ValueError: If world and recording do not fit, or the episodes are too short.
    """
    check_match(world, recording)
    rng = np.random.default_rng(seed)
    for horizon in sorted(set(horizons), reverse=True):
        for first in (0, 1 - world.window):
            starts = [
                (episode, start)
                for episode in episodes
                for start in range(
                    first, int(recording.episode_lengths[episode]) + 2 - world.window - horizon
                )
            ]
            if starts:
                picks = rng.permutation(len(starts))[:num_windows]
                chosen = _spread([starts[pick] for pick in picks])
                windows = recording.windows(
                    [episode for episode, _ in chosen],
                    [start for _, start in chosen],
                    world.window + horizon,
                )
                return HeldOutWindows(windows, world.window, horizon, tuple(chosen))
    raise ValueError(
        f"No held-out episode is long enough to predict {min(horizons)} step(s): the longest has "
        f"{max((int(recording.episode_lengths[e]) for e in episodes), default=0)}; record more"
    )


def _spread(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Reorder windows so that the first of them are of as many episodes as can be."""
    so_far: Counter[int] = Counter()
    ranks = []
    for episode, _ in places:
        ranks.append(so_far[episode])
        so_far[episode] += 1
    return [places[i] for i in sorted(range(len(places)), key=ranks.__getitem__)]


def imagine(
    world: WorldModel,
    context_frames: Frames,
    actions: NDArray[np.integer],
    seeds: Sequence[int],
    *,
    num_passes: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> RolloutStep:
    """Let the world go on from recorded frames under given actions, in batches of up to 64.

    Args:
        world: The world.
        context_frames: Frames to begin from, ``uint8`` (b context h w c).
        actions: ``actions[:, t]`` follows frame t, (b context-1+horizon): those between the
            context's frames, then those to play.
        seeds: Of the noise of each lane (b).
        num_passes: Denoising passes a frame; None takes the world's own number.
        on_step: Called after each step of a batch, for a progress bar.

    Returns:
        What each step gives, along a second axis of time: frames (b horizon h w c), rewards
        (b horizon) and so on.
    """
    context = context_frames.shape[1]
    batches = []
    for begin in range(0, len(context_frames), _BATCH):
        lanes = slice(begin, begin + _BATCH)
        rollout = Rollout(world, len(context_frames[lanes]), num_passes=num_passes)
        rollout.reset(context_frames[lanes], actions[lanes, : context - 1], list(seeds[lanes]))
        steps = []
        for taken in actions[lanes, context - 1 :].T:
            steps.append(rollout.step(taken)[:4])
            if on_step is not None:
                on_step()
        batches.append([np.stack(parts, axis=1) for parts in zip(*steps, strict=True)])
    return RolloutStep(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def lane_seeds(seed: int, num_lanes: int) -> list[int]:
    """Seeds for lanes, drawn from one."""
    return np.random.default_rng(seed).integers(2**62, size=num_lanes).tolist()


def roll_out(
    world: WorldModel,
    held_out: HeldOutWindows,
    *,
    num_passes: int | None = None,
    seed: int = 0,
    newest: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Frames:
    """Let the world continue each window under the recorded actions; see `imagine`.

    Args:
        world: The world.
        held_out: Where to begin and what the player did.
        num_passes: Denoising passes a frame; None takes the world's own number.
        seed: Of the noise.
        newest: Frames of the context to show it, the newest ones; None for all.
        on_step: Called after each step of a batch, for a progress bar.

    Returns:
        ``uint8`` (b horizon h w c).
    """
    frames, actions = held_out.windows.frames, held_out.windows.actions
    context = held_out.context
    first = 0 if newest is None else max(0, context - newest)
    return imagine(
        world,
        frames[:, first:context],
        actions[:, first : context + held_out.horizon - 1],
        lane_seeds(seed, len(frames)),
        num_passes=num_passes,
        on_step=on_step,
    ).frames


def check_match(world: WorldModel, recording: Recording) -> None:
    """Refuse a recording of other frames or another number of actions than the world's.

    Raises:
        ValueError: In one sentence, with both values.
    """
    ours, theirs = world.game, recording.game
    kinds = {
        "frames": (
            "x".join(map(str, (*ours.frame_size, ours.channels))),
            "x".join(map(str, (*theirs.frame_size, theirs.channels))),
        ),
        "actions": (ours.num_actions, theirs.num_actions),
    }
    for kind, (world_value, recording_value) in kinds.items():
        if world_value != recording_value:
            raise ValueError(
                f"World and recording do not fit: the world of {ours.env_id} has {world_value} "
                f"{kind} and the recording of {theirs.env_id} has {recording_value}; evaluate a "
                "world on a recording of its own game, made with the same settings"
            )
