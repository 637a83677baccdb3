"""Settings of a command as values, as a file and as a command line.

The file is TOML, which holds values and no code. Its tables are the groups of options: ``lr`` in
``[optim]`` is ``--optim.lr``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from worldsim.system.files import read_text, reading
from worldsim.system.help import first_sentence, sentences
from worldsim.system.options import check_value, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config")
MAX_BYTES = 2**14  # four times a complete file; parsing long keys takes long


def values_of(config: Any) -> dict[str, Any]:
    """The settings as JSON values, each group in its own object."""
    values: dict[str, Any] = {}
    for option in options_of(type(config), config):
        *groups, key = option.name.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = _as_json(option.value)
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to the names of options.

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
    """A copy of a dataclass of options with stored values.

    Args:
        config: The dataclass.
        values: By the names of the options, nested or not. Unknown names, as from an older
            version, are skipped.
        keep: Options that stay unchanged.

    Raises:
        ValueError: For the first value that is out of range, with its name.
    """
    options = {option.name: option for option in options_of(type(config), config)}
    for name, value in flatten(values).items():
        if name in options and name not in keep:
            annotation = options[name].annotation
            value = tuple(value) if isinstance(value, list) else value
            if isinstance(value, int) and _is_list(annotation):
                value = (value,)  # one value of several may stand alone
            check_value(name, value, annotation)
            config = _replaced(config, options[name].path, value)
    return config


def current_names(
    values: Mapping[str, Any], renamed: Mapping[str, str], defaults: Any
) -> dict[str, Any]:
    """Settings of an older version, under the current names.

    Args:
        values: By name, nested or not.
        renamed: The new name of each renamed option. Several with one new name are its values in
            turn; a missing one repeats the previous one.
        defaults: A dataclass with a value for each missing first one.
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
    """The command line that gives these settings, without the defaults."""
    words: list[str] = []
    usual = {option.name: option.value for option in options_of(type(defaults), defaults)}
    for option in options_of(type(config), config):
        several = option.value if isinstance(option.value, tuple) else (option.value,)
        if option.is_positional:
            words += map(str, several)
        elif option.value != usual[option.name] and option.name not in left_out:
            words += [option.flag, *map(str, several)]
    return words


def settings_text(config: Any, about: str, left_out: Collection[str] = ()) -> str:
    """The settings as a TOML file, with the sentence of each option above it.

    Args:
        config: The dataclass.
        about: The comment at its beginning.
        left_out: Options that are not written.
    """
    options = [o for o in options_of(type(config), config) if o.name not in left_out]
    options.sort(key=lambda option: "." in option.name)  # tables come last in TOML
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
        renamed: The new name of each renamed option.
        forbidden: Options that only the command line sets.

    Returns:
        The values by name; `with_values` checks them.

    Raises:
        PermissionError: If it may not be read.
        ValueError: If it is not a TOML file or names an unknown option.
    """
    remedy = "fix it, or begin from the config.toml of a run"
    with reading(path, remedy):
        values = flatten(tomllib.loads(read_text(path, MAX_BYTES)))
    known = [option.name for option in options_of(config) if option.name not in forbidden]
    for name in values:
        if name in forbidden:
            raise ValueError(f"{path}: {name} belongs on the command line, not in a file")
        if name in renamed:
            raise ValueError(f"{path}: {name} is now {renamed[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ValueError(f"{path}: there is no setting {name!r:.60}; did you mean {close[0]}?")
    return values


def _is_list(annotation: Any) -> bool:
    """Whether an option has several values, or may have."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):
        return any(map(_is_list, inner[:1] if origin is Annotated else inner))
    return origin is tuple


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_json, value))
    return str(value) if isinstance(value, Path) else value


def _replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    field, *rest = path
    inner = _replaced(getattr(config, field), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{field: inner})


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.splitlines():
        yield from textwrap.wrap(paragraph, 98, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    """A value in TOML, which writes texts and numbers like JSON."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
