"""Any Gymnasium environment as frames and numbered actions.

`describe_game` inspects an environment and returns a `GameConfig`. `make_game` builds the same
environment from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import (
    GrayscaleObservation,
    ResizeObservation,
    TransformAction,
    TransformObservation,
)

from worldsim.game.action_names import name_actions
from worldsim.game.config import DEFAULT_FRAMES_PER_SECOND, MAX_ACTIONS, GameConfig, check_field
from worldsim.game.images import as_images, find_images, shape_of
from worldsim.game.keys import derive_key_bindings, find_noop_action
from worldsim.game.making import find_creator, make_env
from worldsim.game.providers import AnyEnv, Provider, find_provider
from worldsim.game.trial import try_game
from worldsim.system.files import one_line
from worldsim.system.trust import check_settings_of_file

__all__ = ["describe_game", "find_script", "make_game"]


def describe_game(
    env_id: str,
    *,
    frame_size: tuple[int, int] = (64, 64),
    channels: int = 3,
    frame_skip: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> GameConfig:
    """Inspect an environment and describe it for recording and playing.

    The game is reset and stepped once or twice, so that a game that cannot be recorded fails here.

    Args:
        env_id: A Gymnasium id with Discrete actions and images, as observations or rendered.
            ``module:id`` imports the module first, from the environment or the current folder.
        frame_size: Height and width of the frames, in pixels, 8 … 4096.
        channels: 3 for colour, 1 for grey.
        frame_skip: Game steps per recorded step, 1 … 1000; None keeps the environment's own.
        env_kwargs: Keyword arguments for ``gymnasium.make``, of JSON's types.

    Raises:
        ValueError: If the id is unknown, its package is missing, or an argument is out of range.
            If its actions are not Discrete, it has no images, or it breaks Gymnasium's API.
    """
    requested = {
        "env_id": env_id,
        "env_kwargs": _with_lists(dict(env_kwargs or {})),
        "frame_size": frame_size,
        "channels": channels,
        "frame_skip": frame_skip,
    }
    for name, value in requested.items():
        check_field(name, value)
    with (
        _naming_faults(env_id),
        closing(make_env(env_id, requested["env_kwargs"], frame_skip, trust_code=True)) as env,
    ):
        provider = find_provider(env_id)
        if not isinstance(env.action_space, spaces.Discrete):
            raise ValueError(
                f"{env_id} has actions {env.action_space}, but only Discrete actions can be "
                "recorded (some games have a setting for it, such as continuous=False)"
            )
        if env.action_space.n > MAX_ACTIONS:
            raise ValueError(
                f"{env_id} has {env.action_space.n} actions, and at most {MAX_ACTIONS:,} can be "
                "recorded"
            )
        try_game(env, env_id, find_images(env, env_id))
        meanings = name_actions(env, provider)
        config = GameConfig.from_dict(
            {
                **requested,
                "fps": _frames_per_second(env, provider, frame_skip),
                "action_meanings": meanings,
                "key_bindings": provider.keys(env_id, derive_key_bindings(env, meanings)),
                "noop_action": find_noop_action(env, meanings),
                "scripted_policy": find_script(env_id, trust_code=True),
            }
        )
        _as_described(env, config)
    return config


def make_game(config: GameConfig, *, trust_code: bool = False) -> gymnasium.Env[np.ndarray, int]:
    """Build the environment of a description.

    Args:
        config: A description, which may come from a stranger's world or recording.
        trust_code: Whether the module of ``module:id`` may be imported, and settings may name
            files and programs. Otherwise the module must already be imported.

    Returns:
        An environment with ``render_mode="rgb_array"``, observations ``uint8`` of shape
        (h w c) = (*config.frame_size, config.channels), and actions 0 … config.num_actions - 1.

    Raises:
        ValueError: As `describe_game`, or if the environment differs from the description or
            needs trust.
    """
    if not trust_code:
        check_settings_of_file(config.env_id, config.env_kwargs)
    with _naming_faults(config.env_id):
        env = make_env(config.env_id, config.env_kwargs, config.frame_skip, trust_code=trust_code)
        try:
            return _as_described(env, config)
        except Exception:
            env.close()
            raise


def find_script(env_id: str, *, trust_code: bool = False) -> str | None:
    """Return the name of a registered environment's scripted policy.

    Args:
        env_id: The game.
        trust_code: As for `make_game`.

    Returns:
        ``module:function``, from ``scripted_policy`` in the metadata of the environment's class,
        or None.

    Raises:
        ValueError: If there is no such environment, or it needs trust.
    """
    metadata = getattr(find_creator(env_id, trust_code=trust_code), "metadata", None)
    script = metadata.get("scripted_policy") if isinstance(metadata, dict) else None
    return None if script is None else str(script)


def _as_described(env: AnyEnv, config: GameConfig) -> gymnasium.Env[np.ndarray, int]:
    """Wrap a bare environment so that it has the frames and actions of a description."""
    space = env.action_space
    if not isinstance(space, spaces.Discrete) or int(space.n) != config.num_actions:
        names = ", ".join(config.action_meanings[:20])
        raise ValueError(
            f"{config.env_id} now has actions {space}, but {config.num_actions} actions were "
            f"described ({names}): use the version it was described with"
        )
    # Actions first: they begin at 0 and may be repeated.
    provider = find_provider(config.env_id)
    if config.frame_skip is not None and config.frame_skip > 1 and provider.frame_skip is None:
        env = RepeatAction(env, config.frame_skip)
    if space.start != 0:
        start = int(space.start)
        env = TransformAction(env, lambda action: action + start, spaces.Discrete(int(space.n)))
    # Then the images, in the channels and the size of the description.
    env = as_images(env, config.env_id, find_images(env, config.env_id), provider)
    image_channels = shape_of(env)[2]
    if image_channels == 3 and config.channels == 1:
        env = GrayscaleObservation(env, keep_dim=True)
    elif image_channels == 1 and config.channels == 3:
        colour_space = spaces.Box(0, 255, (*shape_of(env)[:2], 3), np.uint8)
        env = TransformObservation(env, lambda image: np.repeat(image, 3, axis=2), colour_space)
    if shape_of(env)[:2] != config.frame_size:
        env = ResizeObservation(env, config.frame_size)
        if config.channels == 1:  # Gymnasium 1.2 loses the axis
            shape = shape_of(env)
            space = env.observation_space
            env = TransformObservation(env, lambda image: image.reshape(shape), space)
    return env


class RepeatAction(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action and adds up the rewards, until the episode ends."""

    def __init__(self, env: AnyEnv, num_repeats: int) -> None:
        super().__init__(env)
        self._num_repeats = num_repeats

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._num_repeats):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def _frames_per_second(env: AnyEnv, provider: Provider, frame_skip: int | None) -> float:
    if provider.fps is not None:
        return provider.fps(env, env.spec.kwargs if env.spec else {})
    fps = env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND
    fps = float(fps) if isinstance(fps, Real) else fps  # numpy's numbers too
    check_field("fps", fps)
    return fps / (frame_skip or 1)


def _with_lists(value: Any) -> Any:
    """Replace tuples, which JSON lacks, by lists."""
    if isinstance(value, dict):
        return {name: _with_lists(entry) for name, entry in value.items()}
    return [_with_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


@contextmanager
def _naming_faults(env_id: str) -> Iterator[None]:
    """Turn any error of a game's own code into one sentence."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{env_id} fails ({type(error).__name__}: {one_line(error)}): "
            "WORLDSIM_TRACEBACK=1 shows where"
        ) from error
