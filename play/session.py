"""A session of play: episodes in a world or its real game, scored and recorded.

A session knows only Gymnasium environments, so worlds and real games play alike. The window handles
screen and keys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from worldsim.data.captions import caption_in
from worldsim.data.episode import EpisodeBuilder
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig


@dataclass(frozen=True)
class Source:
    """A world or a real game, opened when it is first played.

    Attributes:
        name: Its name, such as ``"pong"`` or ``"ALE/Pong-v5"``.
        kind: ``"world"`` or ``"real game"``.
        config: Frames, actions and keys.
        open: Makes the environment; raises ValueError if that fails.
        options: Options of each reset, such as the start.
        note: A note for the person, printed before play.
    """

    name: str
    kind: str
    config: GameConfig
    open: Callable[[], gymnasium.Env[np.ndarray, int]]
    options: dict[str, Any] | None = None
    note: str | None = None


class Shown(NamedTuple):
    """A frame of a step, and what it adds to the episode."""

    frame: np.ndarray
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def format_score(score: float) -> str:
    """Format a sum of rewards; a world's rewards are expectations, not integers.

    Example:
        >>> format_score(-0.02), format_score(2.96), format_score(0.5)
        ('0', '3', '0.5')
    """
    return f"{round(score, 1) + 0:g}"


class Session:
    """Plays episodes in the first source, or in another one after :meth:`switch`.

    Only the first source is recorded: a recording holds one game, and imagined frames must not be
    mistaken for real ones.

    A world may predict several frames in a step. They are then shown and recorded one by one, each
    with the action of the step; its reward and its end belong to the last of them.

    Args:
        sources: The sources; the first is opened and reset at once.
        seed: Source of the episodes' seeds; by default they differ in each session.
        writer: Writes the episodes; by default none is kept.
        player: Name of the player in the recording.
        prompt: What episodes in a world with text show, in words; None for its starts' captions.

    Raises:
        ValueError: If the first source cannot be opened, or cannot follow the prompt.
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
        prompt: str | None = None,
    ) -> None:
        self.sources = list(sources)
        self.writer = writer
        self.player = player
        self.prompt = prompt
        self.rng = np.random.default_rng(seed)
        self.scores: list[float] = []
        self.total_steps = 0
        self.num_kept = 0
        self._ahead: deque[Shown] = deque()
        self._envs: dict[int, gymnasium.Env[np.ndarray, int]] = {}
        self._current = 0
        if prompt is not None:
            self._opened(0)
            self._check_prompt(prompt)
        self._begin(0)

    @property
    def source(self) -> Source:
        """The current source."""
        return self.sources[self._current]

    @property
    def config(self) -> GameConfig:
        """Frames, actions and keys of the current source."""
        return self.source.config

    @property
    def env(self) -> gymnasium.Env[np.ndarray, int]:
        """The current environment."""
        return self._envs[self._current]

    @property
    def is_recording(self) -> bool:
        """Whether the current steps are recorded."""
        return self.writer is not None and self._current == 0

    @property
    def num_ahead(self) -> int:
        """Frames of the last step that are not shown yet."""
        return len(self._ahead)

    @property
    def num_passes(self) -> int | None:
        """Denoising passes per frame of a world; None for a real game."""
        passes = getattr(self.env.unwrapped, "num_passes", None)
        return None if passes is None else int(passes)

    @property
    def range_left(self) -> str | None:
        """The recorded range of scores if a world's score is outside of it, such as "-5 to 5"."""
        world = getattr(self.env.unwrapped, "world", None)
        recorded = getattr(world, "recorded_rewards", None)
        if recorded is None or not recorded.are_beyond(self.score):
            return None
        return f"{format_score(recorded.lowest_score)} to {format_score(recorded.highest_score)}"

    @property
    def takes_prompt(self) -> bool:
        """Whether the current source is a world with text."""
        world = getattr(self.env.unwrapped, "world", None)
        return getattr(world, "text", None) is not None

    def change_prompt(self, prompt: str | None) -> None:
        """Begin a new episode by a prompt, and those after it.

        Raises:
            ValueError: If the current source cannot follow it; nothing changes then.
        """
        if prompt is not None:
            self._check_prompt(prompt)
        self.prompt = prompt
        self.restart()

    def _check_prompt(self, prompt: str) -> None:
        if not self.takes_prompt:
            raise ValueError(
                f"{self.source.name} takes no prompt: only worlds trained on captions do"
            )
        self.env.unwrapped.world.encode_text([prompt])  # type: ignore[attr-defined]

    def change_passes(self, difference: int) -> None:
        """Add to the number of denoising passes of a world, which stays at least 1.

        Raises:
            ValueError: If the current source is a real game.
        """
        if self.num_passes is None:
            raise ValueError("a real game has no denoising passes")
        self.env.unwrapped.num_passes = max(1, self.num_passes + difference)  # type: ignore[attr-defined]

    def step(self, action: int) -> None:
        """Play one frame; at the episode's end :attr:`is_over` becomes True.

        Args:
            action: The action, which is not taken while frames of the last step are ahead.

        Raises:
            RuntimeError: If the episode is over; call :meth:`restart` first.
        """
        if self.is_over:
            raise RuntimeError("the episode is over: call restart() before step()")
        if not self._ahead:
            self._take(action)
        shown = self._ahead.popleft()
        self.observation = shown.frame
        self.score += shown.reward
        self.num_steps += 1
        self.total_steps += 1
        self.is_over = shown.terminated or shown.truncated
        if self.is_recording:
            assert self.last_action is not None
            self._episode.add(
                self.last_action,
                shown.frame,
                reward=shown.reward,
                terminated=shown.terminated,
                truncated=shown.truncated,
            )
        if self.is_over:
            self._end()

    def _take(self, action: int) -> None:
        """Take a step of the environment, whose frames are then ahead."""
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.last_action = action
        world = getattr(self.env.unwrapped, "world", None)
        if getattr(world, "patch_frames", 1) > 1:
            self._ahead.extend(map(Shown, self.info["frames"][:-1]))
        self._ahead.append(Shown(observation, float(reward), bool(terminated), bool(truncated)))

    def restart(self) -> None:
        """Begin a new episode; an unfinished one is kept as truncated."""
        self._cut_off()
        self._begin(self._current)

    def switch(self) -> None:
        """Switch to the next source, with a new episode.

        Raises:
            ValueError: If there is no other source or it cannot be opened; nothing changes then.
        """
        if len(self.sources) < 2:
            raise ValueError(f"there is no other source than {self.source.name}")
        following = (self._current + 1) % len(self.sources)
        self._opened(following)
        self._cut_off()
        self._begin(following)

    def close(self) -> None:
        """Keep an unfinished episode as truncated, and close the environments."""
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
        prompt = self.prompt if self.takes_prompt else None
        if prompt is not None:
            options = {**(options or {}), "prompt": prompt}
        self.observation, self.info = env.reset(seed=seed, options=options)
        self._ahead.clear()
        self.last_action = None
        self.score = 0.0
        self.num_steps = 0
        self.is_over = False
        caption = prompt or (caption_in(self.info) if self.is_recording else None)
        self._episode = EpisodeBuilder(self.observation, seed=seed, caption=caption)

    def _cut_off(self) -> None:
        """End an unfinished episode as truncated; drop one without a step."""
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
        self.writer.update_index()  # so that Minari finds all episodes after a kill
        self.num_kept += 1
