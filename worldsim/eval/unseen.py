"""Find the episodes of a recording that are unseen, also by worlds of older versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from worldsim.data.recording import Recording
from worldsim.data.split import Measurable, Split, measurable
from worldsim.game.joined import JOINT
from worldsim.system.trust import split_env_id

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

HELD_OUT = 0.1  # share that older versions held out, unless the card's command names another

_OPTION = re.compile(r"--(?:run\.)?held-out[ =](0?\.\d+)")


def unseen(worlds: Sequence[WorldModel], recording: Recording) -> Measurable:
    """Find the episodes that no given world was trained on.

    A world of an older version does not name its training episodes. They are inferred from the
    held-out share in its card's command, or else from the default of that time.

    Raises:
        ValueError: As `worldsim.data.split.measurable`.
    """
    splits: list[Split | None] = []
    warnings = []
    for world in worlds:
        split, warning = world.split, ""
        learned = world.game.env_id.split(JOINT)
        if not {recording.game.env_id, split_env_id(recording.game.env_id)[1]} & set(learned):
            warning = f"It is a world of another game, {world.game.env_id}."
        elif split is None:
            option = _OPTION.search(world.card)
            fraction = float(option[1]) if option else HELD_OUT
            split = Split.of(recording, fraction)
            warning = (
                "An older version wrote it without its training episodes. The episodes that "
                f"--run.held-out {fraction:g} holds out of this recording count as unseen."
            )
        splits.append(split)
        warnings.append(warning)
    found = measurable(recording, splits)
    sentences = [old or new for old, new in zip(warnings, found.sentences, strict=True)]
    return found._replace(sentences=sentences)
