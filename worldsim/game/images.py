"""The images of a game: its observations, a part of them, or its rendered frames."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from worldsim.game.providers import AnyEnv, Provider

MIN_IMAGE_SIDE = 32  # smaller arrays (MiniGrid's 7 by 7 cells) are codes, not images
MIN_WHITE = 128  # a space with a smaller largest value holds codes too
IMAGE_KEYS = ("screen", "pixels", "rgb", "image")


def find_images(env: AnyEnv, env_id: str) -> str:
    """Return the source of the images: "" for the observation, a key of it, or "render".

    Raises:
        ValueError: If there are none.
    """
    space = env.observation_space
    if is_image(space):
        return ""
    if isinstance(space, spaces.Dict):
        for key in IMAGE_KEYS:
            if key in space.spaces and is_image(space.spaces[key]):
                return key
    if "rgb_array" in (env.metadata.get("render_modes") or ()):
        return "render"
    raise ValueError(
        f"{env_id} has no images: its observations are {space}{_why_none(space)}, and it cannot "
        "render rgb_array"
    )


def is_image(space: spaces.Space[Any] | None) -> bool:
    """Whether observations are images: uint8, 32 pixels or more, grey or RGB, up to white."""
    return _is_array_of_pixels(space) and _channels(space) in (1, 3) and _is_bright(space)


def as_images(
    env: AnyEnv, env_id: str, source: str, provider: Provider
) -> gymnasium.Env[np.ndarray, Any]:
    """Make the images the observations, ``uint8`` (h w c).

    Args:
        env: The environment.
        env_id: Its name in errors.
        source: The result of `find_images`.
        provider: The family of the game.

    Raises:
        ValueError: If it should render and does not return an image.
    """
    if source == "render":
        return _RenderedFrames(env, env_id)
    if source and provider.screen is not None:
        env = provider.screen(env, source)
    elif source:
        assert isinstance(env.observation_space, spaces.Dict)
        image_space = env.observation_space.spaces[source]
        env = TransformObservation(env, lambda observation: observation[source], image_space)
    if len(shape_of(env)) == 2:
        space = spaces.Box(0, 255, (*shape_of(env), 1), np.uint8)
        env = TransformObservation(env, lambda image: image[..., None], space)
    return env


def shape_of(env: AnyEnv) -> tuple[int, ...]:
    """Shape of the observations."""
    shape = env.observation_space.shape
    assert shape is not None
    return shape


class _RenderedFrames(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """A game whose observations are its rendered frames, without the alpha channel of RGBA."""

    def __init__(self, env: AnyEnv, env_id: str) -> None:
        super().__init__(env)
        self._env_id = env_id
        env.reset(seed=0)
        self._size: tuple[int, ...] = ()
        self._size = self._image().shape
        self.observation_space = spaces.Box(0, 255, self._size, np.uint8)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(**kwargs)
        return self._image(), info

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._image(), reward, terminated, truncated, info

    def _image(self) -> np.ndarray:
        rendered: Any = self.env.render()
        kind = type(rendered).__name__
        if isinstance(rendered, np.ndarray):
            kind = f"{rendered.dtype} {rendered.shape}"
            image = rendered[..., None] if rendered.ndim == 2 else rendered
            has_pixels = image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.size
            if has_pixels and image.dtype == np.uint8:
                image = np.ascontiguousarray(image[..., :3])
                if image.shape == (self._size or image.shape):
                    return image
        size = self._size or ("height", "width", 3)
        raise ValueError(
            f"{self._env_id} must render images, uint8 ({', '.join(map(str, size))}), and its "
            f"render() gives {kind}"
        )


def _is_array_of_pixels(space: spaces.Space[Any] | None) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= MIN_IMAGE_SIDE
    )


def _channels(space: spaces.Space[Any] | None) -> int:
    assert isinstance(space, spaces.Box)
    return space.shape[2] if len(space.shape) == 3 else 1


def _is_bright(space: spaces.Space[Any] | None) -> bool:
    assert isinstance(space, spaces.Box)
    return bool(space.high.max() >= MIN_WHITE)


def _why_none(space: spaces.Space[Any]) -> str:
    if not _is_array_of_pixels(space):
        return ""
    assert isinstance(space, spaces.Box)
    if _channels(space) not in (1, 3):
        return f" (RGBA or stacked frames, of {_channels(space)} channels instead of 1 or 3)"
    return f" (codes of at most {space.high.max()}, not colours)"
