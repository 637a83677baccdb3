"""A cache of downloaded files, which the processes of a machine share.

Each file is downloaded once, aside, and renamed when it is complete. The files used longest ago are
deleted first when the cache is full. fsspec has caches of its own, ``simplecache::`` and
``filecache::``. They download under the final name, so that another process reads half a file, and
they are not bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from worldsim.system.files import FULL_DISK, written_aside
from worldsim.system.options import Positive, check_value

FOLDER, GIGABYTES = "WORLDSIM_CACHE", "WORLDSIM_CACHE_GB"
SHARE_OF_DISK = 0.5  # of what is free, if no bound is given
BETWEEN_LOOKS = 16  # a process looks at the whole cache once in this part of its bound


def cache_folder() -> Path:
    """Return ``WORLDSIM_CACHE``, or the system's folder for the user's caches."""
    if chosen := os.environ.get(FOLDER):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "worldsim"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/worldsim").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "worldsim"


class Cache:
    """A folder of downloaded files. It can be pickled, and used by several threads.

    Args:
        folder: The folder; `cache_folder` if not given.
        max_bytes: Bytes that it may hold; those of ``WORLDSIM_CACHE_GB`` if not given, or half of
            the free disk. Each process may exceed it by a sixteenth.

    Raises:
        ValueError: If ``WORLDSIM_CACHE_GB`` is not a number above 0.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder()
        self.max_bytes = _bound_of_environment() if max_bytes is None else max_bytes
        self._room = 0  # bytes to download before the next look at the whole cache
        self._looking = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the lock."""
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def path(self, key: str) -> Path:
        """Return where the file of a key is, whether it was downloaded or not."""
        # Keys have names from elsewhere in them: a digest can lead to no other folder.
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / "files" / digest[:2] / digest

    @contextmanager
    def file(self, key: str, size: int, download: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the path of a file, which no process deletes inside the block.

        Args:
            key: What the file is, its version included.
            size: Its bytes.
            download: Writes it to a path, if it is not there yet.

        Raises:
            OSError: If the download fails or has another size, or the disk is full.
            ValueError: If the file is larger than the cache may be.
        """
        path = self.path(key)
        if not path.exists():
            self._make_room(size)
        with self._locked(path):
            try:
                _mark_used(path)
            except FileNotFoundError:
                self._download(path, size, download)
            yield path

    def open(self, key: str, size: int, download: Callable[[Path], None]) -> io.FileIO:
        """Open a file without a buffer; arguments and errors as for `file`."""
        path = self.path(key)
        try:
            _mark_used(path)
            return io.FileIO(path)
        except FileNotFoundError:  # not there yet, or deleted by another process
            with self.file(key, size, download):
                return io.FileIO(path)

    def _download(self, path: Path, size: int, download: Callable[[Path], None]) -> None:
        try:
            with written_aside(path) as aside:
                download(aside)
                if (got := aside.stat().st_size) != size:
                    raise OSError(
                        f"the download has {got:,} bytes instead of {size:,}: the file changes, "
                        "or the connection broke; run the same command again"
                    )
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise OSError(
                f"the disk of the cache {self.folder} is full: make room, set {GIGABYTES} lower, "
                f"or {FOLDER} to a folder with more room"
            ) from error

    def _make_room(self, size: int) -> None:
        """Delete the files used longest ago, until another of this size fits."""
        with self._looking:
            if size > self._room:
                files = sorted(self._files())
                total = sum(num_bytes for _, num_bytes, _ in files)
                bound = self.max_bytes or self._share_of_disk(total)
                if size > bound:
                    raise ValueError(
                        f"a file of {size:,} bytes does not fit into the cache {self.folder}, "
                        f"which may hold {bound:,}: set {GIGABYTES} higher, or {FOLDER} to a "
                        "folder with more room"
                    )
                for used, num_bytes, path in files:
                    if total + size <= bound:
                        break
                    total -= num_bytes * self._delete(path, used)
                self._room = max(size, bound // BETWEEN_LOOKS)
            self._room -= size

    def _share_of_disk(self, total: int) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return int(SHARE_OF_DISK * (total + shutil.disk_usage(self.folder).free))

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each file was last used, its bytes and its path; unfinished ones too."""
        for path in (self.folder / "files").glob("*/*"):
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process deletes too
                continue
            yield status.st_mtime_ns, status.st_size, path

    def _delete(self, path: Path, used: int) -> bool:
        """Delete a file, unless a process has used it since or reads it now."""
        try:
            with self._locked(path, blocking=False):
                if path.lstat().st_mtime_ns > used:
                    return False
                path.unlink()
        except FileNotFoundError:
            return True
        except (filelock.Timeout, PermissionError):  # Windows deletes no open file
            return False
        return True

    @contextmanager
    def _locked(self, path: Path, blocking: bool = True) -> Iterator[None]:
        """Hold the lock of a file, which it shares with a 256th of all."""
        lock = self.folder / "locks" / path.parent.name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, blocking=blocking):
            yield


def _mark_used(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # of a file that another user has downloaded
        os.utime(path)


def _bound_of_environment() -> int | None:
    text = os.environ.get(GIGABYTES)
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        raise ValueError(f"{GIGABYTES} must be a number of gigabytes, got {text!r}") from None
    check_value(GIGABYTES, gigabytes, Positive)
    return int(gigabytes * 1e9)
