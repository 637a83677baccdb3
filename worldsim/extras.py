"""Packages that only some commands need: looked for before anything slow is imported."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "pygame": ("pygame-ce", "play"),
    "wandb": ("wandb", "wandb"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "transformers": ("transformers", "video"),
    "accelerate": ("accelerate", "video"),
    "stable_baselines3": ("stable-baselines3", "rl"),
    "minari": ("minari", "minari"),
    "ale_py": ("ale-py", "atari"),
    "vizdoom": ("vizdoom", "vizdoom"),
    "minigrid": ("minigrid", "minigrid"),
    "Box2D": ("gymnasium[box2d]", "box2d"),
}
"""Module that may be missing -> what pip calls it, and the extra of worldsim that brings it."""


def require(*modules: str) -> None:
    """Find out, without importing them, that modules of extras are there.

    Raises:
        ModuleNotFoundError: For the first that is missing, as its import would say it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
