"""Names of a game's actions, from any of the forms that games give them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
from gymnasium import spaces

from worldsim.game.config import is_name
from worldsim.game.providers import AnyEnv, Provider


def name_actions(env: AnyEnv, provider: Provider) -> tuple[str, ...]:
    """Return the environment's own names of its actions, else ACTION_0, ACTION_1 and so on."""
    assert isinstance(env.action_space, spaces.Discrete)
    game: Any = env.unwrapped
    count, start = int(env.action_space.n), int(env.action_space.start)
    if hasattr(game, "get_action_meanings"):
        words = _in_order(game.get_action_meanings(), start)
    elif "action_meanings" in env.metadata:
        words = _in_order(env.metadata["action_meanings"], start)
    elif provider.action_words is not None:
        words = list(provider.action_words(env))
    elif hasattr(game, "actions"):  # MiniGrid: an enumeration in lower case
        words = [word.upper() for word in _in_order(game.actions, start)]
    else:
        words = []
    if len(words) != count or not all(map(is_name, words)):
        words = [f"ACTION_{action}" for action in range(count)]
    return tuple(words)


def _in_order(meanings: Any, start: int) -> list[str]:
    """Words in the order of their actions; an action without a word has "".

    Args:
        meanings: A list, an enumeration, or a mapping of actions to words or words to actions.
        start: The game's own number of its first action.
    """
    if isinstance(meanings, type) and issubclass(meanings, Enum):
        meanings = {member.value: member.name for member in meanings}
        if not all(map(_is_number, meanings)):
            return list(meanings.values())
    if isinstance(meanings, Mapping):
        words = dict(
            (_number(action), _word(word)) if _is_number(action) else (_number(word), _word(action))
            for action, word in meanings.items()
            if _is_number(action) or _is_number(word)
        )
        return [words.get(start + index, "") for index in range(len(words))]
    return [_word(word) for word in meanings] if isinstance(meanings, Iterable) else []


def _word(word: Any) -> str:
    return str(word.name if isinstance(word, Enum) else word)


def _is_number(value: Any) -> bool:
    value = value.value if isinstance(value, Enum) else value
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(value: Any) -> int:
    return int(value.value if isinstance(value, Enum) else value)
