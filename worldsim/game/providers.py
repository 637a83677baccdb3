"""Families of games: the prefix of their ids, their package, and their peculiarities."""

from __future__ import annotations

import importlib
import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from worldsim.system.trust import split_env_id

ALE_FRAMES_PER_SECOND = 60

AnyEnv = gymnasium.Env[Any, Any]


class _DoomScreen(gymnasium.Wrapper[np.ndarray, int, Any, int]):
    """ViZDoom's screen, with the ends of episodes as in Gymnasium's API.

    After an end ViZDoom's screen is black; here the last screen stays. ViZDoom calls a timeout
    terminated and truncated; here it is truncated.
    """

    def __init__(self, env: AnyEnv, key: str) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = env.observation_space.spaces[key]
        self._key = key
        self._last = np.empty(0, np.uint8)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._last = observation[self._key]
        return self._last, info

    def step(self, action: int) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            self._last = observation[self._key]
        return self._last, reward, terminated and not truncated, truncated, info


def _doom_words(env: AnyEnv) -> Sequence[str]:
    game: Any = env.unwrapped
    buttons = [button.name for button in game.game.get_available_buttons()]
    return ["+".join(itertools.compress(buttons, row)) or "NOOP" for row in game.button_map]


def _doom_fps(env: AnyEnv, settings: Mapping[str, Any]) -> float:
    return float(env.metadata["render_fps"]) / int(settings.get("frame_skip", 1))


def _ale_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    skip = settings.get("frameskip")
    return {**settings, "frameskip": tuple(skip)} if isinstance(skip, list) else dict(settings)


def _ale_fps(env: AnyEnv, settings: Mapping[str, Any]) -> float:
    skip = settings.get("frameskip", 4)
    if isinstance(skip, tuple):  # drawn from low … high - 1
        skip = (skip[0] + skip[1] - 1) / 2
    return ALE_FRAMES_PER_SECOND / float(skip)


def _ale_keys(env_id: str, bindings: Mapping[str, int]) -> dict[str, int]:
    if not split_env_id(env_id)[1].startswith("ALE/Pong"):
        return dict(bindings)
    # Its paddle moves up at RIGHT and down at LEFT.
    arrows = {"up": "right", "down": "left", "up+space": "right+space", "down+space": "left+space"}
    return {**bindings, **{keys: bindings[same] for keys, same in arrows.items()}}


def _without_banner(ale_py: ModuleType) -> None:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


def _register(registration: ModuleType) -> None:
    registration.register_envs()


@dataclass(frozen=True)
class Provider:
    """A family of games."""

    prefixes: tuple[str, ...]
    """Prefixes of its ids."""
    module: str
    """The module that registers its games, or that they need."""
    package: str
    """Its name for pip."""
    extra: str = ""
    """worldsim's extra that installs it."""
    prepare: Callable[[ModuleType], None] = lambda module: None
    """Called with the module before an environment is made."""
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """Keyword arguments in JSON's types -> in those of the games."""
    frame_skip: str | None = None
    """Keyword argument that skips frames; None if a wrapper repeats the action."""
    fps: Callable[[AnyEnv, Mapping[str, Any]], float] | None = None
    """(environment, its keyword arguments) -> steps per second; None if ``render_fps`` is that."""
    action_words: Callable[[AnyEnv], Sequence[str]] | None = None
    """Names of the actions, for games without ``get_action_meanings``."""
    keys: Callable[[str, Mapping[str, int]], dict[str, int]] = lambda env_id, bindings: dict(
        bindings
    )
    """(id, key bindings from the actions' names) -> the bindings of the game."""
    screen: Callable[[AnyEnv, str], gymnasium.Env[np.ndarray, Any]] | None = None
    """(environment, key of the images in its observations) -> the images."""


PROVIDERS = (
    Provider(
        prefixes=("ALE/",),
        module="ale_py",
        package="ale-py",
        extra="atari",
        prepare=_without_banner,
        settings=_ale_settings,
        frame_skip="frameskip",
        fps=_ale_fps,
        keys=_ale_keys,
    ),
    Provider(
        prefixes=("Vizdoom",),
        module="vizdoom.gymnasium_wrapper",
        package="vizdoom",
        extra="vizdoom",
        frame_skip="frame_skip",
        fps=_doom_fps,
        action_words=_doom_words,
        screen=_DoomScreen,
    ),
    Provider(
        prefixes=("MiniGrid-", "BabyAI-"), module="minigrid", package="minigrid", extra="minigrid"
    ),
    Provider(
        prefixes=("CarRacing-",),
        module="Box2D",
        package="gymnasium[box2d]",
        extra="box2d",
        settings=lambda settings: {"continuous": False, **settings},
        action_words=lambda env: ("NOOP", "RIGHT", "LEFT", "GAS", "BRAKE"),
    ),
    Provider(prefixes=("LunarLander",), module="Box2D", package="gymnasium[box2d]", extra="box2d"),
    Provider(
        prefixes=("worldsim/",),
        module="worldsim.registration",
        package="worldsim",
        prepare=_register,
    ),
)
_ANY = Provider(prefixes=("",), module="gymnasium", package="gymnasium")


def find_provider(env_id: str) -> Provider:
    """The family of an id; an unknown id gets one without peculiarities."""
    _, name = split_env_id(env_id)
    return next((family for family in PROVIDERS if name.startswith(family.prefixes)), _ANY)


def import_provider(env_id: str) -> None:
    """Import the module that registers a family's games.

    Raises:
        ValueError: If the package is missing, with the command that installs it.
    """
    provider = find_provider(env_id)
    try:
        provider.prepare(importlib.import_module(provider.module))
    except ImportError as error:
        raise ValueError(
            f"{env_id} needs another package: pip install {shlex.quote(provider.package)}"
        ) from error
