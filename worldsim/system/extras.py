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
}
"""Module that may be missing -> what pip calls it, and the extra of worldsim that brings it."""


def find_extra(module: str) -> tuple[str, str] | None:
    """What pip calls the package of a module, and the extra that brings it; None if none does.

    Beside `EXTRAS` these are the packages of games.
    """
    from worldsim.game.providers import PROVIDERS  # brings in Gymnasium's spaces

    games = {
        family.module.partition(".")[0]: (family.package, family.extra)
        for family in PROVIDERS
        if family.extra
    }
    return {**EXTRAS, **games}.get(module)


def require(*modules: str) -> None:
    """Find out, without importing them, that modules of extras are there.

    Raises:
        ModuleNotFoundError: For the first that is missing, as its import would say it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
