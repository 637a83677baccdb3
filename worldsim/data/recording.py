"""Recordings: episodes of a game on disk.

A recording is a Minari dataset in a folder::

    pong-v0/data/metadata.json                  the game, the settings, Minari's own fields
    pong-v0/data/main_data.hdf5                 episode_0, episode_1, …: links to the shards
    pong-v0/data/index.hdf5                     what is known of each episode
    pong-v0/data/shards/episode_00000000.hdf5   one episode
    pong-v0/data/captions.json                  captions that win over those of the shards, if any

``minari.load_dataset("pong-v0")`` opens it if ``MINARI_DATASETS_PATH`` is the folder around it. A
folder without a version, ``pong``, has ``recording-v0/data`` in it: ``pong/recording-v0`` to
Minari. It may also be where fsspec reads, such as ``s3://bucket/pong-v0``; then each shard that is
read is downloaded once.

Files may come from a stranger. Metadata, index and captions are checked when a recording is
opened; a shard when it is first read, or at once if the index does not have it.

A kill loses only the current episode: links and metadata can always be rebuilt from the shards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from worldsim.data.captions import read_captions
from worldsim.data.episode import STEP_TYPES, Episode
from worldsim.data.folder import open_folder
from worldsim.data.metadata import metadata_in
from worldsim.data.open_shards import OpenShards
from worldsim.data.rewards import RecordedRewards
from worldsim.data.shard import list_shards
from worldsim.data.windows import Windows
from worldsim.system.devices import check_memory
from worldsim.system.location import as_location
from worldsim.system.options import Count, Number, check_value


class Recording:
    """A recording, read as episodes or as windows.

    It keeps no file open, can be pickled, and can be read by several threads. Only shards that are
    read are opened, and those opened last are kept in memory.

    Args:
        path: Folder of the recording, or its URL for fsspec, such as ``s3://bucket/pong``. If it is
            still being written, it has the episodes that were finished when it was opened.

    Raises:
        OSError: If a file may not be read, or the URL cannot be reached; the error names it.
        ValueError: If there is no recording, it has no finished episode, or a file is damaged; the
            error names the file. A shard that the index has is looked at when it is first read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_location(path)
        folder = open_folder(self.path)
        metadata = metadata_in(folder, self.path)
        self.game = metadata.game
        self.settings = metadata.settings
        """JSON values of the recording, such as seed and policy."""
        sizes = list_shards(folder)
        if not sizes:
            raise ValueError(f"{self.path} has no finished episode yet")
        self._captions = read_captions(folder, list(sizes))
        self._shards = OpenShards(folder, self.game, sizes)
        self.episode_lengths = self._shards.num_steps
        """Steps of each episode, ``int64``."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._shards)

    @property
    def total_steps(self) -> int:
        """Number of steps over all episodes."""
        return int(self.episode_lengths.sum())

    def rewards(self, index: int) -> np.ndarray:
        """Return the rewards of one episode, ``float32`` of shape (t,).

        Raises:
            ValueError: If its shard is damaged.
        """
        return self._shards[index].steps["rewards"]

    def episode(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            ValueError: If its shard is damaged.
        """
        shard = self._shards[index]
        frames = np.empty((shard.num_steps + 1, *shard.frame_shape), np.uint8)
        shard.read_frames(0, len(frames), frames)
        steps = {name: values.astype(STEP_TYPES[name]) for name, values in shard.steps.items()}
        caption = self.caption(index)
        return Episode(frames, **steps, seed=shard.seed, policy=shard.policy, caption=caption)

    def caption(self, index: int) -> str | None:
        """Return what an episode shows, in words; None if it has no caption.

        The file ``captions.json`` wins over the shards.

        Raises:
            ValueError: If there is no such episode, or its shard is damaged.
        """
        self._choose([index])
        caption = self._captions.get(index)
        return self._shards[index].caption if caption is None else caption

    def fingerprint(self, index: int) -> str:
        """Return the episode's content hash, 16 hexadecimal digits.

        It covers seed, actions, rewards, ends and first frame.
        """
        return format(int(self._shards.entry(index)["fingerprint"]), "016x")

    def recorded_rewards(self) -> RecordedRewards:
        """Return the figures of all rewards."""
        parts = map(self._shards.entry, range(len(self)))
        names = ("smallest", "lowest_score", "highest_score")
        return RecordedRewards.merged(
            RecordedRewards(*(float(part[name]) for name in names)) for part in parts
        )

    def windows(self, episodes: Sequence[int], starts: Sequence[int], length: int) -> Windows:
        """Read windows at given positions.

        Args:
            episodes: Index of the episode of each window.
            starts: First frame of each window; negative for padding on the left.
            length: Frames of each window, 1 or more.

        Raises:
            ValueError: If a window lies outside its episode, an episode does not exist, the
                windows do not fit into memory, or a shard is damaged.
        """
        if len(episodes) != len(starts):
            raise ValueError(
                f"windows need one start for each episode, got {len(episodes)} episodes, "
                f"{len(starts)} starts"
            )
        self._choose(episodes)
        self._shards.fetch(set(episodes))
        self._check_room(len(starts), length)
        shape = (*self.game.frame_size, self.game.channels)
        layout = Windows.layout(len(starts), length, shape)
        # All frames are written below, so their memory need not be cleared, which takes time.
        arrays = {
            name: np.empty(size, kind) if name == "frames" else np.zeros(size, kind)
            for name, (kind, size) in layout.items()
        }
        result = Windows(**arrays)
        result.actions[:] = self.game.noop_action
        for row, (index, start) in enumerate(zip(episodes, starts, strict=True)):
            shard = self._shards[index]
            num_frames = shard.num_steps + 1
            first, last = max(start, 0), min(start + length, num_frames)
            if first >= last:
                raise ValueError(
                    f"a window of {length} frames from {start} lies outside of episode {index}, "
                    f"which has frames 0 … {num_frames - 1}"
                )
            # The part inside the episode is read; the rest repeats its first or last frame.
            here = slice(first - start, last - start)
            shard.read_frames(first, last, result.frames[row, here])
            result.frames[row, : here.start] = result.frames[row, here.start]
            result.frames[row, here.stop :] = result.frames[row, here.stop - 1]
            result.valid[row, here] = True
            from_steps, to_steps = slice(first, last - 1), slice(here.start, here.stop - 1)
            for name, values in shard.steps.items():
                arrays[name][row, to_steps] = values[from_steps]
        return result

    def _choose(self, episodes: Sequence[int] | None) -> np.ndarray:
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
            num_windows * length * math.prod((*self.game.frame_size, self.game.channels)),
            f"reading {num_windows:,} windows of {length:,} frames",
            "read fewer or shorter ones",
        )

    def sample_windows(
        self,
        rng: np.random.Generator,
        batch_size: int,
        length: int,
        episodes: Sequence[int] | None = None,
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
                fit into memory, or a shard is damaged.
        """
        chosen = self._choose(episodes)
        if len(chosen) == 0:
            raise ValueError("there is no episode to draw windows from")
        check_value("batch_size", batch_size, Count)
        check_value("left_padding", left_padding, Number)
        check_value("right_padding", right_padding, Number)
        self._check_room(batch_size, length)
        # Number all possible starts through, draw numbers, and map them back to episodes.
        last_starts = np.maximum(self.episode_lengths[chosen] + 1 - length + right_padding, 0)
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
