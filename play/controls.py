"""The window's own keys, which never take a key from the game."""

from __future__ import annotations

from collections.abc import Mapping

CONTROLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "overlay": ("hide this panel", ("tab", "f1")),
    "pause": ("pause", ("p", "f2")),
    "step": ("single step", ("n", "f3")),
    "restart": ("restart", ("r", "f4")),
    "slower": ("slower", (",", "f5")),
    "faster": ("faster", (".", "f6")),
    "fewer_passes": ("fewer passes", ("-", "f7")),
    "more_passes": ("more passes", ("=", "f8")),
    "switch": ("world / real game", ("g", "f9")),
    "take_over": ("take over / hand back", ("h", "f11")),
    "prompt": ("write a prompt", ("t", "insert")),
    "screenshot": ("screenshot", ("c", "f10")),
    "quit": ("quit", ("escape", "f12")),
}
"""Control -> (label in the panel, key names in pygame: a handy one and a key that games leave)."""


def assign_controls(key_bindings: Mapping[str, int]) -> dict[str, str]:
    """Give each control its keys, except those that the game uses.

    Args:
        key_bindings: The game's bindings: ``"up"`` or ``"up+space"`` -> action.

    Returns:
        Pygame key name -> name of a control in :data:`CONTROLS`, in the table's order.

    Example:
        >>> keys = assign_controls({"left": 0, "p": 1})
        >>> keys["f2"], "p" in keys
        ('pause', False)
    """
    taken = {key for combination in key_bindings for key in combination.split("+")}
    return {
        key: control for control, (_, keys) in CONTROLS.items() for key in keys if key not in taken
    }


def keys_by_control(controls: Mapping[str, str]) -> dict[str, list[str]]:
    """Invert ``key -> control``: the keys of each control that has one, the handy one first."""
    keys: dict[str, list[str]] = {}
    for key, control in controls.items():
        keys.setdefault(control, []).append(key)
    return keys
