"""Episodes: what training reads windows from, such as a recording or a folder of pictures."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from worldsim.data.rewards import RecordedRewards
from worldsim.data.windows import Windows
from worldsim.game.config import GameConfig
from worldsim.system.devices import check_memory
from worldsim.system.location import Location
from worldsim.system.options import Count, Number, check_value

Kind = TypeVar("Kind", bound="Episodes")


class Episodes(ABC):
    """Numbered episodes of one game, read as windows.

    Attributes:
        path: Where they are.
        game: Their game.
        episode_lengths: Steps of each episode, ``int64``.
    """

    path: Location
    game: GameConfig
    episode_lengths: np.ndarray
    pixels_before: int | None = None
    """Value of the pixels before an episode, if nothing is known of what led to it: then actions
    are unknown too. None repeats the first frame."""
    _joint_actions: np.ndarray | None = None
    _own_game: GameConfig | None = None

    def in_joint_game(self: Kind, game: GameConfig, actions: np.ndarray) -> Kind:
        """Return the same episodes as those of the game that several games are joined into.

        Args:
            game: The joint game; the frames keep their size.
            actions: The joint action of each of their actions, from `join_games`.
        """
        joint = copy.copy(self)
        joint.game = replace(game, frame_size=self.game.frame_size)
        joint._joint_actions, joint._own_game = actions, self.own_game
        return joint

    @property
    def own_game(self) -> GameConfig:
        """The game that they are of, also if ``game`` is one that several games are joined into."""
        return self._own_game or self.game

    def own_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return actions of ``game`` as ``own_game`` numbers them.

        Those that it does not have do nothing in it.
        """
        if self._joint_actions is None:
            return actions
        own = np.full(self._joint_actions.max() + 1, self.own_game.noop_action)
        own[self._joint_actions[:-1]] = np.arange(len(self._joint_actions) - 1)
        return own[actions]

    @abstractmethod
    def fingerprint(self, index: int) -> str:
        """Return the episode's content hash, 16 hexadecimal digits."""

    def content_id(self, index: int) -> str:
        """Return a name for what an episode holds, its frames included, in hexadecimal digits."""
        return self.fingerprint(index)

    @abstractmethod
    def recorded_rewards(self) -> RecordedRewards:
        """Return the figures of all rewards."""

    @abstractmethod
    def _read(self, index: int, first: int, last: int, out: np.ndarray) -> None:
        """Read frames first … last - 1 of an episode into ``out``."""

    @abstractmethod
    def _steps(self, index: int) -> Mapping[str, np.ndarray]:
        """Return all steps of an episode, with recorded actions."""

    def caption(self, index: int) -> str | None:
        """Return what an episode shows, in words; None if it has no caption."""
        return None

    def _fetch(self, episodes: Iterable[int]) -> None:  # noqa: B027  # local files need nothing
        """Bring episodes to this machine that are read next."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.episode_lengths)

    @property
    def total_steps(self) -> int:
        """Number of steps over all episodes."""
        return int(self.episode_lengths.sum())

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a frame."""
        return (*self.game.frame_size, self.game.channels)

    def frames(self, index: int, first: int, last: int) -> np.ndarray:
        """Read frames first … last - 1 of an episode, ``uint8`` (t h w c).

        Raises:
            ValueError: If a file is damaged.
        """
        out = np.empty((last - first, *self.frame_shape), np.uint8)
        self._read(index, first, last, out)
        return out

    def windows(self, episodes: Sequence[int], starts: Sequence[int], length: int) -> Windows:
        """Read windows at given positions.

        Args:
            episodes: Index of the episode of each window.
            starts: First frame of each window; negative for padding on the left.
            length: Frames of each window, 1 or more.

        Raises:
            ValueError: If a window lies outside its episode, an episode does not exist, the
                windows do not fit into memory, or a file is damaged.
        """
        if len(episodes) != len(starts):
            raise ValueError(
                f"windows need one start for each episode, got {len(episodes)} episodes, "
                f"{len(starts)} starts"
            )
        self._choose(episodes)
        self._fetch(set(episodes))
        self._check_room(len(starts), length)
        layout = Windows.layout(len(starts), length, self.frame_shape)
        # All frames are written below, so their memory need not be cleared, which takes time.
        arrays: dict[str, Any] = {
            name: np.empty(size, kind) if name == "frames" else np.zeros(size, kind)
            for name, (kind, size) in layout.items()
        }
        result = Windows(**arrays)
        unknown = self.pixels_before is not None
        result.actions[:] = self.game.num_actions if unknown else self.game.noop_action
        for row, (index, start) in enumerate(zip(episodes, starts, strict=True)):
            num_frames = int(self.episode_lengths[index]) + 1
            first, last = max(start, 0), min(start + length, num_frames)
            if first >= last:
                raise ValueError(
                    f"a window of {length} frames from {start} lies outside of episode {index}, "
                    f"which has frames 0 … {num_frames - 1}"
                )
            read = partial(self._read, index)
            here = fill(result.frames[row], start, num_frames, read, self.pixels_before)
            result.valid[row, here] = True
            from_steps, to_steps = slice(first, last - 1), slice(here.start, here.stop - 1)
            for name, values in self._steps(index).items():
                part = values[from_steps]
                arrays[name][row, to_steps] = self._joint(part) if name == "actions" else part
        captions = tuple(self.caption(int(index)) for index in episodes)
        result.captions = captions if any(captions) else ()
        return result

    def sample_windows(
        self,
        rng: np.random.Generator,
        batch_size: int,
        length: int,
        episodes: Sequence[int] | np.ndarray | None = None,
        left_padding: int = 0,
        right_padding: int = 0,
    ) -> Windows:
        """Read windows at uniformly random positions.

        A frame in the middle of an episode is part of as many windows as a window has frames. Its
        last frame, which shows how it ends, is part of one, unless windows reach beyond it.

        Args:
            rng: Draws the positions.
            batch_size: Number of windows.
            length: Frames of each window. An episode with fewer is padded on the right.
            episodes: Indices to draw from; None for all.
            left_padding: Frames by which a window may begin before its episode.
            right_padding: Frames by which a window may reach beyond its episode.

        Raises:
            ValueError: If a number is out of range, an episode does not exist, the windows do not
                fit into memory, or a file is damaged.
        """
        chosen = self._choose(episodes)
        if len(chosen) == 0:
            raise ValueError("there is no episode to draw windows from")
        check_value("batch_size", batch_size, Count)
        check_value("left_padding", left_padding, Number)
        check_value("right_padding", right_padding, Number)
        self._check_room(batch_size, length)
        # Number all possible starts through, draw numbers, and map them back to episodes.
        last_starts = self.episode_lengths[chosen] + 1 - length + right_padding
        last_starts = np.maximum(last_starts, -left_padding)
        ends = np.cumsum(last_starts + 1 + left_padding)
        places = rng.integers(ends[-1], size=batch_size)
        rows = np.searchsorted(ends, places, side="right")
        starts = last_starts[rows] - (ends[rows] - 1 - places)
        return self.windows(chosen[rows].tolist(), starts.tolist(), length)

    def median_frame(
        self, num_frames: int = 512, episodes: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return the median of frames spread over the episodes, ``uint8`` (h w c).

        Args:
            num_frames: Upper bound of frames to read.
            episodes: Indices of the episodes to read them from; None for all.
        """
        chosen = self._choose(episodes)
        check_value("num_frames", num_frames, Count)
        lengths = self.episode_lengths[chosen] + 1
        ends = np.cumsum(lengths)
        count = min(num_frames, int(ends[-1]))
        places = np.linspace(0, ends[-1] - 1, count).astype(np.int64)
        rows = np.searchsorted(ends, places, side="right")
        starts = places - (ends[rows] - lengths[rows])
        frames = self.windows(chosen[rows].tolist(), starts.tolist(), 1).frames[:, 0]
        return np.median(frames, axis=0).astype(np.uint8)

    @property
    def _frame_bytes(self) -> int:
        """Bytes of a frame in a window."""
        return math.prod(self.frame_shape)

    def _joint(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions as those of ``game``."""
        return actions if self._joint_actions is None else self._joint_actions[actions]

    def _choose(self, episodes: Sequence[int] | np.ndarray | None) -> np.ndarray:
        """The given indices, or all; raises for an unknown one."""
        if episodes is None:
            return np.arange(len(self))
        chosen = np.asarray(episodes, dtype=np.int64)
        absent = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(absent):
            raise ValueError(f"episodes must be 0 … {len(self) - 1}, got {absent[:5].tolist()}")
        return chosen

    def _check_room(self, num_windows: int, length: int) -> None:
        """Raise before allocating windows that cannot fit into memory."""
        check_value("length", length, Count)
        check_memory(
            num_windows * length * self._frame_bytes,
            f"reading {num_windows:,} windows of {length:,} frames",
            "read fewer or shorter ones",
        )


def fill(
    out: np.ndarray,
    start: int,
    num_rows: int,
    read: Callable[[int, int, np.ndarray], object],
    before: np.ndarray | int | None = None,
) -> slice:
    """Fill a window with rows of an episode, and what is beyond it with the first or last row.

    Args:
        out: The window, of any number of rows.
        start: The episode's row that the window begins with; it may be negative.
        num_rows: Rows of the episode, of which the window has at least one.
        read: Reads rows first … last - 1 into an array.
        before: What is before the episode; None repeats its first row.

    Returns:
        The part of the window that is inside the episode.
    """
    first, last = max(start, 0), min(start + len(out), num_rows)
    here = slice(first - start, last - start)
    read(first, last, out[here])
    out[: here.start] = out[here.start] if before is None else before
    out[here.stop :] = out[here.stop - 1]
    return here
