"""GameConfig: what a recording, a world and a window need to know about a game.

It is stored as JSON beside data that strangers share, so `GameConfig.from_dict` checks every value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from worldsim.options import shown

DEFAULT_FRAMES_PER_SECOND = 30.0
MAX_ACTIONS = 65_536
MAX_NAME = 200  # characters
MAX_SETTINGS_DEPTH = 16  # lists in lists of env_kwargs


@dataclass(frozen=True)
class GameConfig:
    """The recordable view of a Gymnasium environment; it survives JSON unchanged.

    Example:
        >>> config = GameConfig(env_id="worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
        >>> config == GameConfig.from_dict(config.to_dict()), config.num_actions
        (True, 3)
    """

    env_id: str
    """Gymnasium id; ``module:id`` where a module must be imported first to register it."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for ``gymnasium.make``, as JSON values."""
    frame_size: tuple[int, int] = (64, 64)
    """Height and width of a frame in pixels, 8 … 4096."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    frame_skip: int | None = None
    """Game steps for one recorded step; None keeps the environment's own."""
    fps: float = DEFAULT_FRAMES_PER_SECOND
    """Recorded frames in a second of play at the game's own pace."""
    action_meanings: tuple[str, ...] = ()
    """One word for each action."""
    key_bindings: dict[str, int] = field(default_factory=dict)
    """Names of pygame keys, joined by + when held together, -> action."""
    noop_action: int = 0
    """The action while no key is held."""
    scripted_policy: str | None = None
    """``module:function`` of the game's own player when it was described; it is never imported."""

    @property
    def num_actions(self) -> int:
        """Number of actions; they are 0 … num_actions - 1."""
        return len(self.action_meanings)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **asdict(self),
            "frame_size": list(self.frame_size),
            "action_meanings": list(self.action_meanings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GameConfig:
        """Undo `to_dict`, and check every value.

        Args:
            values: JSON values, of all fields.

        Raises:
            ValueError: In one sentence that names the key and its value.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a game must be a JSON object, got {shown(values)}")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"a game has no {shown(name)}, it has {', '.join(names)}")
        for name in names:
            if name not in values:
                raise ValueError(f"a game must have {name}, got {shown(list(values))}")
        meanings = values["action_meanings"]
        num_actions = len(meanings) if isinstance(meanings, list | tuple) else 0
        for name in names:
            check_value(name, values[name], num_actions)
        return cls(
            **{
                **values,
                "frame_size": tuple(values["frame_size"]),
                "action_meanings": tuple(values["action_meanings"]),
                "fps": float(values["fps"]),
            }
        )


def check_value(name: str, value: Any, num_actions: int = 0) -> None:
    """Check one value of a `GameConfig`.

    Args:
        name: The field.
        value: Its value, as JSON has it.
        num_actions: Number of actions, for fields that hold actions.

    Raises:
        ValueError: In one sentence with the rule and the value.
    """
    rule = _RULES[name]
    if not rule.holds(value, num_actions):
        words = rule.words.format(last=num_actions - 1)
        raise ValueError(f"{name} must be {words}, got {shown(value)}")


def is_name(value: Any) -> bool:
    """Whether a value is text that can be shown: 1 … 200 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


class _Rule(NamedTuple):
    words: str
    holds: Callable[[Any, int], bool]
    """(value, number of actions) -> whether the value serves."""


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name.isidentifier() and _is_json(entry)
        for name, entry in value.items()
    )


def _is_json(value: Any, depth: int = 0) -> bool:
    """Whether a value is JSON that another language reads too, with printable text."""
    if depth > MAX_SETTINGS_DEPTH:
        return False
    if isinstance(value, dict):
        keys = all(isinstance(key, str) and key.isprintable() for key in value)
        return keys and all(_is_json(entry, depth + 1) for entry in value.values())
    if isinstance(value, list | tuple):
        return all(_is_json(entry, depth + 1) for entry in value)
    if isinstance(value, str):
        return value.isprintable()
    if type(value) is int:
        return abs(value) < 2**63
    return value is None or type(value) is bool or (type(value) is float and math.isfinite(value))


def _is_size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(_is_whole(side, 8, 4096) for side in value)


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= MAX_ACTIONS
        and all(map(is_name, value))
    )


def _are_bindings(value: Any, count: int) -> bool:
    return isinstance(value, dict) and all(
        is_name(keys) and all(keys.split("+")) and _is_whole(action, 0, count - 1)
        for keys, action in value.items()
    )


_RULES = {
    "env_id": _Rule("printable text", lambda value, _: is_name(value)),
    "env_kwargs": _Rule(
        "names and JSON values, all of them printable and finite",
        lambda value, _: _is_settings(value),
    ),
    "frame_size": _Rule(
        "two numbers of pixels, height and width, 8 … 4096", lambda value, _: _is_size(value)
    ),
    "channels": _Rule(
        "3 (colour) or 1 (grey)", lambda value, _: type(value) is int and value in (1, 3)
    ),
    "frame_skip": _Rule(
        "1 … 1000 game steps, or null for the game's own number",
        lambda value, _: value is None or _is_whole(value, 1, 1000),
    ),
    "fps": _Rule(
        "0.001 … 10000 frames a second",
        lambda value, _: type(value) in (int, float) and 0.001 <= value <= 10_000,
    ),
    "action_meanings": _Rule(
        f"1 … {MAX_ACTIONS} printable names of actions", lambda value, _: _are_names(value)
    ),
    "key_bindings": _Rule("names of keys and actions 0 … {last}", _are_bindings),
    "noop_action": _Rule(
        "an action 0 … {last}", lambda value, count: _is_whole(value, 0, count - 1)
    ),
    "scripted_policy": _Rule(
        "printable text or null", lambda value, _: value is None or is_name(value)
    ),
}
