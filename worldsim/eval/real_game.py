"""The real game once more: from the same moment, with other chance or other actions.

An episode's seed and actions are recorded, so most games can be brought back to any moment of it.
Played on from there under the same actions but with other chance, a game shows how well any world
could predict it; played on under other actions, what those would really have done.
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
    """The game is not installed here, or does not come again with its seed and actions."""


def replay(
    recording: Recording,
    places: Sequence[tuple[int, int]],
    actions: NDArray[np.integer],
    *,
    chance: Sequence[int] | None = None,
    on_place: Callable[[], None] | None = None,
) -> Frames:
    """Play the real game on from recorded moments.

    Args:
        recording: The game's recording.
        places: Episode and frame of each moment.
        actions: What to do from there on (n t).
        chance: A seed for each moment, of other random numbers from there on; None keeps those
            that the game had.
        on_place: Called after each moment, for a progress bar.

    Returns:
        ``uint8`` (n t h w c); after an end the last frame is repeated.

    Raises:
        CannotReplayError: In one sentence, if the game is not there or does not come again.
    """
    shown = np.empty(
        (*actions.shape, *recording.game.frame_size, recording.game.channels), np.uint8
    )
    episodes = {index: recording.episode(index) for index in {index for index, _ in places}}
    for row, (index, begin) in enumerate(places):
        try:
            env = _game_at(recording, episodes[index], index, begin)
            try:
                if chance is not None:
                    _redraw_chance(env, int(chance[row]))
                _play(env, actions[row], shown[row])
            finally:
                env.close()
        except CannotReplayError:
            raise
        except Exception as error:  # of the game: whatever its author thought of
            kind, words = type(error).__name__, one_line(error)
            raise CannotReplayError(
                f"{recording.game.env_id} fails when it is played again: "
                + (words if words == kind else f"{kind}: {words}")
            ) from error
        if on_place is not None:
            on_place()
    return shown


def _play(env: gymnasium.Env, actions: NDArray[np.integer], shown: Frames) -> None:
    """Play actions (t) and keep what is seen (t h w c); after an end the last frame stays."""
    over = False
    for step, action in enumerate(actions):
        if not over:
            frame, _, terminated, truncated, _ = env.step(int(action))
            over = terminated or truncated
        shown[step] = frame


def _game_at(recording: Recording, episode: Episode, index: int, begin: int) -> gymnasium.Env:
    """The game as it was at a frame of an episode."""
    if episode.seed is None:
        raise CannotReplayError(f"episode {index} of {recording.path} has no recorded seed")
    try:
        env = make_game(recording.game)
    except Exception as error:  # a missing package, another version: each says so in its own way
        raise CannotReplayError(
            f"{recording.game.env_id} cannot be made here: {one_line(error)}"
        ) from error
    try:
        frame, _ = env.reset(seed=episode.seed)
        for action in episode.actions[:begin]:
            frame, *_ = env.step(int(action))
    except BaseException:
        env.close()
        raise
    if not np.array_equal(frame, episode.frames[begin]):
        env.close()
        raise CannotReplayError(
            f"{recording.game.env_id} does not come again with its seed and actions (frame {begin} "
            f"of episode {index} differs)"
        )
    return env


def _redraw_chance(env: gymnasium.Env, seed: int) -> None:
    """Give the game other random numbers from here on, and change nothing else of it."""
    game = env.unwrapped
    if hasattr(game, "ale"):
        state = game.ale.cloneState()
        env.reset(seed=seed)
        game.ale.restoreState(state)
    else:
        game.np_random = np.random.default_rng(seed)
