"""Policies: random, sticky, a game's scripted player, a trained agent, or a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from worldsim.game.agent_policy import AgentPolicy
from worldsim.system.trust import import_named

if TYPE_CHECKING:
    from worldsim.game.config import GameConfig

Policy: TypeAlias = Callable[[np.ndarray, dict[str, Any], np.random.Generator], int]
"""(observation ``uint8`` (h w c), info, generator) -> action.

A learned world has no true state in ``info``: there a policy must act on the observation.
"""

LONGEST_STRETCH = 24  # steps that an action is held
SLIPS = 0.1  # share of random actions of a scripted policy: recordings need mistakes


class StickyPolicy:
    """Holds a random action for 1 to 24 steps, as a person holds a key.

    Independent random actions cancel out within a few frames; held ones reach more states.
    """

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions
        self._action = 0
        self._steps_left = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return the held action; after its last step, draw a new action and duration."""
        if self._steps_left == 0:
            self._action = int(rng.integers(self._num_actions))
            self._steps_left = int(rng.integers(1, LONGEST_STRETCH + 1))
        self._steps_left -= 1
        return self._action


def load_policy(name: str, config: GameConfig) -> Policy:
    """Make a policy for one episode.

    Modules and agents' folders run code, so the name must be the user's own, never from a file.
    ``scripted`` is the policy of the installed environment, not the one named in ``config``.

    Args:
        name: ``random``, ``sticky``, ``scripted`` (the game's own, with one random action in ten),
            an agent's folder (`worldsim agent`), or ``module:function``. A module may be a file in
            the current folder; ``module:Class`` makes an instance without arguments.
        config: The game to play.

    Returns:
        The policy. A module's policy raises ValueError for an invalid action and for its own
        exceptions.

    Raises:
        ValueError: If there is no such policy, or the game has no scripted one.
    """
    if name == "random":
        return lambda observation, info, rng: int(rng.integers(config.num_actions))
    if name == "sticky":
        return StickyPolicy(config.num_actions)
    if name == "scripted":
        scripted = _load_function(_script_of(config), config)
        return lambda observation, info, rng: (
            int(rng.integers(config.num_actions))
            if rng.random() < SLIPS
            else scripted(observation, info, rng)
        )
    if Path(name).is_dir():
        return AgentPolicy(name, (*config.frame_size, config.channels))
    return _load_function(name, config)


def has_script(config: GameConfig) -> bool:
    """Whether the game is installed and has a scripted policy."""
    try:
        return bool(_script_of(config))
    except ValueError:
        return False


def _script_of(config: GameConfig) -> str:
    from worldsim.game.describe import find_script  # imports Gymnasium's wrappers, which takes time

    script = find_script(config.env_id)
    if script is None:
        raise ValueError(
            f"{config.env_id} has no scripted policy: use random, sticky or module:function"
        )
    return script


def _load_function(name: str, config: GameConfig) -> Policy:
    """Import ``module:function``, and check every action that it returns."""
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise ValueError(
            "a policy is random, sticky, scripted, an agent's folder or module:function, got "
            f"{name!r}"
        )
    try:
        policy = getattr(import_named(module_name), function_name)
    except AttributeError as error:
        raise ValueError(f"policy {name!r}: {module_name} has no {function_name}") from error
    if isinstance(policy, type):
        try:
            policy = policy()
        except Exception as error:
            raise ValueError(f"policy {name!r} raised {error!r} when it was made") from error
    if not _takes_three(policy):
        raise ValueError(
            f"policy {name!r} is {policy!r:.80}, which cannot be called with (observation, info, "
            "rng)"
        )

    def play(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
        try:
            chosen = policy(observation, info, rng)
        except Exception as error:
            raise ValueError(f"policy {name!r} raised {error!r}") from error
        try:
            action = int(chosen)
            is_action = bool(action == chosen) and 0 <= action < config.num_actions
        except (TypeError, ValueError, OverflowError):
            is_action = False
        if not is_action:
            raise ValueError(
                f"policy {name!r} must return an action 0 … {config.num_actions - 1}, "
                f"got {chosen!r}"
            )
        return action

    return play


def _takes_three(policy: Any) -> bool:
    if not callable(policy):
        return False
    try:
        inspect.signature(policy).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
