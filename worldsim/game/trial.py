"""A game tried for a step, so that one that cannot be recorded is said before an episode begins."""

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
    """Reset and step an environment, as Gymnasium's API has it.

    Args:
        env: An environment as ``gymnasium.make`` makes it, with Discrete actions.
        env_id: What to call it.
        source: Where its images are, of `worldsim.game.images.find_images`.

    Raises:
        ValueError: In one sentence that says which part of the API it does not follow.
    """
    assert isinstance(env.action_space, spaces.Discrete)
    action = int(env.action_space.start)
    begun, _ = _call(env_id, "reset(seed=0)", RESET, lambda: env.reset(seed=0))
    observation, reward, terminated, truncated, _ = _call(
        env_id, f"step({action})", STEP, lambda: env.step(action)
    )
    for shown in (begun, observation):
        if source == "":
            _check_picture(shown, env.observation_space, env_id)
        elif source != "render":
            assert isinstance(env.observation_space, spaces.Dict)
            _check_picture(shown[source], env.observation_space.spaces[source], env_id)
    if np.ndim(reward) or not isinstance(reward, int | float | np.number | np.bool_ | np.ndarray):
        raise ValueError(
            f"{env_id} must give rewards that are single numbers, got {reward!r}"
            + (f" of shape {np.shape(reward)}" if np.ndim(reward) else "")
        )
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, int | np.integer | np.bool_):
            raise ValueError(f"{env_id} must give {name} as True or False, got {flag!r}")


def _check_picture(picture: Any, space: spaces.Space[Any], env_id: str) -> None:
    found = f"{getattr(picture, 'dtype', type(picture).__name__)} {np.shape(picture)}"
    if found != f"{space.dtype} {space.shape}":
        raise ValueError(
            f"{env_id} must show {space.dtype} {space.shape}, as its observation space says, and "
            f"shows {found}"
        )


def _call(env_id: str, call: str, must: str, function: Callable[[], Any]) -> Any:
    """Call and count what comes back.

    Libraries of wrappers unpack it on the way, so a wrong number may be an error from inside.
    """
    rule = f"{env_id} does not follow Gymnasium's API: {call} must give {must}"
    try:
        result = function()
    except Exception as error:
        raise ValueError(
            f"{rule}, and it raises {type(error).__name__}: {one_line(error)}"
        ) from error
    wanted = must.count(",") + 1
    if not isinstance(result, tuple) or len(result) != wanted:
        count = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise ValueError(f"{rule}, and it gives {count}")
    if not isinstance(result[-1], dict):
        raise ValueError(f"{rule}, and its info is {type(result[-1]).__name__}")
    return result
