"""The folder of a recording that fsspec reads: files are downloaded whole, into the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec

from worldsim.data.folder import METADATA
from worldsim.system.cache import Cache
from worldsim.system.files import FULL_DISK, one_line

NUM_DOWNLOADS = 8  # at once


class RemoteFolder:
    """A `worldsim.data.folder.Folder` where fsspec reads. It can be pickled.

    Args:
        url: URL of the recording.
        places: Where its files may be in it; the first that has metadata is taken.

    Raises:
        OSError: If it cannot be reached.
        ValueError: If its protocol is unknown or the package for it is not installed.
    """

    def __init__(self, url: str, places: Sequence[str]) -> None:
        self.url = url.rstrip("/")
        self._cache = Cache()
        self._place = places[0]
        self._files: dict[str, tuple[int, int]] = {}  # name -> bytes, and digest of its version
        filesystem, _ = self._reach()
        with reaching(url):
            filesystem.invalidate_cache()  # fsspec keeps listings
        for place in places:
            self._place = place
            if METADATA in self.sizes():
                return
        self._place = places[0]

    def name(self, file: str) -> str:
        """Return a file's URL."""
        head, chain, tail = self.url.partition("::")
        return f"{head}/{self._place}/{file}{chain}{tail}"

    def remedy(self, file: str, remedy: str) -> str:
        """Return what to do about a damaged file."""
        copy = self._cache.path(self._key(file))
        return f"upload it again, or, if it is whole there, delete the copy {copy}"

    def sizes(self, folder: str = "") -> dict[str, int]:
        """List a folder."""
        filesystem, path = self._reach(folder)
        with reaching(self.name(folder)):
            try:
                entries = filesystem.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            # Only the last part of a name is used, and it never becomes a path on this machine.
            found = {
                entry["name"].rpartition("/")[2]: (_size(filesystem, entry), _version(entry))
                for entry in entries
                if entry["type"] == "file"
            }
        self._files |= {f"{folder}/{name}".lstrip("/"): about for name, about in found.items()}
        return {name: size for name, (size, _) in found.items()}

    @contextmanager
    def file(self, file: str) -> Iterator[Path]:
        """Give the path of a file's copy, which no process deletes inside the block."""
        with self._cache.file(*self._download(file)) as path:
            yield path

    def open(self, file: str) -> io.FileIO:
        """Open a file's copy."""
        return self._cache.open(*self._download(file))

    def fetch(self, files: Iterable[str]) -> None:
        """Download the files that are not here, several at once if fsspec can."""
        missing = [file for file in files if not self._cache.path(self._key(file)).exists()]
        if len(missing) < 2:
            return
        filesystem, _ = self._reach()
        if filesystem.async_impl:  # others may have one connection, which threads must not share
            with ThreadPoolExecutor(NUM_DOWNLOADS, "download") as threads:
                tasks = [self._download(file, filesystem) for file in missing]
                for opened in threads.map(lambda task: self._cache.open(*task), tasks):
                    opened.close()

    def _key(self, file: str) -> str:
        """What a copy is a copy of, the version included."""
        return "\n".join((self.url, self._place, file, *map(str, self._files[file])))

    def _download(
        self, file: str, filesystem: Any = None
    ) -> tuple[str, int, Callable[[Path], None]]:
        """What the cache asks for: the key of a file, its bytes, and how to download it."""

        def download(copy: Path) -> None:
            own, path = self._reach(file)
            with reaching(self.name(file)):
                (filesystem or own).get_file(path, str(copy))

        return self._key(file), self._files[file][0], download

    def _reach(self, file: str = "") -> tuple[Any, str]:
        """The filesystem of this process and thread, and the path of a file in it."""
        with reaching(self.url):
            filesystem, root = fsspec.core.url_to_fs(self.url)  # it keeps those that it has made
        parts = (root.rstrip("/"), self._place, file)
        return filesystem, "/".join(part for part in parts if part)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn the error of a filesystem into one sentence.

    Raises:
        OSError: If ``url`` cannot be read.
        ValueError: If its protocol is unknown or the package for it is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or getattr(error, "name", None)
        todo = f"pip install {package}" if package else one_line(error)
        raise ValueError(f"{url} needs a package that is not installed: {todo}") from error
    except ValueError as error:
        raise ValueError(f"{url} is no URL that fsspec reads: {one_line(error)}") from error
    except Exception as error:  # each filesystem has errors of its own
        if getattr(error, "errno", None) in FULL_DISK:
            raise
        raise OSError(
            f"{url} could not be read ({one_line(error)}): check the address, the connection and "
            "your credentials, and run the same command again"
        ) from error


def _size(filesystem: Any, entry: dict[str, Any]) -> int:
    size = entry["size"]
    if not isinstance(size, int):  # as where the list is a web page
        size = filesystem.size(entry["name"])
    if not isinstance(size, int):
        raise OSError(f"the size of {entry['name']} is not known")
    return size


def _version(entry: dict[str, Any]) -> int:
    """A digest of what a list tells about a file, such as its ETag and when it was written."""
    facts = sorted(
        (name, repr(value))
        for name, value in entry.items()
        if isinstance(value, (str, int, float, datetime)) and "access" not in name.lower()
    )
    return int.from_bytes(blake2b(repr(facts).encode(), digest_size=8).digest(), "big")
