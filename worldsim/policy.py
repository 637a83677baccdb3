"""Players: random, sticky, a game's own script, a trained agent, or anybody's function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from worldsim.game import GameConfig

Policy: TypeAlias = Callable[[np.ndarray, dict[str, Any], np.random.Generator], int]
"""(observation ``uint8`` (h w c), info, generator) -> action.

Where ``info`` holds no true state, as in a learned world, a player goes by the picture.
"""

LONGEST_STRETCH = 24
SLIPS = 0.1  # fraction of a scripted player's moves, so that recordings show mistakes too


class StickyPolicy:
    """Holds a random action for a random stretch, as a person holds a key.

    Purely random actions cancel out within a few frames; held ones reach far more of a game.
    """

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions
        self._action = 0
        self._steps_left = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return the held action, or draw another one and how long to hold it (1 to 24 steps)."""
        if self._steps_left == 0:
            self._action = int(rng.integers(self._num_actions))
            self._steps_left = int(rng.integers(1, LONGEST_STRETCH + 1))
        self._steps_left -= 1
        return self._action


def load_policy(name: str, config: GameConfig) -> Policy:
    """Make a player ready for a new episode.

    Args:
        name: ``random``, ``sticky``, ``scripted`` (the game's own, with one random move in ten),
            the folder of an agent (`worldsim agent`) or ``module:function``. Where
            ``module:name`` is a class, an instance made with no arguments is the player.
        config: The game to play.

    Raises:
        ValueError: If there is no such player, or the game has no script.
    """
    if name == "random":
        return lambda observation, info, rng: int(rng.integers(config.num_actions))
    if name == "sticky":
        return StickyPolicy(config.num_actions)
    if name == "scripted":
        if config.scripted_policy is None:
            raise ValueError(
                f"{config.env_id} brings no scripted player: use random, sticky or module:function"
            )
        player = load_policy(config.scripted_policy, config)
        return lambda observation, info, rng: (
            int(rng.integers(config.num_actions))
            if rng.random() < SLIPS
            else player(observation, info, rng)
        )
    if Path(name).is_dir():
        from worldsim.sb3 import AgentPolicy  # needs Stable-Baselines3, which is an extra

        return AgentPolicy(name, (*config.frame_size, config.channels))
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise ValueError(
            "a policy is random, sticky, scripted, the folder of an agent or module:function, got "
            f"{name!r}"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a player in the current folder, as `python -m` finds it
    try:
        policy = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ValueError(f"policy {name!r}: cannot import {module_name} ({error})") from error
    except AttributeError as error:
        raise ValueError(f"policy {name!r}: {module_name} has no {function_name}") from error
    if isinstance(policy, type):
        policy = policy()
    if not callable(policy):
        raise ValueError(f"policy {name!r} is {policy!r}, which cannot be called")
    return policy
