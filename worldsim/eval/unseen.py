"""Which episodes of a recording serve to measure worlds on, older worlds among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from worldsim.data.recording import Recording
from worldsim.data.split import Measurable, Split, measurable

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

HELD_OUT = 0.1  # what worlds of older versions held out unless their card's command says otherwise

_OPTION = re.compile(r"--(?:run\.)?held-out[ =](0?\.\d+)")


def unseen(worlds: Sequence[WorldModel], recording: Recording) -> Measurable:
    """Find the episodes that none of some worlds was trained on.

    A world of an older version does not say what it was trained on. It is taken to have held out
    what its card's command, or else the default of that time, holds out of this recording.

    Raises:
        ValueError: As `worldsim.data.split.measurable`.
    """
    splits: list[Split | None] = []
    warnings = []
    for world in worlds:
        split, warning = world.split, ""
        if world.game.env_id != recording.game.env_id:
            warning = f"It is a world of another game, {world.game.env_id}."
        elif split is None:
            told = _OPTION.search(world.card)
            fraction = float(told[1]) if told else HELD_OUT
            split = Split.of(recording, fraction)
            warning = (
                "It does not say which episodes it was trained on, since an older version wrote "
                f"it. Those that --run.held-out {fraction:g} holds out of this recording are taken "
                "to be unseen."
            )
        splits.append(split)
        warnings.append(warning)
    found = measurable(recording, splits)
    sentences = [old or new for old, new in zip(warnings, found.sentences, strict=True)]
    return found._replace(sentences=sentences)
