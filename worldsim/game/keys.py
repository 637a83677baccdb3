"""Key bindings: which keys select which action.

A binding is one or more key names as pygame spells them, joined by ``+``: ``"up"``, ``"up+space"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gymnasium

    from worldsim.game.config import GameConfig

NOOP_WORDS = ("NOOP", "NO_OP", "NOTHING", "NONE", "IDLE", "STAY", "WAIT", "DONE")
WORD_KEYS = {
    "UP": "up", "DOWN": "down", "LEFT": "left", "RIGHT": "right",
    "NORTH": "up", "SOUTH": "down", "WEST": "left", "EAST": "right",
    "FORWARD": "up", "BACKWARD": "down", "MOVE_FORWARD": "up", "MOVE_BACKWARD": "down",
    "TURN_LEFT": "left", "TURN_RIGHT": "right", "GAS": "up", "BRAKE": "down",
    "FIRE": "space", "ATTACK": "space", "TOGGLE": "space", "JUMP": "space",
    "USE": "e", "PICKUP": "p", "DROP": "d", "SPEED": "left shift",
}  # fmt: skip
_JOINED_WORDS = re.compile("UP|DOWN|LEFT|RIGHT|FIRE")  # as ALE writes them: UPRIGHTFIRE
_KEY_NAMES = {
    "up", "down", "left", "right", "space", "return", "enter", "escape", "tab", "backspace",
    "left shift", "right shift", "left ctrl", "right ctrl", "left alt", "right alt",
}  # fmt: skip
"""Names of pygame's keys of more than one character that games declare."""
_PYGAME_KEYS = {  # codes of keys without a character, as in gymnasium.utils.play
    1073741903: "right", 1073741904: "left", 1073741905: "down", 1073741906: "up",
    8: "backspace", 9: "tab", 13: "return", 27: "escape", 32: "space", 1073741912: "enter",
    1073742048: "left ctrl", 1073742049: "left shift", 1073742050: "left alt",
    1073742052: "right ctrl", 1073742053: "right shift", 1073742054: "right alt",
}  # fmt: skip


def action_from_keys(held: Set[str], config: GameConfig) -> int:
    """Return the action that the held keys select.

    Args:
        held: Names of the held keys, as pygame spells them.
        config: The game, with its bindings.

    Returns:
        The action of the longest binding whose keys are all held, or ``config.noop_action``.

    Example:
        >>> from worldsim.game.config import GameConfig
        >>> config = GameConfig("Game-v0", key_bindings={"up": 1, "space": 2, "up+space": 3})
        >>> [action_from_keys(keys, config) for keys in ({"up"}, {"up", "space", "x"}, set())]
        [1, 3, 0]
    """
    best, most_keys = config.noop_action, 0
    for binding, action in config.key_bindings.items():
        keys = set(binding.split("+"))
        if len(keys) > most_keys and keys <= held:
            best, most_keys = action, len(keys)
    return best


def key_codes(key_bindings: Mapping[str, int]) -> dict[tuple[int, ...], int]:
    """Convert bindings to the form of ``get_keys_to_action``: pygame's key codes -> action.

    Bindings with a key of unknown code are skipped.

    Example:
        >>> key_codes({"w": 1, "up+space": 3})
        {(119,): 1, (32, 1073741906): 3}
    """
    codes = {name: code for code, name in _PYGAME_KEYS.items()}
    found = {}
    for binding, action in key_bindings.items():
        keys = [codes.get(key) or (ord(key) if len(key) == 1 else 0) for key in binding.split("+")]
        if all(keys):
            found[tuple(sorted(keys))] = action
    return found


def derive_key_bindings(
    env: gymnasium.Env[Any, Any], action_meanings: tuple[str, ...]
) -> dict[str, int]:
    """Derive key bindings from the action names, else from the environment, else use digits.

    Action names come first if all are known: arrows and space are easier to play with than the
    letters of some environments.

    Args:
        env: An environment with Discrete actions.
        action_meanings: One name for each action.

    Returns:
        Binding -> action.
    """
    declared = _declared_bindings(env)
    bindings: dict[str, int] = {}
    unknown: list[int] = []
    has_turns = any("TURN_" in word for word in action_meanings)
    for action, word in enumerate(action_meanings):
        if word.upper() in NOOP_WORDS:
            continue
        keys = _keys_of(word.upper(), has_turns)
        if keys and keys not in bindings:
            bindings[keys] = action
        else:
            unknown.append(action)
    if unknown and any(declared):
        return {keys: action for keys, action in declared.items() if keys}
    for action in unknown:
        bindings[str(action % 10) if action < 10 else f"left shift+{action % 10}"] = action
    return bindings


def find_noop_action(env: gymnasium.Env[Any, Any], action_meanings: tuple[str, ...]) -> int:
    """Return the action that does nothing, or 0 if there is none."""
    words = [word.upper() for word in action_meanings]
    for noop in NOOP_WORDS:
        if noop in words:
            return words.index(noop)
    return _declared_bindings(env).get("", 0)


def _keys_of(word: str, has_turns: bool) -> str:
    """Return the keys for an action's name, as ``left+space`` for ``MOVE_LEFT+ATTACK``, or ""."""
    keys = []
    for part in word.split("+"):
        if part in ("MOVE_LEFT", "MOVE_RIGHT"):  # strafing, if the arrows turn
            left = part == "MOVE_LEFT"
            keys.append(("a" if left else "d") if has_turns else ("left" if left else "right"))
        elif part in WORD_KEYS:
            keys.append(WORD_KEYS[part])
        elif "".join(_JOINED_WORDS.findall(part)) == part:
            keys += [WORD_KEYS[direction] for direction in _JOINED_WORDS.findall(part)]
        else:
            return ""
    return "+".join(keys)


def _declared_bindings(env: gymnasium.Env[Any, Any]) -> dict[str, int]:
    """Read ``get_keys_to_action``, whose keys are names, characters or pygame's codes.

    Its actions count from the game's first action, ours from 0.
    """
    get_keys = getattr(env.unwrapped, "get_keys_to_action", None)
    space: Any = env.action_space
    first, count = int(space.start), int(space.n)
    bindings: dict[str, int] = {}
    for keys, action in (get_keys() if get_keys else {}).items():
        names = [_key_name(key) for key in _split_keys(keys)]
        if all(names) and 0 <= int(action) - first < count:
            bindings["+".join(names)] = int(action) - first
    return bindings


def _split_keys(keys: Any) -> tuple[str | int, ...]:
    """Split a combination: ``"wa"`` is w and a, unless it is one key's name."""
    if isinstance(keys, str):
        return (keys,) if keys in _KEY_NAMES else tuple(keys)
    return tuple(keys) if isinstance(keys, Iterable) else (keys,)


def _key_name(key: str | int) -> str:
    """Return pygame's name of a key, or "" if it is unknown."""
    if isinstance(key, int):
        return _PYGAME_KEYS.get(key) or (_key_name(chr(key)) if 32 < key < 127 else "")
    if key == "+":  # it joins keys in a binding
        return ""
    return "space" if key == " " else key.lower()
