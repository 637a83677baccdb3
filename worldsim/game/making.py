"""Make the bare environment of a registered id, with the settings of its family of games."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from worldsim.game.joined import check_is_one_game
from worldsim.game.providers import AnyEnv, find_provider, import_provider
from worldsim.system.trust import check_env_id_of_file, import_named, split_env_id

RESERVED_SETTINGS = ("id", "render_mode", "disable_env_checker")  # gymnasium.make's, set here


def make_env(
    env_id: str, settings: Mapping[str, Any], frame_skip: int | None, *, trust_code: bool
) -> AnyEnv:
    """Make an environment, which renders arrays if it can.

    Args:
        env_id: A registered id, or ``module:id``.
        settings: Its keyword arguments.
        frame_skip: Game steps per step, passed to games that have a setting for it.
        trust_code: Whether the module may be imported.

    Raises:
        ValueError: If it cannot be made.
    """
    reserved = [name for name in RESERVED_SETTINGS if name in settings]
    if reserved:
        raise ValueError(f"{reserved[0]} is not a setting of {env_id}: worldsim sets it itself")
    with _without_noise():
        creator = find_creator(env_id, trust_code=trust_code)
    provider = find_provider(env_id)
    kwargs = provider.settings(settings)
    if frame_skip is not None and provider.frame_skip is not None:
        kwargs[provider.frame_skip] = frame_skip
    _, name = split_env_id(env_id)
    with _naming_lack(env_id), _without_noise():
        if "rgb_array" not in _render_modes(creator):
            return gymnasium.make(name, disable_env_checker=True, **kwargs)
        try:
            return gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array", **kwargs)
        except TypeError as error:
            if "render_mode" not in str(error):
                raise
            return gymnasium.make(name, disable_env_checker=True, **kwargs)  # it has no mode


def find_creator(env_id: str, *, trust_code: bool) -> Callable[..., Any]:
    """Find the class or function that makes the environments of an id.

    Args:
        env_id: A registered id, or ``module:id``.
        trust_code: Whether the module may be imported; otherwise it must already be.

    Raises:
        ValueError: If there is none.
    """
    check_is_one_game(env_id)
    module, name = split_env_id(env_id)
    if not trust_code:
        check_env_id_of_file(env_id)
    elif module:
        import_named(module)
    import_provider(env_id)
    with _naming_lack(env_id):
        entry_point = gymnasium.spec(name).entry_point
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if creator is None:
        raise ValueError(f"{env_id} is registered without an environment")
    return creator


def _render_modes(creator: Callable[..., Any]) -> tuple[str, ...]:
    """The render modes that an environment's class declares."""
    metadata = getattr(creator, "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, dict) else None
    return ("rgb_array",) if modes is None else tuple(modes)


@contextmanager
def _naming_lack(env_id: str) -> Iterator[None]:
    try:
        yield
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{env_id} needs another package: {_flat(error)}") from error
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(f"there is no environment {env_id}: {_flat(error)}") from error
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{env_id} cannot be made: {_flat(error)}") from error


def _flat(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _without_noise() -> Iterator[None]:
    """Silence pygame's import warnings, which a player cannot fix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Deprecated call to `pkg_resources", DeprecationWarning)
        yield
