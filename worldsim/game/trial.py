"""A trial step of a game, so that a faulty game fails before anything is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from worldsim.game.providers import AnyEnv
from worldsim.system.files import one_line

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"


def try_game(env: AnyEnv, env_id: str, source: str) -> None:
    """Reset and step an environment, and check the results against Gymnasium's API.

    Args:
        env: An environment of ``gymnasium.make`` with Discrete actions.
        env_id: Its name in errors.
        source: The result of `worldsim.game.images.find_images`.

    Raises:
        ValueError: For the first part of the API that it breaks.
    """
    assert isinstance(env.action_space, spaces.Discrete)
    action = int(env.action_space.start)
    first, _ = _call(env_id, "reset(seed=0)", RESET, lambda: env.reset(seed=0))
    observation, reward, terminated, truncated, _ = _call(
        env_id, f"step({action})", STEP, lambda: env.step(action)
    )
    for one in (first, observation):
        if source == "":
            _check_image(one, env.observation_space, env_id)
        elif source != "render":
            assert isinstance(env.observation_space, spaces.Dict)
            _check_image(one[source], env.observation_space.spaces[source], env_id)
    if np.ndim(reward) or not isinstance(reward, int | float | np.number | np.bool_ | np.ndarray):
        raise ValueError(
            f"{env_id} must give rewards that are single numbers, got {reward!r}"
            + (f" of shape {np.shape(reward)}" if np.ndim(reward) else "")
        )
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, int | np.integer | np.bool_):
            raise ValueError(f"{env_id} must give {name} as True or False, got {flag!r}")


def _check_image(image: Any, space: spaces.Space[Any], env_id: str) -> None:
    found = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
    if found != f"{space.dtype} {space.shape}":
        raise ValueError(
            f"{env_id} must give {space.dtype} {space.shape}, as in its observation space, and "
            f"gives {found}"
        )


def _call(env_id: str, call: str, must: str, function: Callable[[], Any]) -> Any:
    """Call, and check the number of values; a wrapper may raise on a wrong number first."""
    rule = f"{env_id} does not follow Gymnasium's API: {call} must give {must}"
    try:
        result = function()
    except Exception as error:
        raise ValueError(
            f"{rule}, and it raises {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(result, tuple) or len(result) != must.count(",") + 1:
        count = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise ValueError(f"{rule}, and it gives {count}")
    if not isinstance(result[-1], dict):
        raise ValueError(f"{rule}, and its info is {type(result[-1]).__name__}")
    return result
