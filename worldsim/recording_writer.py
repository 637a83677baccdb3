"""Writing recordings: shards as episodes end, links and metadata for Minari around them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import numpy as np

from worldsim.game_config import GameConfig
from worldsim.options import Range, check_value
from worldsim.shard import (
    Episode,
    encode_links,
    encode_shard,
    list_shards,
    read_attributes,
    shard_name,
    write_whole,
)

MINARI_VERSION = "0.5.4"  # the version whose format this is
FORMAT = 1
EpisodeNumber = Annotated[int, Range(0, 99_999_999)]  # what a shard's name has digits for


class RecordingWriter:
    """Adds episodes to a recording, new or begun.

    Several processes may write into one recording as long as they give different episode numbers;
    one of them calls `update_index` (or `close`) at the end.

    Args:
        path: Folder of the recording.
        game: The game that is recorded.
        settings: JSON values that a continued recording must share, such as seed and policy.

    Raises:
        ValueError: If the folder holds a recording of another game or other settings.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        game: GameConfig,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.game = game
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self._data = self.path / "data"
        self._shards = self._data / "shards"
        self.steps_asked = 0
        """The most steps that this recording was ever asked to have; kept in the metadata."""
        self._steps: dict[int, int] = {}
        if (self._data / "metadata.json").exists():
            begun = read_metadata(self.path)["worldsim"]
            self._check_same(begun)
            self.steps_asked = begun["steps_asked"]
            self.settings = {**begun["settings"], **self.settings}
        self._shards.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> RecordingWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, so that what was written before an error is readable too."""
        self.close()

    def write_episode(self, episode: Episode, number: int | None = None) -> int:
        """Write one episode as a shard; it is there as a whole or not at all.

        Args:
            episode: Frames of the game's size and channels.
            number: Place in the recording; None takes the one after the last.

        Returns:
            The episode's number.

        Raises:
            ValueError: If frames or actions do not fit the game, or there is no such number.
            OSError: If the disk is full.
        """
        shape = (*self.game.frame_size, self.game.channels)
        if episode.frames.dtype != np.uint8 or episode.frames.shape[1:] != shape:
            raise ValueError(
                f"frames must be uint8 of shape (t+1, {shape[0]}, {shape[1]}, {shape[2]}), "
                f"got {episode.frames.dtype} {episode.frames.shape}"
            )
        if not 0 <= episode.actions.min() <= episode.actions.max() < self.game.num_actions:
            raise ValueError(
                f"actions must be 0 … {self.game.num_actions - 1}, "
                f"got {episode.actions.min()} … {episode.actions.max()}"
            )
        check_value("number", number, EpisodeNumber | None)
        if number is None:
            number = max(list_shards(self._shards), default=-1) + 1
        write_whole(self.shard_path(number), encode_shard(episode, number))
        self._steps[number] = len(episode.actions)
        return number

    def shard_path(self, number: int) -> Path:
        """Return where the episode of this number is or will be."""
        return self._shards / shard_name(number)

    def episode_steps(self) -> dict[int, int]:
        """Return the steps of each finished episode by its number, in order.

        Raises:
            ValueError: If a shard is damaged; the error names it.
        """
        shards = list_shards(self._shards)
        for number, shard in shards.items():
            if number not in self._steps:
                self._steps[number] = read_attributes(shard)["total_steps"]
        self._steps = {number: self._steps[number] for number in shards}
        return dict(self._steps)

    def episode_seed(self, number: int) -> int | None:
        """Return the seed of a finished episode, None if it had none.

        Raises:
            ValueError: If its shard is damaged; the error names it.
        """
        seed = read_attributes(self.shard_path(number)).get("seed")
        return None if seed is None else int(seed)

    def delete_episode(self, number: int) -> None:
        """Remove one episode; the links follow at the next `update_index`."""
        self.shard_path(number).unlink(missing_ok=True)

    def update_index(self) -> None:
        """Write the links and the metadata that Minari reads, from the shards that are there."""
        steps = self.episode_steps()
        height, width = self.game.frame_size
        shape = (height, width, self.game.channels)
        size = sum(self.shard_path(number).stat().st_size for number in steps)
        metadata = {
            "dataset_id": _minari_id(self.path),
            "minari_version": MINARI_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": len(steps),
            "total_steps": sum(steps.values()),
            "dataset_size": round(size / 1e6, 1),
            "observation_space": json.dumps(
                {
                    "type": "Box",
                    "dtype": "uint8",
                    "shape": shape,
                    "low": np.zeros(shape, int).tolist(),
                    "high": np.full(shape, 255).tolist(),
                }
            ),
            "action_space": json.dumps(
                {"type": "Discrete", "dtype": "int64", "start": 0, "n": self.game.num_actions}
            ),
            "worldsim": {
                "format": FORMAT,
                "game": self.game.to_dict(),
                "settings": self.settings,
                "steps_asked": self.steps_asked,
            },
        }
        # The links first: metadata that counts fewer episodes than are linked is still right.
        write_whole(self._data / "main_data.hdf5", encode_links([*map(self.shard_path, steps)]))
        write_whole(self._data / "metadata.json", json.dumps(metadata).encode())

    def close(self) -> None:
        """Write links and metadata; the writer may be used again."""
        self.update_index()

    def _check_same(self, old: Mapping[str, Any]) -> None:
        pairs = {
            **{name: (old["game"].get(name), new) for name, new in self.game.to_dict().items()},
            **{name: (old["settings"].get(name), new) for name, new in self.settings.items()},
        }
        for name, (before, now) in pairs.items():
            if json.loads(json.dumps(before)) != json.loads(json.dumps(now)):
                raise ValueError(
                    f"{self.path} was recorded with {name} {before!r}, not {now!r}: "
                    "give the settings it was begun with, or another folder"
                )


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a recording, a folder.

    Raises:
        ValueError: If there is none, or it is damaged or of another format.
    """
    file = path / "data" / "metadata.json"
    if not file.is_file():
        raise ValueError(f"{path} is no recording: there is no {file}")
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged ({error}): the command that recorded it writes it anew once the "
            "file is deleted"
        ) from error
    if metadata.get("worldsim", {}).get("format") != FORMAT:
        raise ValueError(
            f"{file} does not say format {FORMAT}: it was not recorded by this worldsim"
        )
    return metadata


def _minari_id(path: Path) -> str:
    """Name the dataset as Minari wants it: word characters and a version."""
    name = re.sub(r"[^-\w]", "_", path.resolve().name) or "recording"
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"
