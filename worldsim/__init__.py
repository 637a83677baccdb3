"""worldsim: record a game, train a world model of it, play it or step it as an environment.

The axes of every array, in docstrings and in einops patterns:

======== =====================================================================
``b``    batch
``t``    frames, always in the order of time
``c``    channels; ``h w`` height and width, in pixels or in latent cells
``n``    tokens per frame
``d``    width of a token
``a``    actions
======== =====================================================================

``frames`` and ``pixels`` are ``uint8`` (... h w c) in 0..255. ``latents`` are floats
(... c h w) in [-1, 1]. ``tau`` is the level of diffusion: 0 is pure noise, 1 is clean.
A lane is one row of a batch: an episode with its own start, seed, length and end.

Time has one convention, from recording to loss to environment::

    frames[t] --actions[t]--> frames[t+1], rewards[t], terminations[t], truncations[t]

so an episode of T actions has T + 1 frames.

Importing worldsim registers its Gymnasium environments and a fork handler, and nothing else.
torch is imported when a name below is first used.

Example:
    >>> import gymnasium
    >>> import worldsim
    >>> env = gymnasium.make("worldsim/Pong-v0")
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, observation.dtype
    ((64, 64, 3), dtype('uint8'))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worldsim.registration import register_envs
from worldsim.system import threads  # noqa: F401  # registers the fork handler

if TYPE_CHECKING:
    from worldsim.data.episode import Episode as Episode
    from worldsim.data.recording import Recording as Recording
    from worldsim.data.windows import Windows as Windows
    from worldsim.data.writer import RecordingWriter as RecordingWriter
    from worldsim.frames import latents_to_pixels as latents_to_pixels
    from worldsim.frames import pixels_to_latents as pixels_to_latents
    from worldsim.game.config import GameConfig as GameConfig
    from worldsim.game.describe import describe_game as describe_game
    from worldsim.game.describe import make_game as make_game
    from worldsim.game.policy import load_policy as load_policy
    from worldsim.model.dit import VideoDiT as VideoDiT
    from worldsim.rollout import Rollout as Rollout
    from worldsim.video.world_pipeline import WorldPipeline as WorldPipeline
    from worldsim.world_folder import load as load
    from worldsim.world_model import WorldModel as WorldModel
    from worldsim.world_model_env import WorldModelEnv as WorldModelEnv
    from worldsim.world_model_env import WorldModelVectorEnv as WorldModelVectorEnv

__version__ = "0.1.0"

_HOMES = {
    "load": "world_folder",
    "WorldModel": "world_model",
    "Rollout": "rollout",
    "WorldModelEnv": "world_model_env",
    "WorldModelVectorEnv": "world_model_env",
    "WorldPipeline": "video.world_pipeline",
    "Recording": "data.recording",
    "RecordingWriter": "data.writer",
    "Episode": "data.episode",
    "Windows": "data.windows",
    "GameConfig": "game.config",
    "describe_game": "game.describe",
    "make_game": "game.describe",
    "load_policy": "game.policy",
    "VideoDiT": "model.dit",
    "pixels_to_latents": "frames",
    "latents_to_pixels": "frames",
}
"""Public name -> its module. Type checkers read the imports above instead."""

__all__ = [*_HOMES, "register_envs", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_envs()
