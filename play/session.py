"""Playing without a window: episodes in a world or its real game, scored and recorded.

The session knows Gymnasium environments alone, so a world and a real game play the same way; what
is on screen and which key is held is the window's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from worldsim.data.episode import EpisodeBuilder
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig


@dataclass(frozen=True)
class Source:
    """Something to play, opened when it is first played.

    Attributes:
        name: What to call it, as in ``"pong"`` or ``"ALE/Pong-v5"``.
        kind: ``"world"`` or ``"real game"``.
        config: Frames, actions and keys.
        open: Makes the environment; raises ValueError with a sentence where it cannot.
        options: Of every reset: what its episodes begin from.
        note: What a person should know before playing it.
    """

    name: str
    kind: str
    config: GameConfig
    open: Callable[[], gymnasium.Env[np.ndarray, int]]
    options: dict[str, Any] | None = None
    note: str | None = None


def format_score(score: float) -> str:
    """A sum of rewards as players read it; a world's rewards are expectations, not whole numbers.

    Example:
        >>> format_score(-0.02), format_score(2.96), format_score(0.5)
        ('0', '3', '0.5')
    """
    return f"{round(score, 1) + 0:g}"


class Session:
    """Episode after episode in the first of the sources, or in another after :meth:`switch`.

    Only the first source is recorded: a recording holds one game, and imagined frames must not
    pass for the game that it was trained on.

    Args:
        sources: What can be played; the first is opened and reset at once.
        seed: Where the episodes' seeds come from; by default they differ in each session.
        writer: Where episodes are kept; nowhere by default.
        player: Who plays, as the recording names it.

    Raises:
        ValueError: If the first source cannot be opened.
    """

    observation: np.ndarray
    info: dict[str, Any]
    last_action: int | None
    score: float
    num_steps: int
    is_over: bool

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int | None = None,
        writer: RecordingWriter | None = None,
        player: str = "person",
    ) -> None:
        self.sources = list(sources)
        self.writer = writer
        self.player = player
        self.rng = np.random.default_rng(seed)
        self.scores: list[float] = []
        self.total_steps = 0
        self.num_kept = 0
        self._envs: dict[int, gymnasium.Env[np.ndarray, int]] = {}
        self._current = 0
        self._begin(0)

    @property
    def source(self) -> Source:
        """What is being played."""
        return self.sources[self._current]

    @property
    def config(self) -> GameConfig:
        """Frames, actions and keys of what is being played."""
        return self.source.config

    @property
    def env(self) -> gymnasium.Env[np.ndarray, int]:
        """The environment being played."""
        return self._envs[self._current]

    @property
    def is_recording(self) -> bool:
        """Whether the steps taken now are kept."""
        return self.writer is not None and self._current == 0

    @property
    def num_passes(self) -> int | None:
        """Denoising passes a frame, for a world; None for a game that has none."""
        passes = getattr(self.env.unwrapped, "num_passes", None)
        return None if passes is None else int(passes)

    @property
    def range_left(self) -> str | None:
        """The recorded range of scores once a world's score has left it, such as "-5 to 5"."""
        world = getattr(self.env.unwrapped, "world", None)
        recorded = getattr(world, "recorded_rewards", None)
        if recorded is None or not recorded.are_beyond(self.score):
            return None
        return f"{format_score(recorded.lowest_score)} to {format_score(recorded.highest_score)}"

    def change_passes(self, difference: int) -> None:
        """Add to the number of denoising passes of a world, which stays at least 1.

        Raises:
            ValueError: If what is being played is no world.
        """
        if self.num_passes is None:
            raise ValueError("a real game has no denoising passes")
        self.env.unwrapped.num_passes = max(1, self.num_passes + difference)  # type: ignore[attr-defined]

    def step(self, action: int) -> None:
        """Play one action; at the episode's end :attr:`is_over` becomes True.

        Raises:
            RuntimeError: If the episode is over; call :meth:`restart` first.
        """
        if self.is_over:
            raise RuntimeError("the episode is over: call restart() before step()")
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.observation = observation
        self.last_action = action
        self.score += float(reward)
        self.num_steps += 1
        self.total_steps += 1
        self.is_over = bool(terminated or truncated)
        if self.is_recording:
            self._episode.add(
                action,
                observation,
                reward=float(reward),
                terminated=bool(terminated),
                truncated=bool(truncated),
            )
        if self.is_over:
            self._end()

    def restart(self) -> None:
        """Begin a new episode; one that was under way is cut off, and kept so."""
        self._cut_off()
        self._begin(self._current)

    def switch(self) -> None:
        """Go on to the next source, with a new episode.

        Raises:
            ValueError: If there is no other source or it cannot be opened; play goes on as it was.
        """
        if len(self.sources) < 2:
            raise ValueError(f"there is no other side to {self.source.name}")
        following = (self._current + 1) % len(self.sources)
        self._opened(following)
        self._cut_off()
        self._begin(following)

    def close(self) -> None:
        """Keep the episode under way, cut off here, and close the environments."""
        self._cut_off()
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _opened(self, index: int) -> gymnasium.Env[np.ndarray, int]:
        if index not in self._envs:
            self._envs[index] = self.sources[index].open()
        return self._envs[index]

    def _begin(self, index: int) -> None:
        env = self._opened(index)
        self._current = index
        seed = int(self.rng.integers(2**31))
        options = self.sources[index].options
        self.observation, self.info = env.reset(seed=seed, options=options)
        self.last_action = None
        self.score = 0.0
        self.num_steps = 0
        self.is_over = False
        self._episode = EpisodeBuilder(self.observation, seed=seed)

    def _cut_off(self) -> None:
        """End an episode under way as truncated; one without a step is forgotten."""
        if self.is_over or self.num_steps == 0:
            return
        self.is_over = True
        if len(self._episode) > 0:
            self._episode.cut_off()
        self._end()

    def _end(self) -> None:
        self.scores.append(self.score)
        if self.writer is None or len(self._episode) == 0:
            return
        self._episode.policy = self.player  # a person may have taken over meanwhile
        self.writer.write_episode(self._episode.build())
        self.writer.update_index()  # so that a kill hides nothing from Minari
        self.num_kept += 1
