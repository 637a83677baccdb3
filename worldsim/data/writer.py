"""Write recordings: a shard per episode, and links and metadata for Minari."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import numpy as np

from worldsim.data.captions import Caption
from worldsim.data.episode import Episode, check_steps
from worldsim.data.folder import INDEX, METADATA, SHARDS, LocalFolder, data_folder, minari_id
from worldsim.data.index import ENTRY, encode_index, entry_of, read_index
from worldsim.data.metadata import RecordingMetadata, read_metadata
from worldsim.data.shard import (
    Shard,
    encode_links,
    encode_shard,
    list_shards,
    shard_name,
    write_whole,
)
from worldsim.game.config import GameConfig
from worldsim.system.files import locked
from worldsim.system.location import check_is_here
from worldsim.system.options import Range, check_value

EpisodeNumber = Annotated[int, Range(0, 99_999_999)]  # the digits of a shard's name


class RecordingWriter:
    """Adds episodes to a new or existing recording; as a context it locks out other commands.

    Several processes may write into one recording if they use different episode numbers. One of
    them calls `update_index` (or `close`) at the end.

    Args:
        path: Folder of the recording.
        game: The recorded game.
        settings: JSON values that a continued recording must share, such as seed and policy. One
            that is None is not stored, and the continued recording must lack it.

    Raises:
        OSError: If an existing recording may not be read.
        ValueError: If an existing recording is damaged or has another game or other settings, or
            the path is a URL.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        game: GameConfig,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_is_here("path", path)
        self.path = Path(path)
        self.game = game
        self._data = data_folder(self.path)
        self._shards = self._data / SHARDS
        self._metadata = RecordingMetadata(game, json.loads(json.dumps(dict(settings or {}))))
        self._known: dict[int, np.ndarray] = {}  # number -> entry of the index
        self._lock = ExitStack()
        if os.path.lexists(self._data / METADATA):
            begun = read_metadata(self.path)
            self._check_same(begun)
            self._metadata.settings = {**begun.settings, **self._metadata.settings}
            self._metadata.steps_asked = begun.steps_asked
            self._metadata.env_spec = begun.env_spec
        given = self._metadata.settings.items()
        self._metadata.settings = {name: value for name, value in given if value is not None}
        self._shards.mkdir(parents=True, exist_ok=True)

    @property
    def steps_asked(self) -> int:
        """The largest number of steps ever requested for this recording; kept in the metadata."""
        return self._metadata.steps_asked

    def ask_for(self, steps: int) -> None:
        """Request a number of steps; fewer than before change nothing."""
        self._metadata.steps_asked = max(self._metadata.steps_asked, steps)

    def __enter__(self) -> RecordingWriter:
        """Lock the recording against other commands.

        Raises:
            ValueError: If another one is writing to it.
        """
        busy = f"{self.path} is being recorded by another process: wait for it"
        self._lock.enter_context(locked(self._data / "lock", busy))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, so that episodes written before an error are readable too."""
        with self._lock:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for a process that writes episodes, without the lock."""
        return {**self.__dict__, "_lock": ExitStack()}

    def write_episode(self, episode: Episode, number: int | None = None) -> int:
        """Write one episode as a shard, completely or not at all.

        Args:
            episode: Frames of the game's size and channels.
            number: Its number in the recording; None takes the one after the last.

        Returns:
            The episode's number.

        Raises:
            ValueError: If frames, actions, rewards or ends do not fit the game, the caption is not
                a line of text, or the number is out of range.
            OSError: If it cannot be written, as when the disk is full.
        """
        check_value("number", number, EpisodeNumber | None)
        if number is None:
            number = max(list_shards(LocalFolder(self._data)), default=-1) + 1
        self.write_shard(encode_episode(episode, number, self.game), number)
        return number

    def write_shard(self, data: bytes, number: int) -> None:
        """Write an episode that `encode_episode` has encoded, completely or not at all.

        Raises:
            OSError: If it cannot be written, as when the disk is full.
        """
        write_whole(self.shard_path(number), data)
        self._known.pop(number, None)

    def shard_path(self, number: int) -> Path:
        """Return the path of the episode with this number, whether it exists or not."""
        return self._shards / shard_name(number)

    def episode_steps(self) -> dict[int, int]:
        """Return the steps of each finished episode by its number, in order.

        Raises:
            ValueError: If a shard that is not in the index is damaged; the error names it.
        """
        folder = LocalFolder(self._data)
        shards = list_shards(folder)
        if not self._known:
            self._known = self._read_index(shards)
        for number, num_bytes in shards.items():
            if number not in self._known:
                try:
                    self._known[number] = entry_of(self._shard(number), number, num_bytes)
                except ValueError:
                    if os.path.lexists(self.shard_path(number)):
                        raise
                    continue  # deleted meanwhile
        self._known = {number: self._known[number] for number in shards if number in self._known}
        return {number: int(entry["num_steps"]) for number, entry in self._known.items()}

    def episode_seed(self, number: int) -> int | None:
        """Return the seed of a finished episode, or None.

        Raises:
            ValueError: If its shard is damaged; the error names it.
        """
        return self._shard(number).seed

    def delete_episode(self, number: int) -> None:
        """Delete one episode; the next `update_index` updates the links."""
        self.shard_path(number).unlink(missing_ok=True)
        self._known.pop(number, None)

    def delete_leftovers(self) -> None:
        """Delete unfinished files of a killed process."""
        for folder in (self._data, self._shards):
            for leftover in [*folder.glob(".*.part"), *folder.glob(".*.tmp")]:
                leftover.unlink(missing_ok=True)

    def update_index(self) -> None:
        """Write the links and the metadata for Minari, and the index, from the existing shards."""
        steps = self.episode_steps()
        paths = [self.shard_path(number) for number in steps]
        num_bytes = sum(int(entry["num_bytes"]) for entry in self._known.values())
        metadata = self._metadata.encode(minari_id(self.path), [*steps.values()], num_bytes)
        entries = np.array([*self._known.values()], ENTRY)
        write_whole(self._data / INDEX, encode_index(entries))
        # The links first: metadata may count fewer episodes than are linked, but not more.
        write_whole(self._data / "main_data.hdf5", encode_links(paths))
        write_whole(self._data / METADATA, metadata)

    def close(self) -> None:
        """Write links and metadata; the writer may be used again."""
        self.update_index()

    def _shard(self, number: int) -> Shard:
        return Shard(LocalFolder(self._data), f"{SHARDS}/{shard_name(number)}", self.game)

    def _read_index(self, shards: Mapping[int, int]) -> dict[int, np.ndarray]:
        """The entries of the index by number; none of a shard that was written after it."""
        entries, are_known = read_index(LocalFolder(self._data), shards)
        known = {int(entry["number"]): entry for entry in entries[are_known]}
        written = _modified(self._data / INDEX)
        return {n: known[n] for n in known if _modified(self.shard_path(n)) <= written}

    def _check_same(self, begun: RecordingMetadata) -> None:
        games = begun.game.to_dict(), self.game.to_dict()
        pairs = {
            **{name: (games[0].get(name), new) for name, new in games[1].items()},
            **{n: (begun.settings.get(n), new) for n, new in self._metadata.settings.items()},
        }
        for name, (before, now) in pairs.items():
            if json.loads(json.dumps(before)) != json.loads(json.dumps(now)):
                raise ValueError(
                    f"{self.path} was recorded with {name} {before!r}, not {now!r}: "
                    "use its settings, or another folder"
                )


def encode_episode(episode: Episode, number: int, game: GameConfig) -> bytes:
    """Encode an episode as a shard, on any machine.

    Args:
        episode: Frames of the game's size and channels.
        number: Its number in the recording.
        game: The recorded game.

    Raises:
        ValueError: If frames, actions, rewards or ends do not fit the game, or the caption is not a
            line of text.
    """
    shape = (*game.frame_size, game.channels)
    if episode.frames.dtype != np.uint8 or episode.frames.shape[1:] != shape:
        raise ValueError(
            f"frames must be uint8 of shape (t+1, {shape[0]}, {shape[1]}, {shape[2]}), "
            f"got {episode.frames.dtype} {episode.frames.shape}"
        )
    check_steps(episode.steps, game.num_actions)
    check_value("caption", episode.caption, Caption | None)
    return encode_shard(episode, number)


def _modified(path: Path) -> int:
    """When a file was written last, in ns; 0 if it does not exist."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0
