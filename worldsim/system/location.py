"""Locations: folders on this machine, and those that fsspec reads, such as ``s3://bucket/pong``.

Only recordings are read from afar. What a command writes, it writes on this machine.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

Location: TypeAlias = Path | str
"""A folder on this machine as a path, or one elsewhere as a URL."""

# A name of one letter is a drive of Windows. Chained ones, as zip://::s3://b/a.zip, are fsspec's.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(::[A-Za-z0-9+.-]+)*://")
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]")  # what a Path makes of a URL
_COPIES = {
    "s3": "aws s3 sync FOLDER {url}",
    "gs": "gcloud storage rsync -r FOLDER {url}",
    "hf": "hf upload USER/NAME FOLDER --repo-type dataset",
}


def as_location(where: str | os.PathLike[str]) -> Location:
    """Return a URL as text, and all else, ``file://`` too, as a path.

    Example:
        >>> as_location("s3://bucket/pong"), as_location("recordings/pong/").as_posix()
        ('s3://bucket/pong', 'recordings/pong')
    """
    scheme = _SCHEME.match(where) if isinstance(where, str) else None
    if scheme is None:
        return Path(where)
    if scheme[0] in ("file://", "local://"):
        from fsspec.implementations.local import LocalFileSystem

        return Path(LocalFileSystem._strip_protocol(where))
    return os.fspath(where)


def check_is_here(name: str, path: str | os.PathLike[str]) -> None:
    """Check that what is to be written is on this machine.

    Args:
        name: What it is called in the error, such as ``--out``.
        path: A path, or a URL, also one that was made a path.

    Raises:
        ValueError: If it is a URL; the error names a command that copies a folder there.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text) or _COLLAPSED.match(text)
    if scheme is None or Path(scheme[0]).exists():
        return
    url = f"{scheme[1]}://{text[scheme.end() :]}" if scheme.re is _COLLAPSED else text
    copy = _COPIES.get(scheme[1].lower(), "the tool of that service")
    raise ValueError(
        f"{name} must be a folder or file on this machine, got {url}: name a local one, and copy "
        f"it there when it is finished, as by {copy.format(url=url)}"
    )
