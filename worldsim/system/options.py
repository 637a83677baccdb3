"""Types of options: each gives its range and its error message.

A command's settings are a dataclass whose fields have the types below. A field that is itself a
dataclass holds a group of options, such as ``--optim.lr``. `check_options` checks a dataclass,
`check_value` an argument of a function.

Each upper bound has its reason in a comment: beyond it a library fails or the value has no effect.
Devices are checked in `worldsim.system.devices`, since torch is not imported here.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from worldsim.system.location import Location, check_is_here

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number; ``above`` excludes ``low`` itself, ``below`` excludes ``high``."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'above' if self.above else 'of at least'} {self.low:,}"
        if not self.above and not self.below:
            return f"from {self.low:,} to {self.high:,}"
        low = f"above {self.low:,}" if self.above else f"at least {self.low:,}"
        high = f"below {self.high:,}" if self.below else f"at most {self.high:,}"
        return f"{low} and {high}"

    def __contains__(self, value: float) -> bool:
        is_high = value > self.low if self.above else value >= self.low
        return is_high and (value < self.high if self.below else value <= self.high)


@dataclasses.dataclass(frozen=True)
class Place:
    """A requirement on a path: a file or folder that can be read or, if ``written``, written."""

    kind: Literal["file", "folder"]
    written: bool = True
    suffix: str | None = None
    """The required end of a file's name."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value that is neither bounds nor a place."""

    words: str
    """The rule, as it follows "must be"."""
    holds: Callable[[Any], bool]
    """Whether a value fulfils it."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading above an option in ``--help``, which also covers the following options."""

    title: str


@dataclasses.dataclass(frozen=True)
class Advanced:
    """Marks an option that only ``--help-all`` lists."""


Seed = Annotated[int, Range(0, 2**32 - 1)]  # the limit of NumPy's older generators, which SB3 uses
AnySeed = Annotated[int, Range(0, math.inf)]  # as in Gymnasium
Count = Annotated[int, Range(1, 2**31 - 1)]  # C libraries below count in 32 bits
Number = Annotated[int, Range(0, 2**31 - 1)]
Passes = Annotated[int, Range(1, 1000)]  # finer levels of diffusion change no pixel
Side = Annotated[int, Range(8, 4096)]  # pixels: the widest frame of common H.264 decoders
FewFrames = Annotated[int, Range(1, 1000)]  # skipped or stacked: a quarter of a minute of play
Threads = Annotated[int, Range(1, os.cpu_count() or 1)]  # more threads than processors only wait
Positive = Annotated[float, Range(0, 10**6, above=True)]  # far below the limit of float32
NotNegative = Annotated[float, Range(0, 10**6)]
Limit = Annotated[float, Range(0, math.inf)]
Precision = Literal["auto", "float32", "bfloat16"]
Fraction = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]
Seconds = Annotated[float, Range(0, 86_400, above=True)]  # a day
Minutes = Annotated[float, Range(0, 525_600, above=True)]  # a year
FramesPerSecond = Annotated[float, Range(0, 1000, above=True)]  # video players count milliseconds
InFile = Annotated[Path, Place("file", written=False)]
OutFile = Annotated[Path, Place("file")]
OutVideo = Annotated[Path, Place("file", suffix=".mp4")]
OutFolder = Annotated[Path, Place("folder")]
RayAddress = Annotated[
    str,
    Rule(
        "auto, HOST:PORT or ray://HOST:PORT",
        re.compile(r"auto|(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):[0-9]{1,5}").fullmatch,
    ),
]


class Option(NamedTuple):
    """An option of a command: a field of its dataclass, or of one nested in it.

    Attributes:
        owner: The dataclass that has the field.
        path: The attributes that lead to it from the command's dataclass.
        name: Its name in a file of settings, such as ``optim.lr``.
        flag: Its name on the command line, such as ``--optim.lr``, or ``RECORDING`` by position.
        annotation: Its type.
        value: Its value.
    """

    owner: type
    path: tuple[str, ...]
    name: str
    flag: str
    annotation: Any
    value: Any

    @property
    def is_positional(self) -> bool:
        """Whether the command line gives it by position."""
        return not self.flag.startswith("--")


def options_of(config: type, values: Any = None) -> Iterator[Option]:
    """The options of a dataclass in order, those of nested dataclasses included.

    Args:
        config: The dataclass.
        values: An instance of it that gives the options' values; None for the defaults, where a
            required option has ``dataclasses.MISSING``.
    """
    yield from _options(config, values, (), "")


def check_options(config: Any) -> None:
    """Check every option of a dataclass.

    Raises:
        ValueError: For the first that is out of range, with its name.
    """
    for option in options_of(type(config), config):
        check_value(option.flag, option.value, option.annotation)


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Check that a value is of a type, such as one of those above.

    Args:
        name: Its name in the error, as an option (``--seed``) or an argument (``seed``).
        value: The value.
        annotation: The type: a plain one, one of those above, a literal, a tuple or ``| None``.

    Raises:
        ValueError: With the rule and the value.

    Example:
        >>> check_value("num_passes", 1.5, Passes)
        Traceback (most recent call last):
        ValueError: num_passes must be a whole number from 1 to 1,000, got 1.5
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        place = next((mark for mark in inner[1:] if isinstance(mark, Place)), None)
        bounds = next((mark for mark in inner[1:] if isinstance(mark, Range)), None)
        rule = next((mark for mark in inner[1:] if isinstance(mark, Rule)), None)
        if bounds is not None:
            _check_number(name, value, inner[0], bounds)
        else:
            check_value(name, value, inner[0])
        if rule is not None:
            _require(rule.holds(value), name, rule.words, value)
        if place is not None:
            check_place(name, Path(value), place)
    elif annotation in (str, Path, Location):
        _require(isinstance(value, annotation), name, "text", value)
        lines = "\n\t" if annotation is str else ""  # a prompt may have several
        is_text = not _has_controls(str(value), lines)
        _require(is_text, name, "text without control characters", value)
    elif origin in (Union, UnionType):
        if value is not None or NoneType not in inner:
            kinds = [kind for kind in inner if kind is not NoneType]
            has_many = isinstance(value, (tuple, list))
            fitting = [kind for kind in kinds if (get_origin(kind) is tuple) == has_many]
            check_value(name, value, Union[tuple(fitting or kinds)])  # noqa: UP007  # of a tuple
    elif origin is Literal:
        is_one = any(value == one and type(value) is type(one) for one in inner)
        _require(is_one, name, f"one of {', '.join(map(str, inner))}", value)
    elif origin is tuple:
        _check_tuple(name, value, inner)
    elif annotation in (int, float):
        _check_number(name, value, annotation, Range(-math.inf, math.inf, above=True, below=True))
    elif isinstance(annotation, type):
        _require(isinstance(value, annotation), name, f"a {annotation.__name__}", value)


def check_place(name: str, path: Path, place: Place) -> None:
    """Check that a path can be read or written, before any work.

    Raises:
        ValueError: If it is a file instead of a folder or the reverse, does not exist, or may not
            be read or written, or is a URL.
    """
    if place.written:
        check_is_here(name, path)
    try:
        exists = path.stat() is not None
    except (FileNotFoundError, NotADirectoryError):
        exists = False
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{name}: {shown(path)} cannot be used: {why}") from error
    if place.kind == "file" and exists and not path.is_file():
        kind = "a folder: name a file in it" if path.is_dir() else "not a regular file"
        raise ValueError(f"{name} must be a file, and {path} is {kind}")
    if place.kind == "folder" and exists and not path.is_dir():
        raise ValueError(f"{name} must be a folder, and {path} is a file: name another place")
    if place.suffix and path.suffix.lower() != place.suffix:
        raise ValueError(f"{name} must end in {place.suffix}, got {shown(path)}")
    if place.written:
        _check_writable(name, path)
    elif not exists:
        raise ValueError(f"{name}: there is no file {path}")
    elif not may(path, os.R_OK):
        raise ValueError(f"{name}: {path} may not be read by this user")


def _check_writable(name: str, path: Path) -> None:
    """Check the path itself, or the nearest existing folder above it."""
    nearest = next(above for above in (path, *path.absolute().parents) if os.path.lexists(above))
    if nearest != path and not nearest.is_dir():
        raise ValueError(f"{name}: {path} cannot be written: {nearest} is not a folder")
    if not may(nearest, os.W_OK):
        raise ValueError(f"{name}: {path} cannot be written: this user may not write {nearest}")


def may(path: Path, mode: int) -> bool:
    """Return whether this user may read or write a path, by a mode such as ``os.W_OK``."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _options(config: type, values: Any, path: tuple[str, ...], prefix: str) -> Iterator[Option]:
    import tyro

    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        marks = get_args(hint)
        kind = marks[0] if get_origin(hint) is Annotated else hint
        if values is not None:
            value = getattr(values, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = field.default
        name = prefix + field.name
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            inner = prefix if tyro.conf.OmitArgPrefixes in marks else f"{name}."
            yield from _options(kind, value, (*path, field.name), inner)
        else:
            flag = f"--{name.replace('_', '-')}"
            if tyro.conf.Positional in marks:
                flag = field.name.upper()
            yield Option(config, (*path, field.name), name, flag, hint, value)


def _check_number(name: str, value: Any, kind: type, bounds: Range) -> None:
    rule = "a whole number" if kind is int else "a number"
    if not math.isinf(bounds.low):
        rule += f" {bounds}"
    elif kind is float:
        rule += " that is finite"
    number = _as_number(value, kind)
    _require(number is not None and number in bounds, name, rule, value)


def _as_number(value: Any, kind: type) -> float | None:
    """A value as a number of this kind, NumPy's scalars included; None if it is not one."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value) if kind is int else float(value.__float__())
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _check_tuple(name: str, value: Any, inner: tuple[Any, ...]) -> None:
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    if inner[-1] is not Ellipsis:
        _require(len(value) == len(inner), name, f"{len(inner)} values", value)
    elif get_origin(inner[0]) is Annotated:  # a list of numbers needs at least one
        _require(len(value) > 0, name, "one value or more", value)
    for entry in value:
        check_value(name, entry, inner[0])


def _has_controls(text: str, allowed: str) -> bool:
    """Whether a text has control characters or halves of surrogate pairs."""
    return any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in text)


def _require(holds: bool, name: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for an error: short, and in one line."""
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = shorten.maxlong = 60
    return shorten.repr(value) if not isinstance(value, Path) else shorten.repr(str(value))
