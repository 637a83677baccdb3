"""Which keys a person holds for which action.

A binding is names of keys as pygame spells them, joined by ``+`` when they are held together:
``"up"``, ``"up+space"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gymnasium

    from worldsim.game_config import GameConfig

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
"""Names of pygame's keys of more than one character, as far as games declare them."""
_PYGAME_KEYS = {  # codes of keys that are no characters, as gymnasium.utils.play uses them
    1073741903: "right", 1073741904: "left", 1073741905: "down", 1073741906: "up",
    8: "backspace", 9: "tab", 13: "return", 27: "escape", 32: "space", 1073741912: "enter",
    1073742048: "left ctrl", 1073742049: "left shift", 1073742050: "left alt",
    1073742052: "right ctrl", 1073742053: "right shift", 1073742054: "right alt",
}  # fmt: skip


def action_from_keys(held: Set[str], config: GameConfig) -> int:
    """Find the action of the keys that are held.

    Args:
        held: Names of keys as pygame spells them.
        config: The game; of the bindings whose keys are all held, the one of most keys wins.

    Returns:
        An action, ``config.noop_action`` if no binding matches.

    Example:
        >>> from worldsim.game_config import GameConfig
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
    """Turn bindings into what ``get_keys_to_action`` gives: pygame's codes of keys -> action.

    A binding with a key that has no code here is left out.

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
    """Bind keys: from the words of the actions, else as the environment says, else digits.

    Words win where each of them is known, for arrows and space lie better in the hand than the
    letters that some environments declare.
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
    """Find the action that does nothing; 0 where there is none."""
    words = [word.upper() for word in action_meanings]
    for noop in NOOP_WORDS:
        if noop in words:
            return words.index(noop)
    return _declared_bindings(env).get("", 0)


def _keys_of(word: str, has_turns: bool) -> str:
    """Name the keys of one action's word: ``MOVE_LEFT+ATTACK`` is ``left+space``; "" if unknown."""
    keys = []
    for part in word.split("+"):
        if part in ("MOVE_LEFT", "MOVE_RIGHT"):  # strafing, where the arrows already turn
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
    """Read ``get_keys_to_action``, whose keys are strings, characters, or pygame's codes.

    Its actions have the game's own numbers, of which ours, 0 … n-1, may be shifted.
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
    """Split what is held together: ``"wa"`` is w and a, where it is no name of a key."""
    if isinstance(keys, str):
        return (keys,) if keys in _KEY_NAMES else tuple(keys)
    return tuple(keys) if isinstance(keys, Iterable) else (keys,)


def _key_name(key: str | int) -> str:
    """Name a key as pygame does; "" if it has no name here."""
    if isinstance(key, int):
        return _PYGAME_KEYS.get(key) or (_key_name(chr(key)) if 32 < key < 127 else "")
    if key == "+":  # which joins keys
        return ""
    return "space" if key == " " else key.lower()
