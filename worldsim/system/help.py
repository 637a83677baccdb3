"""The text of ``worldsim COMMAND --help``, read from the dataclass of the options.

The docstring of the dataclass comes first and its examples last. The sentence under each field
explains its option. ``--help`` leaves out advanced options, ``--help-all`` lists them.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from worldsim.system.options import Advanced, Heading, Option, Place, Rule, options_of

WIDTH = 100  # columns, at most
COLUMN = 26  # the last one in which the sentences begin


def asks_for_help(argv: Sequence[str]) -> str | None:
    """The word that requests help, or None."""
    return next((word for word in argv if word in ("-h", "--help", "--help-all")), None)


def help_text(config: type, prog: str, everything: bool) -> str:
    """Compose the help of a command.

    Args:
        config: The dataclass of its options.
        prog: The command, such as ``worldsim train``.
        everything: Whether to list advanced options too.
    """
    width = min(shutil.get_terminal_size().columns, WIDTH)
    about, examples = _about(config)
    options = sorted(options_of(config), key=lambda option: not option.is_positional)
    shown = [option for option in options if everything or not is_hidden(option)]
    hidden = [option for option in options if option not in shown]

    # Rows of an option and its sentence, under headings.
    sections: dict[str, list[tuple[str, str]]] = {}
    title = "options"
    for option in shown:
        title = _title(option) or title
        sections.setdefault(title, []).append((_usage(option), _explain(option)))
    if hidden:
        sections["more options, listed by --help-all"] = list(_summaries(hidden))

    longest = max(len(left) for rows in sections.values() for left, _ in rows)
    column = min(longest + 4, COLUMN)
    lines = [_usage_line(prog, options), ""]
    for paragraph in about:
        lines += [*textwrap.wrap(paragraph, width), ""]
    for title, rows in sections.items():
        lines.append(f"{title}:")
        for left, right in rows:
            lines += _row(left, right, column, width)
        lines.append("")
    if examples:
        lines += ["examples:", *(f"  {line}" for line in examples), ""]
    return "\n".join(lines).rstrip()


def is_hidden(option: Option) -> bool:
    """Whether only ``--help-all`` shows an option: marked so, or of a group with a prefix."""
    is_advanced = any(isinstance(mark, Advanced) for mark in _marks(option))
    return is_advanced or "." in option.name


@functools.cache
def sentences(owner: type) -> dict[str, str]:
    """The text under each field of a dataclass, in one line, by the name of the field."""
    found = {}
    for kind in reversed([each for each in owner.__mro__ if dataclasses.is_dataclass(each)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def first_sentence(owner: type) -> str:
    """The first line of a dataclass's docstring."""
    return (inspect.getdoc(owner) or "").partition("\n")[0]


def _about(config: type) -> tuple[list[str], list[str]]:
    """The paragraphs of the docstring, each in one line, and the lines of its examples."""
    text, _, examples = (inspect.getdoc(config) or "").partition("\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return [p for p in paragraphs if p], textwrap.dedent(examples).strip().splitlines()


def _title(option: Option) -> str | None:
    """The heading that begins with an option, or None."""
    if "." in option.name:
        group = option.name.partition(".")[0]
        return f"{group}: {first_sentence(option.owner)}".rstrip(".")
    return next((mark.title for mark in _marks(option) if isinstance(mark, Heading)), None)


def _summaries(hidden: Sequence[Option]) -> Iterator[tuple[str, str]]:
    """The names of hidden options outside groups, and a row for each group."""
    alone = ", ".join(option.flag for option in hidden if "." not in option.name)
    for line in textwrap.wrap(alone, 76, break_on_hyphens=False):
        yield line, ""
    groups = {o.name.partition(".")[0]: o.owner for o in hidden if "." in o.name}
    for group, owner in groups.items():
        yield f"--{group}.*", first_sentence(owner)


def _usage_line(prog: str, options: Sequence[Option]) -> str:
    """The command, with its required options."""
    words = [option.flag for option in options if option.is_positional and _is_required(option)]
    words += [f"[{o.flag}]" for o in options if o.is_positional and not _is_required(o)]
    words += [_usage(o) for o in options if not o.is_positional and _is_required(o)]
    return f"usage: {prog} {' '.join([*words, '[OPTIONS]'])}"


def _usage(option: Option) -> str:
    """An option with a word for its value, such as ``--steps N``."""
    if option.is_positional:
        return option.flag
    if _plain(option.annotation) is bool:
        return option.flag.replace("--", "--[no-]", 1) if option.value is True else option.flag
    aliases = [alias for mark in _marks(option) for alias in getattr(mark, "aliases", None) or ()]
    flags = ", ".join([option.flag, *aliases])
    named = next((mark.metavar for mark in _marks(option) if getattr(mark, "metavar", None)), None)
    return f"{flags} {named or _word(option.annotation, option.path[-1])}"


def _explain(option: Option) -> str:
    """The sentence of an option, with its rule and its default if it has them."""
    sentence = sentences(option.owner).get(option.path[-1], "")
    values = option.value if isinstance(option.value, tuple) else (option.value,)
    is_shown = not _is_required(option) and not set(map(type, values)) & {bool, NoneType}
    shown = " ".join(map(str, values))
    notes = [mark.words for mark in _marks(option) if isinstance(mark, Rule)]
    if is_shown and shown not in ("", "."):
        notes.append(f"default: {shown}")
    return f"{sentence} ({'; '.join(notes)})" if notes else sentence


def _word(annotation: Any, name: str) -> str:
    """The placeholder of a value in the help."""
    kind = _plain(annotation)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        return f"{_word(first, name)} {'...' if rest == [Ellipsis] else _word(rest[0], name)}"
    if kind is Path:
        place = next((mark for mark in _flat(annotation) if isinstance(mark, Place)), None)
        return "FOLDER" if place and place.kind == "folder" else "FILE"
    return {int: "N", float: "X"}.get(kind, name.rpartition("_")[2].upper())


def _plain(annotation: Any) -> Any:
    """A type without its marks, and without ``| None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _plain(next(each for each in get_args(annotation) if each is not NoneType))
    return annotation


def _flat(annotation: Any) -> Iterator[Any]:
    """A type and all types and marks inside it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _flat(inner)


def _marks(option: Option) -> tuple[Any, ...]:
    annotation = option.annotation
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _is_required(option: Option) -> bool:
    return option.value is dataclasses.MISSING or option.value is tyro.MISSING


def _row(left: str, right: str, column: int, width: int) -> list[str]:
    """The lines of an option, with its sentence next to it or, if it is long, below it."""
    wrapped = textwrap.wrap(right, max(width - column, 20)) or [""]
    first = f"  {left}"
    if not right:
        lines = [first]
    elif len(first) + 2 <= column:
        lines = [f"{first:<{column}}{wrapped[0]}", *(" " * column + each for each in wrapped[1:])]
    else:
        lines = [first, *(" " * column + each for each in wrapped)]
    return [line.rstrip() for line in lines]
