"""A remote filesystem for tests: a folder of this machine behind fsspec, which counts downloads.

Importing it registers the protocol ``bucket``, in other processes as well.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from worldsim.data.recording import Recording


class Bucket(LocalFileSystem):
    """Files under a folder of this machine; their last use is no part of what it lists."""

    protocol = "bucket"
    downloads: ClassVar[Counter[str]] = Counter()
    seconds: ClassVar[float] = 0.0
    broken_at: ClassVar[int | None] = None
    _lock: ClassVar[Any] = threading.Lock()

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        with self._lock:
            self.downloads[Path(rpath).name] += 1
        time.sleep(self.seconds)
        if self.broken_at is not None:
            data = Path(self._strip_protocol(rpath)).read_bytes()
            Path(lpath).write_bytes(data[: self.broken_at])
            raise ConnectionResetError("the connection was reset")
        super().get_file(rpath, lpath, **kwargs)


fsspec.register_implementation("bucket", Bucket, clobber=True)


def read_all(url: str, seconds: float = 0.0) -> tuple[int, list[str]]:
    """Read every episode, as another process does; return its id and what it downloaded."""
    Bucket.downloads.clear()
    Bucket.seconds = seconds
    recording = Recording(url)
    for index in range(len(recording)):
        recording.episode(index)
    return os.getpid(), sorted(Bucket.downloads.elements())
