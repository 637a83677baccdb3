"""Packages that only some commands need: looked for before anything slow is imported."""

from __future__ import annotations

from importlib.util import find_spec


def require(*modules: str) -> None:
    """Find out, without importing them, that modules of extras are there.

    Raises:
        ModuleNotFoundError: For the first that is missing, as its import would say it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
