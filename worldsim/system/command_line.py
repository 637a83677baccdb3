"""Parse a command line into the dataclass of its options, and check every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from worldsim.system.help import asks_for_help, help_text
from worldsim.system.location import Location, as_location
from worldsim.system.options import check_options, options_of

Config = TypeVar("Config")
NOT_RENAMED: Mapping[str, str] = MappingProxyType({})
TYPES = ConstructorRegistry()
"""Types of options that tyro does not know."""


@TYPES.primitive_rule
def _location(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Location] | None:
    """Keep a URL as it is, which tyro would make a path."""
    if info.type not in (Location, Location | None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LOCATION",
        instance_from_str=lambda words: as_location(words[0]),
        is_instance=lambda value: isinstance(value, Location),
        str_from_instance=lambda value: [str(value)],
    )


def parse(
    config: type[Config],
    argv: Sequence[str],
    prog: str,
    default: Config | None = None,
    renamed: Mapping[str, str] = NOT_RENAMED,
) -> Config:
    """Parse a command line into a dataclass, and check every value.

    Args:
        config: The dataclass: its fields are the options.
        argv: The words after the command.
        prog: The command.
        default: Defaults instead of the dataclass's own.
        renamed: The new name of each renamed option, as `Option.name`.

    Raises:
        ValueError: If a value is out of range or an option has a new name.
        SystemExit: With status 2 if the words cannot be parsed, and 0 after ``--help``.
    """
    if asked := asks_for_help(argv):
        print(help_text(config, prog, everything=asked == "--help-all"))
        raise SystemExit(0)
    _refuse_old_names(renamed, argv)
    _check_no_path_is_empty(config, argv)
    if default is None:
        parsed = tyro.cli(config, args=list(argv), prog=prog, registry=TYPES)
    else:
        parsed = tyro.cli(config, args=list(argv), prog=prog, default=default, registry=TYPES)
    check_options(parsed)
    return parsed


def _refuse_old_names(renamed: Mapping[str, str], argv: Sequence[str]) -> None:
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in renamed:
            old, new = (f"--{each.replace('_', '-')}" for each in (name, renamed[name]))
            parts = [each for each in renamed if renamed[each] == renamed[name]]
            which = f"value {parts.index(name) + 1} of " if len(parts) > 1 else ""
            raise ValueError(f"{old} is now {which}{new}")


def _check_no_path_is_empty(config: type, argv: Sequence[str]) -> None:
    """Raise for ``--out ""``, as from an unset shell variable; as a Path it would mean ``.``."""
    for option in options_of(config):
        flag = option.flag
        kinds = {option.annotation, *get_args(option.annotation)}
        kinds |= {inner for kind in kinds for inner in get_args(kind)}
        names = {flag, flag.replace("-", "_").replace("__", "--", 1)}
        is_empty = any(f"{name}=" in argv for name in names) or any(
            word in names and following == "" for word, following in pairwise(argv)
        )
        if Path in kinds and is_empty:
            raise ValueError(f"{flag} is empty: give it a path, or leave it out")
