"""Games as recordings see them: any Gymnasium environment as frames and numbered actions.

`describe_game` looks at an environment once and writes down what a recording, a world and a window
need to know about it; `make_game` builds that same environment again from the description.
"""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import (
    AddRenderObservation,
    GrayscaleObservation,
    RepeatAction,
    ResizeObservation,
    TransformAction,
    TransformObservation,
)

from worldsim.key_bindings import action_from_keys, derive_key_bindings, find_noop_action
from worldsim.policy import Policy, load_policy

__all__ = [
    "GameConfig",
    "Policy",
    "action_from_keys",
    "describe_game",
    "load_policy",
    "make_game",
]

ALE_FRAMES_PER_SECOND = 60
DEFAULT_FRAMES_PER_SECOND = 30.0
MIN_IMAGE_SIDE = 32  # smaller arrays (MiniGrid's 7 by 7 cells) are codes, not pictures
IMAGE_KEYS = ("screen", "pixels", "rgb", "image")

# Start of an id -> the module that registers it (or that it needs), and the package to install.
_PROVIDERS: dict[str, tuple[str, str]] = {
    "ALE/": ("ale_py", "ale-py"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "vizdoom"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "CarRacing-": ("Box2D", "'gymnasium[box2d]'"),
    "LunarLander": ("Box2D", "'gymnasium[box2d]'"),
    "worldsim/": ("worldsim.registration", "worldsim"),
}


@dataclass(frozen=True)
class GameConfig:
    """The recordable view of a Gymnasium environment; it survives JSON unchanged.

    Example:
        >>> config = GameConfig(env_id="worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
        >>> config == GameConfig.from_dict(config.to_dict()), config.num_actions
        (True, 3)
    """

    env_id: str
    """Gymnasium id; ``module:id`` imports the module that registers it first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for ``gymnasium.make``, as JSON values."""
    frame_size: tuple[int, int] = (64, 64)
    """Height and width of a frame in pixels."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    frame_skip: int | None = None
    """Game steps for one recorded step; None keeps the environment's own."""
    fps: float = DEFAULT_FRAMES_PER_SECOND
    """Recorded frames in a second of play at the game's own pace."""
    action_meanings: tuple[str, ...] = ()
    """One word for each action."""
    key_bindings: dict[str, int] = field(default_factory=dict)
    """Names of pygame keys, joined by + when held together, -> action."""
    noop_action: int = 0
    """The action while no key is held."""
    scripted_policy: str | None = None
    """``module:function`` of a player that comes with the game."""

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
        """Undo `to_dict`.

        Raises:
            TypeError: If a value is missing or not known.
        """
        height, width = values["frame_size"]
        return cls(
            **{
                **values,
                "frame_size": (int(height), int(width)),
                "action_meanings": tuple(values["action_meanings"]),
            }
        )


def describe_game(
    env_id: str,
    *,
    frame_size: tuple[int, int] = (64, 64),
    channels: int = 3,
    frame_skip: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> GameConfig:
    """Look at an environment and write down what there is to know for recording and playing it.

    Args:
        env_id: A Gymnasium id with Discrete actions and images, as observations or rendered.
        frame_size: Height and width of the frames, in pixels.
        channels: 3 for colour, 1 for grey.
        frame_skip: Game steps for one recorded step; None keeps the environment's own.
        env_kwargs: Keyword arguments for ``gymnasium.make``.

    Raises:
        ValueError: In one sentence: the id is unknown, its package is missing, actions are not
            Discrete, there are no images, or an argument is out of range.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 3 (colour) or 1 (grey), got {channels}")
    if len(frame_size) != 2 or min(frame_size) < 8:
        raise ValueError(f"frame size must be two numbers of 8 pixels or more, got {frame_size}")
    if frame_skip is not None and frame_skip < 1:
        raise ValueError(f"frame skip must be 1 or more, got {frame_skip}")
    kwargs = dict(env_kwargs or {})
    env = _make_env(env_id, kwargs, frame_skip)
    try:
        if not isinstance(env.action_space, spaces.Discrete):
            raise ValueError(
                f"{env_id} has actions {env.action_space}, but only Discrete actions can be "
                "recorded (some games have a setting for it, such as continuous=False)"
            )
        _find_images(env)
        meanings = _action_meanings(env)
        scripted_policy = env.metadata.get("scripted_policy")
        return GameConfig(
            env_id=env_id,
            env_kwargs=kwargs,
            frame_size=(int(frame_size[0]), int(frame_size[1])),
            channels=channels,
            frame_skip=frame_skip,
            fps=_frames_per_second(env, frame_skip),
            action_meanings=meanings,
            key_bindings=derive_key_bindings(env, meanings),
            noop_action=find_noop_action(env, meanings),
            scripted_policy=scripted_policy,
        )
    finally:
        env.close()


def make_game(config: GameConfig) -> gymnasium.Env[np.ndarray, int]:
    """Build the environment of a description.

    Returns:
        An environment with ``render_mode="rgb_array"``, observations ``uint8`` of shape
        (h w c) = (*config.frame_size, config.channels), and actions 0 … config.num_actions - 1.

    Raises:
        ValueError: As `describe_game`, or if the environment is no longer the described one.
    """
    env = _make_env(config.env_id, config.env_kwargs, config.frame_skip)
    space = env.action_space
    if not isinstance(space, spaces.Discrete) or int(space.n) != config.num_actions:
        raise ValueError(
            f"{config.env_id} now has actions {space}, but {config.num_actions} actions were "
            f"described ({', '.join(config.action_meanings)}): use the version it was made with"
        )
    if space.start != 0:
        start = int(space.start)
        env = TransformAction(env, lambda action: action + start, spaces.Discrete(int(space.n)))
    env = _as_images(env, _find_images(env))
    image_channels = _shape(env)[2]
    if image_channels == 3 and config.channels == 1:
        env = GrayscaleObservation(env, keep_dim=True)
    elif image_channels == 1 and config.channels == 3:
        colour_space = spaces.Box(0, 255, (*_shape(env)[:2], 3), np.uint8)
        env = TransformObservation(env, lambda image: np.repeat(image, 3, axis=2), colour_space)
    if _shape(env)[:2] != config.frame_size:
        env = ResizeObservation(env, config.frame_size)
    return env


class _DoomScreen(gymnasium.Wrapper[np.ndarray, int, Any, int]):
    """ViZDoom's screen, in an episode that ends as others do.

    ViZDoom has no screen once an episode has ended and shows black: here the last screen stays. An
    episode that ran out of time is called terminated and truncated: here it is truncated.
    """

    def __init__(self, env: gymnasium.Env[Any, int], key: str) -> None:
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


def _family(env_id: str) -> str:
    name = env_id.rpartition(":")[2]
    return next((start for start in _PROVIDERS if name.startswith(start)), "")


def _make_env(
    env_id: str, env_kwargs: Mapping[str, Any], frame_skip: int | None
) -> gymnasium.Env[Any, Any]:
    """Make the bare environment, with the frame skip inside of it."""
    with warnings.catch_warnings():
        # Said by pygame while games import it; nobody who records or plays can change it.
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Deprecated call to `pkg_resources", DeprecationWarning)
        return _make_env_loudly(env_id, env_kwargs, frame_skip)


def _make_env_loudly(
    env_id: str, env_kwargs: Mapping[str, Any], frame_skip: int | None
) -> gymnasium.Env[Any, Any]:
    family = _family(env_id)
    if family:
        module, package = _PROVIDERS[family]
        try:
            provider = importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"{env_id} needs another package: pip install {package}") from error
        if family == "ALE/":
            provider.ALEInterface.setLoggerMode(provider.LoggerMode.Error)  # no banner
        elif family == "worldsim/":
            provider.register_envs()
    kwargs = dict(env_kwargs)
    if family == "CarRacing-":
        kwargs.setdefault("continuous", False)
    repeats = frame_skip
    if family in ("ALE/", "Vizdoom") and frame_skip is not None:
        kwargs["frameskip" if family == "ALE/" else "frame_skip"] = frame_skip
        repeats = None
    try:
        if _can_render(env_id):
            kwargs["render_mode"] = "rgb_array"
        env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{env_id} needs another package: {error}") from error
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(f"there is no environment {env_id}: {error}") from error
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{env_id} cannot be made: {reason}") from error
    return RepeatAction(env, repeats) if repeats is not None and repeats > 1 else env


def _can_render(env_id: str) -> bool:
    """Say whether an environment renders arrays, as far as its class tells before it is made."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    render_modes = getattr(creator, "metadata", {}).get("render_modes", ["rgb_array"])
    return "rgb_array" in render_modes


def _is_image(space: spaces.Space[Any]) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3)))
        and min(space.shape[:2]) >= MIN_IMAGE_SIDE
    )


def _find_images(env: gymnasium.Env[Any, Any]) -> str:
    """Say where the images are: "" the observation itself, a key of it, or "render"."""
    space = env.observation_space
    if _is_image(space):
        return ""
    if isinstance(space, spaces.Dict):
        for key in IMAGE_KEYS:
            if key in space.spaces and _is_image(space.spaces[key]):
                return key
    if "rgb_array" in env.metadata.get("render_modes", ()):
        return "render"
    name = env.spec.id if env.spec else env
    raise ValueError(
        f"{name} shows no images: its observations are {space} and it cannot render rgb_array"
    )


def _as_images(env: gymnasium.Env[Any, Any], source: str) -> gymnasium.Env[np.ndarray, Any]:
    """Let the observations be the images, ``uint8`` of shape (h w c)."""
    if source == "render":
        return AddRenderObservation(env, render_only=True)
    if source:
        observation_space = env.observation_space
        assert isinstance(observation_space, spaces.Dict)
        if _family(env.spec.id if env.spec else "") == "Vizdoom":
            env = _DoomScreen(env, source)
        else:
            image_space = observation_space.spaces[source]
            env = TransformObservation(env, lambda observation: observation[source], image_space)
    if len(_shape(env)) == 2:
        space = spaces.Box(0, 255, (*_shape(env), 1), np.uint8)
        env = TransformObservation(env, lambda image: image[..., None], space)
    return env


def _shape(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    shape = env.observation_space.shape
    assert shape is not None
    return shape


def _frames_per_second(env: gymnasium.Env[Any, Any], frame_skip: int | None) -> float:
    kwargs = env.spec.kwargs if env.spec else {}
    family = _family(env.spec.id if env.spec else "")
    if family == "ALE/":
        skip = np.mean(kwargs.get("frameskip", 4))  # a pair (low, high) is drawn from
        return float(ALE_FRAMES_PER_SECOND / skip)
    fps = float(env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND)
    if family == "Vizdoom":
        return fps / int(kwargs.get("frame_skip", 1))
    return fps / (frame_skip or 1)


def _action_meanings(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """Name the actions: by the environment's own words, else ACTION_0, ACTION_1 and so on."""
    assert isinstance(env.action_space, spaces.Discrete)
    game = env.unwrapped
    count = int(env.action_space.n)
    words: list[str] = []
    if hasattr(game, "get_action_meanings"):
        words = list(game.get_action_meanings())
    elif "action_meanings" in env.metadata:
        words = list(env.metadata["action_meanings"])
    elif hasattr(game, "button_map") and hasattr(game, "game"):  # ViZDoom
        buttons = [button.name for button in game.game.get_available_buttons()]
        words = ["+".join(itertools.compress(buttons, row)) or "NOOP" for row in game.button_map]
    elif hasattr(game, "actions"):  # MiniGrid: an enumeration
        words = [str(getattr(action, "name", action)).upper() for action in game.actions]
    elif _family(env.spec.id if env.spec else "") == "CarRacing-":
        words = ["NOOP", "RIGHT", "LEFT", "GAS", "BRAKE"]
    if len(words) != count:
        words = [f"ACTION_{action}" for action in range(count)]
    return tuple(words)
