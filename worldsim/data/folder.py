"""The folder of a recording's files, on this machine or where fsspec reads.

Minari treats every folder with a folder ``data`` in it as a dataset, and needs a version in its
name to list any. So a recording in ``pong-v0`` has its files in ``pong-v0/data``, and one in
``pong`` in ``pong/recording-v0/data``. Names that Minari cannot parse get a hidden folder. Older
recordings with ``pong/data`` keep it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from worldsim.system.files import naming_damage
from worldsim.system.location import Location

METADATA, INDEX, SHARDS = "metadata.json", "index.hdf5", "shards"
CAPTIONS = "captions.json"

_VERSIONED = re.compile(r"[-\w]+-v\d+")
_NAMED = re.compile(r"[-\w]{2,}")
_PLACES = ("data", "recording-v0/data", ".recording-v0/data")


class Folder(Protocol):
    """The files of a recording. Names of files are relative, such as ``shards/episode_….hdf5``."""

    def name(self, file: str) -> str:
        """Return what errors call a file: its path or URL."""

    def remedy(self, file: str, remedy: str) -> str:
        """Return what to do about a damaged file, given what to do about a local one."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the bytes of the files in a folder, by name; links and pipes may be among them.

        Raises:
            OSError: If it cannot be read.
        """

    def file(self, file: str) -> AbstractContextManager[Path]:
        """Give the path of a file on this machine, for the length of a block.

        Raises:
            OSError: If it cannot be read.
        """

    def open(self, file: str) -> io.FileIO:
        """Open a file without a buffer.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is gone.
        """

    def fetch(self, files: Iterable[str]) -> None:
        """Bring files to this machine that are read next, several at once if that is faster."""


class LocalFolder:
    """A `Folder` on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, file: str) -> str:
        """Return a file's path."""
        return str(self.path / file)

    def remedy(self, file: str, remedy: str) -> str:
        """Return the given remedy."""
        return remedy

    def sizes(self, folder: str = "") -> dict[str, int]:
        """List a folder; links and pipes are among the files."""
        try:
            with os.scandir(self.path / folder) as entries:
                return {e.name: e.stat(follow_symlinks=False).st_size for e in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    @contextmanager
    def file(self, file: str) -> Iterator[Path]:
        """Give a file's path."""
        yield self.path / file

    def open(self, file: str) -> io.FileIO:
        """Open a file."""
        name = f"{self.path}/{file}"  # a new path, and Path.open, would take as long as reading
        try:
            return io.FileIO(name)
        except OSError:
            with naming_damage(name, "restore it, or open the recording again"):
                raise

    def fetch(self, files: Iterable[str]) -> None:
        """Do nothing: they are here."""


def data_folder(path: Path) -> Path:
    """Return the folder of a recording's files, whether it exists or not.

    Raises:
        ValueError: If it is a link or reached through one, which may lead anywhere.
    """
    name = path.resolve().name
    new = _PLACES[0 if _VERSIONED.fullmatch(name) else 1 if _NAMED.fullmatch(name) else 2]
    data = path / next((each for each in _PLACES if os.path.lexists(path / each)), new)
    for folder in (data.parent, data, data / SHARDS):
        if folder != path and folder.is_symlink():
            raise ValueError(f"{folder} is a link, which is not followed: copy the folder")
    return data


def minari_id(path: Path) -> str:
    """Return Minari's name of a recording if ``MINARI_DATASETS_PATH`` is the folder around it."""
    name = path.resolve().name
    return name if data_folder(path).parent == path else f"{name}/recording-v0"


def open_folder(where: Location) -> Folder:
    """Return the folder of a recording's files, whether it exists or not.

    Raises:
        OSError: If a remote one cannot be reached.
        ValueError: If it is reached through a link, or its protocol is unknown or not installed.
    """
    if isinstance(where, Path):
        return LocalFolder(data_folder(where))
    from worldsim.data.remote_folder import RemoteFolder  # fsspec takes a while

    return RemoteFolder(where, _PLACES)
