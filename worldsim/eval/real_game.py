"""Replay the real game from a recorded moment, with other randomness or other actions.

An episode's seed and actions are recorded, so most games can be replayed to any of its frames.
With the same actions and other randomness, the game bounds how well any world can predict it. With
other actions, it shows their true effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.game.describe import make_game
from worldsim.system.files import one_line

Frames = NDArray[np.uint8]


class CannotReplayError(Exception):
    """The game is not installed here, or differs when replayed with its seed and actions."""


def replay(
    recording: Recording,
    places: Sequence[tuple[int, int]],
    actions: NDArray[np.integer],
    *,
    other_seeds: Sequence[int] | None = None,
    on_place: Callable[[], None] | None = None,
) -> Frames:
    """Continue the real game from recorded moments.

    Args:
        recording: The game's recording.
        places: Episode and frame of each moment.
        actions: Actions to play from there on (n t).
        other_seeds: A seed for each moment, to draw other random numbers from there on; None keeps
            the game's own.
        on_place: Called after each moment, for a progress bar.

    Returns:
        ``uint8`` (n t h w c); after an end the last frame repeats.

    Raises:
        CannotReplayError: If the game is not available, fails, or differs from its recording.
    """
    frames = np.empty(
        (*actions.shape, *recording.game.frame_size, recording.game.channels), np.uint8
    )
    episodes = {index: recording.episode(index) for index in {index for index, _ in places}}
    for row, (index, begin) in enumerate(places):
        try:
            env = _game_at(recording, episodes[index], index, begin)
            try:
                if other_seeds is not None:
                    _reseed(env, int(other_seeds[row]))
                _play(env, recording.own_actions(actions[row]), frames[row])
            finally:
                env.close()
        except CannotReplayError:
            raise
        except Exception as error:  # a game may raise anything
            kind, words = type(error).__name__, one_line(error)
            raise CannotReplayError(
                f"{recording.game.env_id} fails when it is replayed: "
                + (words if words == kind else f"{kind}: {words}")
            ) from error
        if on_place is not None:
            on_place()
    return frames


def _play(env: gymnasium.Env, actions: NDArray[np.integer], frames: Frames) -> None:
    """Play actions (t) and write the frames (t h w c); after an end the last one repeats."""
    over = False
    for step, action in enumerate(actions):
        if not over:
            frame, _, terminated, truncated, _ = env.step(int(action))
            over = terminated or truncated
        frames[step] = frame


def _game_at(recording: Recording, episode: Episode, index: int, begin: int) -> gymnasium.Env:
    """The game replayed to a frame of an episode."""
    if episode.seed is None:
        raise CannotReplayError(f"episode {index} of {recording.path} has no recorded seed")
    try:
        env = make_game(recording.own_game)
    except Exception as error:  # a missing package or another version raises anything
        raise CannotReplayError(
            f"{recording.game.env_id} cannot be made here: {one_line(error)}"
        ) from error
    try:
        frame, _ = env.reset(seed=episode.seed)
        for action in recording.own_actions(episode.actions[:begin]):
            frame, *_ = env.step(int(action))
    except BaseException:
        env.close()
        raise
    if not np.array_equal(frame, episode.frames[begin]):
        env.close()
        raise CannotReplayError(
            f"{recording.game.env_id} differs when replayed with its seed and actions (frame "
            f"{begin} of episode {index})"
        )
    return env


def _reseed(env: gymnasium.Env, seed: int) -> None:
    """Give the game other random numbers from here on, without any other change."""
    game = env.unwrapped
    if hasattr(game, "ale"):
        state = game.ale.cloneState()
        env.reset(seed=seed)
        game.ale.restoreState(state)
    else:
        game.np_random = np.random.default_rng(seed)
