"""Open what a run learns from: recordings, and folders of pictures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.data.folder import METADATA, data_folder
from worldsim.data.metadata import read_metadata
from worldsim.game.config import GameConfig
from worldsim.system.location import Location

if TYPE_CHECKING:
    from worldsim.data.episodes import Episodes

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_recordings(paths: Sequence[Location]) -> list[Episodes]:
    """Open recordings and folders of pictures, which share the frame size of the first recording.

    Raises:
        OSError: If a file may not be read, or a URL cannot be reached; the error names it.
        ValueError: If there is no recording among them, or one is damaged; the error names it.
    """
    games = read_games(paths)
    first = next(game for game in games if game is not None)
    return [open_recording(path, first) for path in paths]


def open_recording(path: Location, like: GameConfig | None = None) -> Episodes:
    """Open a recording or a folder of pictures, whichever is there.

    Args:
        path: The folder. What has ``metadata.json`` is a recording; else it must hold pictures.
        like: The game whose frames pictures become; None if only a recording will do.

    Raises:
        OSError: If a file may not be read, or a URL cannot be reached; the error names it.
        ValueError: If there is neither, or it is damaged; the error names it.
    """
    if like is not None and holds_pictures(path):
        from worldsim.data.pictures import Pictures  # the decoders take a while

        return Pictures(path, like)
    from worldsim.data.recording import Recording

    return Recording(path)


def read_games(paths: Sequence[Location]) -> list[GameConfig | None]:
    """Read the game of each recording without opening it; None for a folder of pictures.

    Raises:
        OSError: If a file may not be read, or a URL cannot be reached.
        ValueError: If a path is neither a recording nor pictures, or none is a recording.
    """
    games = [None if holds_pictures(path) else read_metadata(path).game for path in paths]
    if not any(games):
        raise ValueError(
            f"{', '.join(map(str, paths))} holds pictures, which show no actions: give a recording "
            "of a game too"
        )
    return games


def holds_pictures(path: Location) -> bool:
    """Whether a folder holds pictures and no recording."""
    if not isinstance(path, Path) or (data_folder(path) / METADATA).exists():
        return False
    return bool(list_pictures(path))


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder by name, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
