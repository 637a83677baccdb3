"""Open what a run learns from: recordings, and folders of pictures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.data.folder import METADATA, data_folder
from worldsim.data.metadata import read_metadata
from worldsim.game.config import GameConfig
from worldsim.game.joined import join_games
from worldsim.system.location import Location

if TYPE_CHECKING:
    from worldsim.data.episodes import Episodes

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_recordings(paths: Sequence[Location]) -> list[Episodes]:
    """Open recordings and folders of pictures to train one world on.

    Recordings of several games become those of the joint game, see `join_games`. Pictures get the
    frame size of the first recording.

    Raises:
        OSError: If a file may not be read, or a URL cannot be reached; the error names it.
        ValueError: If there is no recording among them, one is damaged, or they cannot share a
            world; the error names them.
    """
    first = next(game for game in read_games(paths) if game is not None)
    recordings = [open_recording(path, first) for path in paths]
    joint, tables = join_games([recording.game for recording in recordings])
    if len(recordings) == 1:
        return recordings
    return [
        recording.in_joint_game(joint, actions)
        for recording, actions in zip(recordings, tables, strict=True)
    ]


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
        ValueError: If a path is neither a recording nor pictures, none is a recording, or they
            cannot share a world.
    """
    games = [None if holds_pictures(path) else read_metadata(path).game for path in paths]
    if found := [game for game in games if game is not None]:
        join_games(found)
    else:
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
