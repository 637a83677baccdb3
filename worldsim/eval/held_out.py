"""Held-out windows: recorded contexts for a world to continue, with their true continuations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.eval.shared_world import SharedWorld, continue_frames
from worldsim.game.joined import JOINT, join_games
from worldsim.model.text import Caption
from worldsim.rollout_context import prompts_of
from worldsim.rollout_output import RolloutStep
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class HeldOutWindows:
    """Recorded windows to predict: context frames and true continuation.

    Attributes:
        windows: Windows of ``context + horizon`` frames; those after the context are all valid.
        context: Number of given frames.
        horizon: Number of frames to predict.
        places: Episode and first frame of each window; a negative frame stands for padding before
            the episode.
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
        """The true continuations, ``uint8`` (b horizon h w c)."""
        return self.windows.frames[:, self.context :]

    @property
    def episodes(self) -> NDArray[np.int64]:
        """The episode of each window (b)."""
        return np.array([episode for episode, _ in self.places], np.int64)

    def with_context(self, frames: Frames, num_given: int) -> Frames:
        """Prepend the last ``num_given`` context frames to frames (b t h w c)."""
        last = np.maximum(np.arange(self.context - num_given, self.context), 0)
        return np.concatenate((self.windows.frames[:, last], frames), axis=1)

    def first(self, num_windows: int, horizon: int) -> HeldOutWindows:
        """The first ``num_windows`` windows, with ``horizon`` steps at most."""
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
    """Draw different windows whose frames up to the horizon are all recorded.

    Args:
        world: The world.
        recording: A recording of its game.
        episodes: Episodes to draw from.
        horizons: Candidates for the horizon; the largest that fits into an episode is used.
        num_windows: Number of windows, at most.
        seed: Seed of the choice.

    Returns:
        The windows, whose first ones are from as many episodes as possible. Contexts are complete
        if an episode is long enough; otherwise the episode's first frame is repeated before it.

    Raises:
        ValueError: If world and recording do not fit, or the episodes are too short.
    """
    check_match(world, recording)
    rng = np.random.default_rng(seed)
    context = world.context_frames
    for horizon in sorted(set(horizons), reverse=True):
        for first in (0, 1 - context):
            starts = [
                (episode, start)
                for episode in episodes
                for start in range(
                    first, int(recording.episode_lengths[episode]) + 2 - context - horizon
                )
            ]
            if starts:
                picks = rng.permutation(len(starts))[:num_windows]
                chosen = _spread([starts[pick] for pick in picks])
                windows = recording.windows(
                    [episode for episode, _ in chosen],
                    [start for _, start in chosen],
                    context + horizon,
                )
                return HeldOutWindows(windows, context, horizon, tuple(chosen))
    raise ValueError(
        f"No held-out episode is long enough to predict {min(horizons)} step(s): the longest has "
        f"{max((int(recording.episode_lengths[e]) for e in episodes), default=0)}; record more"
    )


def _spread(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Reorder windows so that the first ones are from as many episodes as possible."""
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
    prompts: Sequence[Caption] | None = None,
    on_step: Callable[[], None] | None = None,
) -> RolloutStep:
    """Continue recorded frames under given actions, in batches of up to 64 lanes.

    Frames do not depend on how the lanes are divided, up to rounding.

    Args:
        world: The world, or one whose workers take the lanes.
        context_frames: Frames to begin from, ``uint8`` (b context h w c).
        actions: Actions (b context-1+horizon), where ``actions[:, t]`` follows frame t: first
            those between the context frames, then those to play.
        seeds: Seed of the noise of each lane (b).
        num_passes: Denoising passes per frame; None takes the world's own number.
        prompts: Of each lane (b), in a world with text.
        on_step: Called after each step of a batch, for a progress bar.

    Returns:
        The steps, stacked along a second axis of time: frames (b horizon h w c), rewards
        (b horizon) and so on.
    """
    if isinstance(world, SharedWorld):
        return world.imagine(context_frames, actions, seeds, num_passes, prompts, on_step)
    return continue_frames(world, context_frames, actions, seeds, num_passes, prompts, on_step)


def lane_seeds(seed: int, num_lanes: int) -> list[int]:
    """Draw seeds of lanes from one seed."""
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
    """Let the world continue each window under the recorded actions and caption; see `imagine`.

    Args:
        world: The world.
        held_out: The windows.
        num_passes: Denoising passes per frame; None takes the world's own number.
        seed: Seed of the noise.
        newest: Number of context frames to give, the newest ones; None gives all.
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
        prompts=prompts_of(held_out.windows, world),
        on_step=on_step,
    ).frames


def fitted(world: WorldModel, recording: Recording) -> tuple[WorldModel, Recording]:
    """Fit a world and a recording to one another, as far as that is possible.

    The world gets the frame size of the recording. If it has learned several games, the recording
    gets its actions; the game stays that of the recording.
    """
    game = recording.game
    if world.game.channels == game.channels and world.game.frame_size != game.frame_size:
        world = world.at_size(game.frame_size)
    meanings = world.game.action_meanings
    if JOINT in world.game.env_id and game.action_meanings != meanings:
        joint, tables = join_games([world.game, game])
        if joint.action_meanings == meanings:
            own = replace(game, action_meanings=meanings, noop_action=joint.noop_action)
            recording = recording.in_joint_game(own, tables[1])
    return world, recording


def check_match(world: WorldModel, recording: Recording) -> None:
    """Check that a recording has the world's frame size, channels and number of actions.

    Raises:
        ValueError: If they differ.
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
                f"the world of {ours.env_id} has {world_value} {kind} and the recording of "
                f"{theirs.env_id} has {recording_value}: use a recording of the world's game with "
                "the same settings"
            )
