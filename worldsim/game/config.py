"""GameConfig: the description of a game in recordings, worlds and the window.

It is stored as JSON, which may come from a stranger: `GameConfig.from_dict` checks every value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

from worldsim.system.options import FewFrames, Number, Range, Rule, Side, check_value, shown

DEFAULT_FRAMES_PER_SECOND = 30.0
MAX_ACTIONS = 65_536
MAX_NAME = 200  # characters
MAX_SETTINGS_DEPTH = 16  # lists in lists of env_kwargs


def is_name(value: Any) -> bool:
    """Whether a value is a text of 1 … 200 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and 0 < len(value) <= MAX_ACTIONS
    return is_list and all(map(is_name, value))


def _are_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_name(keys) and all(keys.split("+")) and type(action) is int
        for keys, action in value.items()
    )


def _are_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name.isidentifier() and _is_json(entry)
        for name, entry in value.items()
    )


def _is_json(value: Any, depth: int = 0) -> bool:
    """Whether a value is JSON that other languages read too, with printable text."""
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


Name = Annotated[str, Rule("printable text", is_name)]
Names = Annotated[
    tuple[str, ...], Rule(f"1 … {MAX_ACTIONS} printable names of actions", _are_names)
]
Keys = Annotated[dict[str, int], Rule("names of keys and numbers of actions", _are_keys)]
Settings = Annotated[
    dict[str, Any], Rule("names and JSON values, all of them printable and finite", _are_settings)
]


@dataclass(frozen=True)
class GameConfig:
    """A Gymnasium environment as frames and numbered actions; JSON keeps it unchanged.

    Example:
        >>> config = GameConfig(env_id="worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
        >>> config == GameConfig.from_dict(config.to_dict()), config.num_actions
        (True, 3)
    """

    env_id: Name
    """Gymnasium id; ``module:id`` if a module must be imported first to register it."""
    env_kwargs: Settings = field(default_factory=dict)
    """Keyword arguments for ``gymnasium.make``, as JSON values."""
    frame_size: tuple[Side, Side] = (64, 64)
    """Height and width of a frame in pixels, 8 … 4096."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    frame_skip: FewFrames | None = None
    """Game steps per recorded step; None keeps the environment's own."""
    fps: Annotated[float, Range(0.001, 10_000)] = DEFAULT_FRAMES_PER_SECOND
    """Recorded frames per second of play at the game's own speed."""
    action_meanings: Names = ()
    """One word for each action."""
    key_bindings: Keys = field(default_factory=dict)
    """Names of pygame keys, joined by + when held together, -> action."""
    noop_action: Number = 0
    """The action while no key is held."""
    scripted_policy: Name | None = None
    """``module:function`` of the game's own policy when it was described; it is never imported."""

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
            ValueError: For the first invalid value, with its key.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a game must be a JSON object, got {shown(values)}")
        for name in values:
            if name not in _TYPES:
                raise ValueError(f"a game has no {shown(name)}, it has {', '.join(_TYPES)}")
        for name in _TYPES:
            if name not in values:
                raise ValueError(f"a game must have {name}, got {shown(list(values))}")
            check_field(name, values[name])
        height, width = map(int, values["frame_size"])  # JSON lacks NumPy's numbers
        frame_skip = values["frame_skip"]
        config = cls(
            **{
                **values,
                "frame_size": (height, width),
                "frame_skip": None if frame_skip is None else int(frame_skip),
                "noop_action": int(values["noop_action"]),
                "action_meanings": tuple(values["action_meanings"]),
                "fps": float(values["fps"]),
            }
        )
        last = config.num_actions - 1
        for keys, action in {**config.key_bindings, "": config.noop_action}.items():
            if not 0 <= action <= last:
                name = "key_bindings" if keys else "noop_action"
                raise ValueError(f"{name} must be actions 0 … {last}, got {shown(action)}")
        return config


_TYPES = get_type_hints(GameConfig, include_extras=True)


def check_field(name: str, value: Any) -> None:
    """Check one JSON value of a `GameConfig`.

    Raises:
        ValueError: With the rule and the value.
    """
    check_value(name, value, _TYPES[name])
