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

import os
from collections.abc import Iterable, Mapping

import numpy as np

from worldsim.data.captions import read_captions
from worldsim.data.episode import STEP_TYPES, Episode
from worldsim.data.episodes import Episodes
from worldsim.data.folder import open_folder
from worldsim.data.metadata import metadata_in
from worldsim.data.open_shards import OpenShards
from worldsim.data.rewards import RecordedRewards
from worldsim.data.shard import list_shards
from worldsim.system.location import as_location


class Recording(Episodes):
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
        steps["actions"] = self._joint(steps["actions"])
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

    def content_id(self, index: int) -> str:
        """Return a name for what an episode holds, its frames included, in hexadecimal digits.

        Those of older shards, which have no checksums, are told apart by their first frame only.
        """
        return f"{self.fingerprint(index)}{int(self._shards.entry(index)['checksum']):08x}"

    def recorded_rewards(self) -> RecordedRewards:
        """Return the figures of all rewards."""
        parts = map(self._shards.entry, range(len(self)))
        names = ("smallest", "lowest_score", "highest_score")
        return RecordedRewards.merged(
            RecordedRewards(*(float(part[name]) for name in names)) for part in parts
        )

    def _read(self, index: int, first: int, last: int, out: np.ndarray) -> None:
        self._shards[index].read_frames(first, last, out)

    def _steps(self, index: int) -> Mapping[str, np.ndarray]:
        return self._shards[index].steps

    def _fetch(self, episodes: Iterable[int]) -> None:
        self._shards.fetch(episodes)
