"""Files: write completely or not at all, read only regular files, lock for one process.

Worlds and recordings may come from strangers. So only regular files are read: a link may point out
of the folder, and opening a pipe may block.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_TEXT_BYTES = 16 * 2**20  # of a JSON file or a card: far above any real one


@contextmanager
def written_aside(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; it is renamed to ``path`` on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)  # a link there would be written through
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON; nan and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_without_nan(values), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checksum(path: str | PathLike[str]) -> str:
    """The digest of a file's bytes, such as ``"sha256:0f34…"``."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def check_checksum(path: str | PathLike[str], expected: Any) -> None:
    """Raise ValueError if a file's `checksum` is not the expected one."""
    if checksum(path) != expected:
        raise ValueError("its checksum differs")


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if it exists; the target of a link stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_regular(path: str | PathLike[str]) -> Path:
    """Return the path of a regular file that is not a link.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is a link, a folder, a pipe, a device or a socket.
    """
    path = Path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}") from None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise ValueError(f"{path} is {kind}, and only regular files are read: copy the file there")
    return path


def read_text(path: str | PathLike[str], max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file in UTF-8.

    Raises:
        OSError: If it does not exist or may not be read.
        ValueError: If it is not a regular file, larger than ``max_bytes``, or not UTF-8.
    """
    path = check_regular(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, and at most {max_bytes:,} are read")
    return path.read_text(encoding="utf-8")


def read_json(path: str | PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If it does not exist or may not be read.
        ValueError: As `read_text`, or if it holds something else.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{os.fspath(path)} is nested too deeply to be read") from None


def read_object(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object; errors as for `read_json`."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"it must hold a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def naming_damage(subject: str | PathLike[str], remedy: str) -> Iterator[None]:
    """Turn a library's error about a damaged file into one sentence.

    Args:
        subject: What is read, such as a path or "the world in runs/pong".
        remedy: What to do, for the error.

    Raises:
        PermissionError: If the file may not be read; it is not damaged then.
        ValueError: For all other errors.
    """
    try:
        yield
    except PermissionError as error:
        raise _unreadable(error.filename or subject) from error
    except _DAMAGE as error:
        name = os.fspath(subject)
        raise ValueError(f"{name} is damaged ({one_line(error)}): {remedy}") from error


@contextmanager
def reading(
    path: str | PathLike[str], remedy: str, name: str | PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a file to read; every error in the block names it, as by `naming_damage`.

    Args:
        path: A regular file.
        remedy: What to do if it is missing or damaged, for the error.
        name: What the errors in the block call it; its path if not given.

    Raises:
        PermissionError: If it may not be read.
        ValueError: For all other errors.
    """
    try:
        path = check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no {os.fspath(path)}: {remedy}") from None
    except PermissionError as error:  # of its folder
        raise _unreadable(path) from error
    with naming_damage(name or path, remedy):
        yield path


def _unreadable(path: str | PathLike[str]) -> PermissionError:
    return PermissionError(
        f"{os.fspath(path)} may not be read by this user: "
        "change its permissions, or ask its owner to"
    )


_DAMAGE = (
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    SafetensorError,
    zlib.error,
)
"""Errors of h5py, json, numpy, safetensors, torch and zlib for damaged files."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()).rstrip(".") if lines else type(error).__name__


def printable(text: str) -> str:
    r"""Replace control characters by visible escapes, so that a terminal ignores them.

    Example:
        >>> printable("pong\x1b[2J")
        'pong\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends.

    Args:
        path: The lock file, created if missing and never written to.
        busy: The error if another process holds it.

    Raises:
        ValueError: ``busy``, or if the lock is not a regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        check_regular(path)
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(busy) from None
    try:
        yield
    finally:
        lock.release()
