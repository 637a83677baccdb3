"""Trust: names in files are only looked up, names given by the user are imported.

Worlds and recordings may come from strangers. A name in their files is compared with imported
modules, and never causes an import. Names on the command line and in calls are the user's own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from worldsim.system.files import one_line

LOCATIONS = ("path", "file", "folder", "dir", "directory", "url", "module", "command", "args")
"""Ends of names of settings that hold paths or programs, without case and _."""


def import_named(module: str) -> ModuleType:
    """Import a module named by the user, from the environment or the current folder.

    Args:
        module: Its name, such as ``mygames`` or ``my_package.games``.

    Raises:
        ValueError: If it does not exist or fails to import.
    """
    folder = os.getcwd()  # noqa: PTH109  # as text, for sys.path
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file in it hides an installed module
    importlib.invalidate_caches()
    try:
        if not _is_module_name(module):
            raise ImportError("not a module's name")
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module} ({one_line(error)}): install it, or start worldsim in its "
            "folder"
        ) from error
    except Exception as error:  # its own code
        raise ValueError(
            f"cannot import {module} ({type(error).__name__}: {one_line(error)}): "
            "WORLDSIM_TRACEBACK=1 shows where"
        ) from error


def split_env_id(env_id: str) -> tuple[str, str]:
    """Split ``module:id`` into the module, "" if there is none, and the registered id.

    Example:
        >>> split_env_id("mygames:my/Base-v0"), split_env_id("ALE/Pong-v5")
        (('mygames', 'my/Base-v0'), ('', 'ALE/Pong-v5'))
    """
    module, _, name = env_id.rpartition(":")
    return module, name


def check_env_id_of_file(env_id: str) -> None:
    """Raise for an id in a file whose module is not imported yet.

    Raises:
        ValueError: With a way to allow the module.
    """
    module, _ = split_env_id(env_id)
    if not module or sys.modules.get(module) is not None:
        return
    if not _is_module_name(module):
        raise ValueError(f"{env_id!r} in a file must be an id or module:id")
    raise ValueError(
        f"{env_id} needs the module {module}, which is not imported because a file names it: if "
        f"you trust it, run `worldsim --import {module} ...`, or pass trust_code=True in Python"
    )


def check_settings_of_file(env_id: str, settings: Mapping[str, Any]) -> None:
    """Raise for settings in a file that could name code, or files for the game to read.

    Numbers, true, false, null and words of letters, digits, ``_``, ``-`` and spaces are allowed.
    Text under a name such as ``xml_file`` or ``game_args`` is not.

    Args:
        env_id: The game.
        settings: Its keyword arguments.

    Raises:
        ValueError: For the first other setting, with its name.
    """
    for name, value in settings.items():
        if not _is_harmless(value, is_location=_names_location(name)):
            raise ValueError(
                f"{env_id} has the setting {name}={value!r} in a file, which may only set numbers "
                "and plain words: if you trust it, pass trust_code=True to make_game"
            )


def _is_harmless(value: Any, *, is_location: bool) -> bool:
    if isinstance(value, str):
        return not is_location and _is_plain(value)
    if isinstance(value, Mapping):
        return all(
            _is_plain(name)
            and _is_harmless(entry, is_location=is_location or _names_location(name))
            for name, entry in value.items()
        )
    if isinstance(value, list | tuple):
        return all(_is_harmless(entry, is_location=is_location) for entry in value)
    return value is None or isinstance(value, bool | int | float)


def _names_location(name: str) -> bool:
    return name.lower().replace("_", "").endswith(LOCATIONS)


def _is_plain(text: str) -> bool:
    """Whether text is words only: no path, no module:name, no option of a program."""
    return not text.startswith("-") and all(c.isalnum() or c in " _-" for c in text)


def _is_module_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))
