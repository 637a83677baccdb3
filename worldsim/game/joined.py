"""Several games as one: the union of their actions, by what the actions mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worldsim.game.config import MAX_ACTIONS, MAX_NAME, GameConfig
from worldsim.game.keys import NOOP_WORDS
from worldsim.system.trust import split_env_id

JOINT = "+"  # between the ids of joined games; no id of Gymnasium has it

_NOTHING = ("NOOP", 1)
_ROOM = 20  # characters of a name for a number after it


def join_games(games: Sequence[GameConfig]) -> tuple[GameConfig, list[np.ndarray]]:
    """Join games into one, so that a world can play them all.

    Actions of one name, without case, are one action: UP is UP in each game. The actions that do
    nothing are one too, which comes first. A key keeps its meaning in the first game that has it.
    Frame size, frames per second and the rest are those of the first game. Equal games stay as they
    are.

    Args:
        games: One or more; their frame sizes may differ.

    Returns:
        The joint game; and for each game the joint action of each of its actions, ``int64``
        (num_actions + 1). The last entry is the unknown action.

    Raises:
        ValueError: If their channels differ, or they have too many actions together.

    Example:
        >>> pong = GameConfig("worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
        >>> maze = GameConfig("worldsim/Maze-v0", action_meanings=("NOOP", "LEFT", "UP"))
        >>> joint, tables = join_games([pong, maze])
        >>> joint.env_id, joint.action_meanings
        ('worldsim/Pong-v0+worldsim/Maze-v0', ('NOOP', 'UP', 'DOWN', 'LEFT'))
        >>> [table.tolist() for table in tables]
        [[0, 1, 2, 4], [0, 3, 1, 4]]
    """
    first = games[0]
    channels = {game.channels for game in games}
    if len(channels) > 1:
        found = ", ".join(f"{game.env_id} with {game.channels}" for game in games)
        raise ValueError(
            "games that share a world must all be in colour or all be grey, got "
            f"{found} channels: record them alike"
        )
    meanings = [_meanings(game) for game in games]
    if all(
        (game.action_meanings, game.noop_action) == (first.action_meanings, first.noop_action)
        for game in games
    ):
        names, noop = first.action_meanings, first.noop_action
        numbers = {meaning: number for number, meaning in enumerate(meanings[0])}
    else:
        union = dict.fromkeys(meaning for each in meanings for meaning in each)
        ordered = sorted(union, key=lambda meaning: meaning != _NOTHING)  # keeps the order else
        numbers = {meaning: number for number, meaning in enumerate(ordered)}
        names = tuple(f"{name} {count}" if count > 1 else name for name, count in ordered)
        noop = numbers[meanings[0][first.noop_action]] if ordered[0] != _NOTHING else 0
    if len(names) > MAX_ACTIONS:
        raise ValueError(
            f"{_ids(games)} have {len(names):,} actions together, and a world at most "
            f"{MAX_ACTIONS:,}: train several worlds"
        )
    tables = [
        np.array([*(numbers[meaning] for meaning in each), len(names)], np.int64)
        for each in meanings
    ]
    bindings: dict[str, int] = {}
    for game, table in zip(games, tables, strict=True):
        for keys, action in game.key_bindings.items():
            bindings.setdefault(keys, int(table[action]))
    joint = replace(first, action_meanings=names, noop_action=noop, key_bindings=bindings)
    if len({game.env_id for game in games}) > 1:  # there is no real game of it
        joint = replace(
            joint, env_id=_ids(games), env_kwargs={}, frame_skip=None, scripted_policy=None
        )
    return joint, tables


def check_is_one_game(env_id: str) -> None:
    """Raise for the id of joined games, of which there is no real game.

    Raises:
        ValueError: With one of the games.
    """
    if JOINT in env_id:
        raise ValueError(
            f"{env_id} is several games that one world has learned, and no game of its own: name "
            f"one of them, such as {env_id.partition(JOINT)[0]}"
        )


def _meanings(game: GameConfig) -> list[tuple[str, int]]:
    """The name of each action, in upper case, and its number among those of this name."""
    names = [name.upper()[: MAX_NAME - _ROOM] for name in game.action_meanings]
    does_nothing = names[game.noop_action] in NOOP_WORDS
    counts = Counter([_NOTHING[0]] if does_nothing else [])
    meanings = []
    for action, name in enumerate(names):
        if does_nothing and action == game.noop_action:
            meanings.append(_NOTHING)
            continue
        counts[name] += 1
        meanings.append((name, counts[name]))
    return meanings


def _ids(games: Sequence[GameConfig]) -> str:
    """A readable name of several games, without their modules."""
    ids = list(dict.fromkeys(split_env_id(game.env_id)[1] for game in games))
    joint = JOINT.join(ids)
    if len(joint) > MAX_NAME:
        joint = f"{ids[0][: MAX_NAME - _ROOM]}{JOINT}{len(ids) - 1} more games"
    return joint
