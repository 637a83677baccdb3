"""Settings of a command as values and as a file: written down, read back, repeated.

The file is TOML, which holds values and runs nothing. Its tables have the names of the groups of
options: ``lr`` in ``[optim]`` is ``--optim.lr``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from worldsim.system.files import read_text, reading
from worldsim.system.help import first_sentence, sentences
from worldsim.system.options import check_value, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config")
MAX_BYTES = 2**14  # of a file of settings: four times a full one; long keys take TOML long


def values_of(config: Any) -> dict[str, Any]:
    """The settings as JSON values, those of a group in an object of their own."""
    values: dict[str, Any] = {}
    for option in options_of(type(config), config):
        *groups, key = option.name.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        is_path = isinstance(option.value, Path)
        place[key] = str(option.value) if is_path else option.value
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values as options are named.

    Example:
        >>> flatten({"seed": 1, "optim": {"lr": 0.1}})
        {'seed': 1, 'optim.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def with_values(config: Config, values: Mapping[str, Any], keep: Collection[str] = ()) -> Config:
    """A copy of a dataclass of options with values that were written down.

    Args:
        config: The dataclass.
        values: By the names of the options, nested or not; others, which an older version may have
            had, are left out.
        keep: Options that stay as they are.

    Raises:
        ValueError: In one sentence that names the option, for the first value that is out of range.
    """
    options = {option.name: option for option in options_of(type(config), config)}
    for name, value in flatten(values).items():
        if name in options and name not in keep:
            value = tuple(value) if isinstance(value, list) else value
            check_value(name, value, options[name].annotation)
            config = _replaced(config, options[name].path, value)
    return config


def current_names(
    values: Mapping[str, Any], renamed: Mapping[str, str], defaults: Any
) -> dict[str, Any]:
    """Settings that an older version wrote, under the names of today.

    Args:
        values: By name, nested or not.
        renamed: The new name of each option that had another. Where several have the same new
            name, they are its values in turn; one that was not given is as the one before it.
        defaults: A dataclass that has a value for what is missing.
    """
    flat = flatten(values)
    current = {name: value for name, value in flat.items() if name not in renamed}
    options = {option.name: option.value for option in options_of(type(defaults), defaults)}
    for new in dict.fromkeys(renamed.values()):
        parts = [old for old in renamed if renamed[old] == new]
        if new in current or not flat.keys() & parts:
            continue
        if len(parts) == 1:
            current[new] = flat[parts[0]]
            continue
        several: list[Any] = []
        for old in parts:
            value = flat.get(old)
            before = several[-1] if several else options[new][0]
            several.append(before if value is None else value)
        current[new] = several
    return current


def command_words(config: Any, defaults: Any, left_out: Collection[str] = ()) -> list[str]:
    """The words that give a command these settings: what differs from the defaults."""
    words: list[str] = []
    usual = {option.name: option.value for option in options_of(type(defaults), defaults)}
    for option in options_of(type(config), config):
        if option.is_positional:
            words.append(str(option.value))
        elif option.value != usual[option.name] and option.name not in left_out:
            several = option.value if isinstance(option.value, tuple) else (option.value,)
            words += [option.flag, *map(str, several)]
    return words


def settings_text(config: Any, about: str, left_out: Collection[str] = ()) -> str:
    """The settings as a TOML file, with the sentence of each option above it.

    Args:
        config: The dataclass.
        about: What the file is, for its first lines.
        left_out: Options that are not written.
    """
    options = [o for o in options_of(type(config), config) if o.name not in left_out]
    options.sort(key=lambda option: "." in option.name)  # what is in no table comes first
    lines, table = list(_comment(about)), ""
    for option in options:
        group, _, key = option.name.rpartition(".")
        if group != table:
            lines += ["", "", *_comment(first_sentence(option.owner)), f"[{group}]"]
            table = group
        lines += ["", *_comment(sentences(option.owner).get(option.path[-1], ""))]
        lines.append(f"# {key} =" if option.value is None else f"{key} = {_toml(option.value)}")
    return "\n".join(lines) + "\n"


def read_settings(
    path: Path, config: type, renamed: Mapping[str, str], forbidden: Collection[str]
) -> dict[str, Any]:
    """Read a TOML file of settings.

    Args:
        path: The file, which may come from a stranger.
        config: The dataclass whose options it sets.
        renamed: The new name of each option that had another.
        forbidden: Options that only the command line sets.

    Returns:
        The values by name. They are not checked; `with_values` does that.

    Raises:
        PermissionError: If it may not be read.
        ValueError: In one sentence, if it is no TOML file or has a name that is none of an option.
    """
    remedy = "mend it, or begin from the config.toml of a run"
    with reading(path, remedy):
        values = flatten(tomllib.loads(read_text(path, MAX_BYTES)))
    known = [option.name for option in options_of(config) if option.name not in forbidden]
    for name in values:
        if name in forbidden:
            raise ValueError(f"{path}: {name} is given on the command line, not in a file")
        if name in renamed:
            raise ValueError(f"{path}: {name} is now {renamed[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ValueError(f"{path}: there is no setting {name!r:.60}; did you mean {close[0]}?")
    return values


def _replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    field, *rest = path
    inner = _replaced(getattr(config, field), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{field: inner})


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.splitlines():
        yield from textwrap.wrap(paragraph, 98, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    """A value in TOML, whose texts and numbers are those of JSON."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
