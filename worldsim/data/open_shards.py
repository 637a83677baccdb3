"""The shards of a recording, each opened when it is first read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from worldsim.data.folder import INDEX, SHARDS, Folder
from worldsim.data.index import entry_of, read_index
from worldsim.data.shard import Shard, shard_name
from worldsim.game.config import GameConfig

MAX_BYTES = 2**29  # of open shards: 70 million steps, or 200,000 episodes
NUM_AT_ONCE = 64  # shards that are fetched together where there is no index


class OpenShards:
    """What is known of all shards of a recording, and those opened last.

    It can be used by several threads, and pickled; then no shard is open.

    Args:
        folder: The folder of the recording's files.
        game: The game of its episodes.
        sizes: The bytes of each shard by its number, in order.

    Raises:
        OSError: If a file may not be read; the error names it.
        ValueError: If a shard that is not in the index is damaged; the error names it.
    """

    def __init__(self, folder: Folder, game: GameConfig, sizes: Mapping[int, int]) -> None:
        self._folder = folder
        self._game = game
        self._entries, self._are_known = read_index(folder, sizes)
        self._begin()
        unknown = np.flatnonzero(~self._are_known).tolist()
        for first in range(0, len(unknown), NUM_AT_ONCE):
            some = unknown[first : first + NUM_AT_ONCE]
            self.fetch(some)
            for index in some:
                shard = self._open(index)
                self._entries["num_steps"][index] = shard.num_steps
                self._entries["checksum"][index] = shard.checksum
                self._keep(index, shard)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._shards: dict[int, Shard] = {}  # in the order in which they were opened
        self._num_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open shards."""
        names = ("_folder", "_game", "_entries", "_are_known")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Shard:
        """Return a shard, opened if need be.

        Raises:
            OSError: If it may not be read, or cannot be downloaded.
            ValueError: If it is damaged, or not the one of the index.
        """
        shard = self._shards.get(index)
        if shard is None:
            shard = self._open(index)
            self._check_is_known(index, shard)
            self._keep(index, shard)
        return shard

    @property
    def num_steps(self) -> np.ndarray:
        """Steps of each, ``int64``."""
        return self._entries["num_steps"].copy()

    def entry(self, index: int) -> np.ndarray:
        """Return what is known of a shard, of type `ENTRY`; it is opened if that is too little."""
        if not self._are_known[index]:
            entry = self._entries[index]
            self._entries[index] = entry_of(self[index], entry["number"], entry["num_bytes"])
            self._are_known[index] = True
        return self._entries[index]

    def fetch(self, indices: Iterable[int]) -> None:
        """Bring shards to this machine that are read next."""
        self._folder.fetch(map(self._file, indices))

    def _file(self, index: int) -> str:
        return f"{SHARDS}/{shard_name(int(self._entries['number'][index]))}"

    def _open(self, index: int) -> Shard:
        return Shard(self._folder, self._file(index), self._game)

    def _keep(self, index: int, shard: Shard) -> None:
        """Keep a shard open; those opened first are closed, as windows are drawn by chance."""
        with self._lock:
            if index not in self._shards:  # another thread may have opened it too
                self._num_bytes += shard.num_bytes
            self._shards[index] = shard
            while self._num_bytes > MAX_BYTES and len(self._shards) > 1:
                self._num_bytes -= self._shards.pop(next(iter(self._shards))).num_bytes

    def _check_is_known(self, index: int, shard: Shard) -> None:
        """Raise ValueError if a shard is not what was known of it."""
        entry, name = self._entries[index], self._folder.name(self._file(index))
        if self._are_known[index]:
            if entry_of(shard, entry["number"], entry["num_bytes"]) != entry:
                raise ValueError(
                    f"{name} is not the episode that the index tells of: delete "
                    f"{self._folder.name(INDEX)}, which the command that recorded it writes again"
                )
        elif (shard.num_steps, shard.checksum) != (entry["num_steps"], entry["checksum"]):
            raise ValueError(f"{name} has changed since the recording was opened: open it again")
