"""What damage and strangers do to files, each change drawn from a seed: it can be had again."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10.0  # a hundred times what one takes, on a machine that does other things too

ODD_VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    10**18,
    10**400,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    "\x1b[2J",
    "../../victim",
    "os:getcwd",
    "ä" * 1000,
    [],
    {},
    [[]],
    [None] * 3,
    {"": None},
)


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Turn one bit over, or a few."""
    values = np.frombuffer(data, np.uint8).copy()
    if len(values):
        places = rng.integers(len(values), size=int(rng.choice([1, 1, 1, 4, 64])))
        np.bitwise_xor.at(
            values, places, np.uint8(1) << rng.integers(8, size=len(places), dtype=np.uint8)
        )
    return values.tobytes()


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Lose the end, or a stretch in the middle."""
    first, last = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:first] if rng.random() < 0.5 else data[:first] + data[last:]


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    """Write zeros, ones or noise over a stretch, as a disk does."""
    first = int(rng.integers(len(data) + 1))
    size = min(int(rng.choice([1, 8, 512])), len(data) - first)
    noise = rng.integers(256, size=size, dtype=np.uint8).tobytes()
    return (
        data[:first] + (bytes(size), b"\xff" * size, noise)[rng.integers(3)] + data[first + size :]
    )


def grow(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat a stretch."""
    first, last = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:last] + data[first:]


BYTE_MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip_bits,
    flip_bits,
    cut,
    overwrite,
    grow,
)


def damage_bytes(path: Path, rng: np.random.Generator) -> str:
    """Change the bytes of a file; return in a word how."""
    mutate = BYTE_MUTATIONS[rng.integers(len(BYTE_MUTATIONS))]
    path.write_bytes(mutate(path.read_bytes(), rng))
    return mutate.__name__


def mutate_json(value: Any, rng: np.random.Generator) -> Any:
    """Return JSON in which one entry, however deep, is changed, is missing or has another name."""
    value = copy.deepcopy(value)
    places = [(value, key) for key in _keys(value)]
    for holder, key in places:  # the list grows on the way
        places += [(holder[key], inner) for inner in _keys(holder[key])]
    if not places or rng.random() < 0.05:
        return _odd(rng)
    # Deep lists, such as bounds of spaces, have most of the entries: all depths are as likely.
    holder, key = places[int(len(places) ** rng.random()) - 1]
    kind = rng.random()
    if kind < 0.7:
        holder[key] = _odd(rng)
    elif kind < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[str(key) + "s"] = holder.pop(key)
    else:
        holder.append(holder[key])
    return value


def damage_json(path: Path, rng: np.random.Generator) -> str:
    """Change one entry of a JSON file, its nesting or its bytes; return in a word how."""
    if rng.random() < 0.1:
        depth = int(rng.choice([50, 100_000]))
        path.write_text("[" * depth + "]" * depth)
        return "nesting"
    if rng.random() < 0.2:
        return damage_bytes(path, rng)
    path.write_text(json.dumps(mutate_json(json.loads(path.read_text("utf-8")), rng)))
    return "mutate_json"


def replace_by_something_else(path: Path, elsewhere: Path, rng: np.random.Generator) -> str:
    """Put a link, a folder, a pipe or nothing in the place of a file; return in a word what.

    Args:
        path: The file.
        elsewhere: A file outside of the folder, where a link may lead.
        rng: Draws what.
    """
    kinds = ["link", "link to nothing", "folder", "empty", "nothing"]
    kind = str(rng.choice(kinds + (["pipe"] if hasattr(os, "mkfifo") else [])))
    if kind == "link":
        elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    if kind.startswith("link"):
        path.symlink_to(elsewhere if kind == "link" else elsewhere.with_name("none"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    return kind


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _odd(rng: np.random.Generator) -> Any:
    return copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])


@contextmanager
def damaged(
    whole: Path, tmp_path: Path, seed: int, ways: Sequence[Callable[..., str]]
) -> Iterator[tuple[Path, str]]:
    """Give a copy of a folder that one of the ways has damaged, and how.

    What is done with it must not take long, nor write outside of the copy.
    """
    rng = np.random.default_rng(seed)
    path = tmp_path / whole.name
    shutil.copytree(whole, path)
    way = ways[rng.integers(len(ways))]
    how = f"{way.__name__}: {way(path, rng)}"
    elsewhere = tmp_path / "elsewhere"
    before = elsewhere.read_bytes() if elsewhere.exists() else None
    begun = time.monotonic()
    yield path, how
    assert time.monotonic() - begun < SECONDS, how
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "elsewhere"}, how
    assert before is None or elsewhere.read_bytes() == before, how


def assert_a_sentence(error: Exception, path: Path, how: str) -> None:
    """Claim that an error is one line that names the folder or what is in it."""
    assert "\n" not in str(error), how
    assert str(path) in str(error), how
