"""Captions: what an episode shows, in words.

A game tells the caption of an episode in ``info["caption"]`` of ``reset``, and its shard keeps it.
A recording made elsewhere may have the file ``captions.json`` beside its shards instead. It holds
one text for all episodes, or an object with a text for each episode number: ``{"0": "…"}``. So may
a folder of pictures, with the names of files for the numbers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from worldsim.data.folder import CAPTIONS, Folder
from worldsim.system.files import check_regular, naming_damage, read_json
from worldsim.system.options import Rule, check_value, shown

MAX_CHARACTERS = 2000
REMEDY = "correct it, or delete it to have the captions of the shards"

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of pairs, ends of lines and paragraphs


def is_caption(value: Any) -> bool:
    """Whether a value is a line of 1 … 2,000 printable characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_CHARACTERS
        and not any(unicodedata.category(character) in _UNPRINTABLE for character in value)
    )


Caption = Annotated[
    str, Rule(f"a line of 1 to {MAX_CHARACTERS:,} printable characters", is_caption)
]


def caption_in(info: Mapping[str, Any]) -> str | None:
    """Return the caption that a game tells.

    Args:
        info: The info of ``reset``.

    Returns:
        ``info["caption"]``, or None without one.

    Raises:
        ValueError: If it is no line of text, or too long.
    """
    caption = info.get("caption")
    check_value('info["caption"] of the game', caption, Caption | None)
    return caption


def read_captions(folder: Folder, numbers: Sequence[int]) -> dict[int, str]:
    """Read ``captions.json`` of a recording, which may come from a stranger.

    Args:
        folder: The folder of the recording's files.
        numbers: The number of each episode.

    Returns:
        Captions by index in ``numbers``, of the episodes that the file names; none without a file.

    Raises:
        OSError: If it may not be read, or a remote one cannot be.
        ValueError: If it is damaged, a caption is not a line of text, or an episode does not exist.
    """
    if CAPTIONS not in folder.sizes():
        return {}
    remedy = folder.remedy(CAPTIONS, REMEDY)
    with folder.file(CAPTIONS) as file:
        check_regular(file)
        with naming_damage(folder.name(CAPTIONS), remedy):
            kind = f"numbers of the recording's {len(numbers):,} episodes"
            return check_captions(read_json(file), list(map(str, numbers)), kind)


def check_captions(captions: Any, names: Sequence[str], kind: str) -> dict[int, str]:
    """Check captions in JSON, which may come from a stranger.

    Args:
        captions: One text for all, or an object with a text for some names.
        names: All names.
        kind: What they are, for errors.

    Returns:
        Captions by index in ``names``.

    Raises:
        ValueError: If a caption is not a line of text, or a name is unknown.
    """
    if isinstance(captions, str):
        check_value("the caption", captions, Caption)
        return dict.fromkeys(range(len(names)), captions)
    if not isinstance(captions, dict):
        raise ValueError(f"it must hold a JSON string or object, got {shown(captions)}")
    indices = {name: index for index, name in enumerate(names)}
    for key, caption in captions.items():
        if key not in indices:
            raise ValueError(f"its keys must be {kind}, got {shown(key)}")
        check_value(f"the caption of {key}", caption, Caption)
    return {indices[key]: caption for key, caption in captions.items()}
