"""Optional packages: find missing ones before anything slow is imported."""

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
    "ray": ("ray[client]", "ray"),
}
"""Optional module -> its pip package and worldsim's extra."""


def find_extra(module: str) -> tuple[str, str] | None:
    """The pip package and the extra of a module of `EXTRAS` or of games, or None."""
    from worldsim.game.providers import PROVIDERS  # imports Gymnasium's spaces

    games = {
        family.module.partition(".")[0]: (family.package, family.extra)
        for family in PROVIDERS
        if family.extra
    }
    return {**EXTRAS, **games}.get(module)


def require(*modules: str) -> None:
    """Check that optional modules are installed, without importing them.

    Raises:
        ModuleNotFoundError: For the first missing one, like its import.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
