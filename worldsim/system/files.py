"""Files: written whole or not at all, read only where they are regular, locked by one process.

Folders of worlds and recordings come from strangers too. What is read from them is a regular file:
a link may point out of the folder, and opening a pipe waits for ever.
"""

from __future__ import annotations

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

MAX_TEXT_BYTES = 16 * 2**20  # of a JSON file or a card: far above any real one


@contextmanager
def written_aside(path: str | PathLike[str]) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it becomes ``path`` when all went well."""
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
    """Write figures; one that there is none of (nan), which JSON cannot say, is null."""
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


def check_checksum(path: str | PathLike[str], wanted: Any) -> None:
    """Refuse a file whose `checksum` is another than the one that was written down for it."""
    if checksum(path) != wanted:
        raise ValueError("its bytes are not those that were written")


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if there is one; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_regular(path: str | PathLike[str]) -> Path:
    """Give a path back if it is a regular file and no link.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is a link, a folder, a pipe, a device or a socket.
    """
    path = Path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}") from None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
        raise ValueError(f"{path} is {kind}, and only regular files are read: copy the file there")
    return path


def read_text(path: str | PathLike[str], max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file in UTF-8.

    Raises:
        OSError: If there is none, or it may not be read.
        ValueError: If it is no regular file, larger than ``max_bytes``, or not UTF-8.
    """
    path = check_regular(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, and at most {max_bytes:,} are read")
    return path.read_text(encoding="utf-8")


def read_object(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError: If there is none, or it may not be read.
        ValueError: As `read_text`, or if it holds something else.
    """
    text = read_text(path)
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(f"{os.fspath(path)} is nested too deeply to be read") from None
    if not isinstance(values, dict):
        raise ValueError(f"it must hold a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def naming_damage(what: str | PathLike[str], remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file makes a library say into one sentence.

    Args:
        what: What is read, such as a path or "the world in runs/pong".
        remedy: What to do about it.

    Raises:
        PermissionError: In one sentence, where the file may not be read: it is not damaged.
        ValueError: In one sentence, for all else.
    """
    try:
        yield
    except PermissionError as error:
        raise _unreadable(error.filename or what) from error
    except _DAMAGE as error:
        raise ValueError(f"{os.fspath(what)} is damaged ({one_line(error)}): {remedy}") from error


@contextmanager
def reading(path: str | PathLike[str], remedy: str) -> Iterator[Path]:
    """Give a file to read; whatever fails in the block is an error that names it.

    Args:
        path: A regular file.
        remedy: What to do where it is missing or damaged.

    Raises:
        PermissionError: In one sentence, if it may not be read.
        ValueError: In one sentence, for all else.
    """
    try:
        path = check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no {os.fspath(path)}: {remedy}") from None
    except PermissionError as error:  # of the folder that it is in
        raise _unreadable(path) from error
    with naming_damage(path, remedy):
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
"""What h5py, json, numpy, safetensors, torch and zlib raise for damaged files."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()).rstrip(".") if lines else type(error).__name__


def printable(text: str) -> str:
    r"""Text that does nothing to a terminal: control characters become visible escapes.

    Example:
        >>> printable("pong\x1b[2J")
        'pong\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file for this process; the system lets go of it when the process ends.

    Args:
        path: The lock file, made where it is missing and never written to.
        busy: What to say when another process holds it.

    Raises:
        ValueError: ``busy``, or that the lock is no regular file.
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
