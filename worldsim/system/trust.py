"""Data never names code: what a file names is looked up, what the user names is imported.

Worlds and recordings come from strangers. A name in their files is compared with what is installed
and imported already, and never leads to an import. Names on the command line and in calls are the
user's own, and may.
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
"""How the names of settings end that hold places and programs; case and _ do not count."""


def import_named(module: str) -> ModuleType:
    """Import a module that the user has named, from the environment or the current folder.

    Args:
        module: Its name, such as ``mygames`` or ``my_package.games``.

    Raises:
        ValueError: In one sentence, if there is no such module or it lacks another one.
    """
    folder = os.getcwd()  # noqa: PTH109  # as text, for sys.path
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that nothing in the folder hides what is installed
    importlib.invalidate_caches()
    try:
        if not _is_module_name(module):
            raise ImportError("no name of a module")
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module} ({one_line(error)}): install it, or start worldsim in the "
            "folder that it is in"
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
    """Refuse an id in a file whose module nobody has imported.

    Raises:
        ValueError: In one sentence that says how to allow the module.
    """
    module, _ = split_env_id(env_id)
    if not module or sys.modules.get(module) is not None:
        return
    if not _is_module_name(module):
        raise ValueError(f"{env_id!r} in a file must be an id or module:id, and names no module")
    raise ValueError(
        f"{env_id} needs the module {module}, and a module that a file names is never imported "
        f"by itself: if you trust it, run `worldsim --import {module} ...`, or in Python "
        f"`import {module}` or pass trust_code=True"
    )


def check_settings_of_file(env_id: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings in a file that could name code, or files for the game to read.

    Numbers, true, false, null and words of letters, digits, ``_``, ``-`` and spaces are taken; text
    under a name such as ``xml_file`` or ``game_args`` is not.

    Args:
        env_id: The game.
        settings: Its keyword arguments.

    Raises:
        ValueError: In one sentence that names the setting.
    """
    for name, value in settings.items():
        if not _is_harmless(value, is_location=_names_location(name)):
            raise ValueError(
                f"{env_id} has the setting {name}={value!r} in a file, and a file may set numbers "
                "and plain words alone, no places or programs: if you trust it, pass "
                "trust_code=True to make_game"
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
    """Whether text is words: no path, no module:name, no option of a program."""
    return not text.startswith("-") and all(c.isalnum() or c in " _-" for c in text)


def _is_module_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))
