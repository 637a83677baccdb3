"""The metadata of a recording, ``metadata.json``."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from worldsim.data.folder import METADATA, Folder, open_folder
from worldsim.game.config import GameConfig
from worldsim.system.files import check_regular, naming_damage, read_object
from worldsim.system.location import Location, as_location

MINARI_VERSION = "0.5.4"  # the version whose format this is
FORMAT = 1


@dataclass
class RecordingMetadata:
    """The game of a recording and how it was recorded."""

    game: GameConfig
    """The game."""
    settings: dict[str, Any] = field(default_factory=dict)
    """JSON values of the complete recording, such as seed and policy."""
    steps_asked: int = 0
    """The largest number of steps ever requested for the recording."""
    env_spec: str | None = None
    """Gymnasium's description of the game, from which Minari makes it."""

    def encode(self, dataset_id: str, episode_steps: list[int], num_bytes: int) -> bytes:
        """Return metadata.json, with the fields of Minari.

        Args:
            dataset_id: Minari's name of the recording.
            episode_steps: Steps of each episode.
            num_bytes: Bytes of all episodes.
        """
        shape = (*self.game.frame_size, self.game.channels)
        space = {
            "type": "Box",
            "dtype": "uint8",
            "shape": shape,
            "low": np.zeros(shape, int).tolist(),
            "high": np.full(shape, 255).tolist(),
        }
        actions = {"type": "Discrete", "dtype": "int64", "start": 0, "n": self.game.num_actions}
        env_spec = describe_env(self.game) or self.env_spec
        metadata = {
            "dataset_id": dataset_id,
            "minari_version": MINARI_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": len(episode_steps),
            "total_steps": sum(episode_steps),
            "dataset_size": round(num_bytes / 1e6, 1),
            "observation_space": json.dumps(space),
            "action_space": json.dumps(actions),
            **({"env_spec": env_spec} if env_spec else {}),
            "worldsim": {
                "format": FORMAT,
                "game": self.game.to_dict(),
                "settings": self.settings,
                "steps_asked": self.steps_asked,
            },
        }
        return json.dumps(metadata).encode()


def describe_env(game: GameConfig) -> str | None:
    """Return a game's spec for Minari's ``recover_environment``, or None if JSON cannot hold it."""
    spec = gymnasium.registry.get(game.env_id.rpartition(":")[2])
    if spec is None:
        return None
    spec = copy.deepcopy(spec)
    spec.kwargs.update(game.env_kwargs)
    try:
        return spec.to_json()
    except (TypeError, ValueError):  # an entry point or a setting that is code
        return None


def read_metadata(where: Location) -> RecordingMetadata:
    """Read and check the metadata of a recording.

    Raises:
        OSError: If it may not be read.
        ValueError: If it does not exist, is damaged or has another format.
    """
    return metadata_in(open_folder(as_location(where)), where)


def metadata_in(folder: Folder, where: Location) -> RecordingMetadata:
    """Read and check the metadata in a recording's folder; errors as for `read_metadata`.

    Args:
        folder: The folder of its files.
        where: The recording, for errors.
    """
    name = folder.name(METADATA)
    if METADATA not in folder.sizes():
        raise ValueError(f"{where} is not a recording: there is no {name}")
    remedy = "delete it, and the command that recorded it will write it again"
    remedy = folder.remedy(METADATA, remedy)
    with folder.file(METADATA) as file:
        check_regular(file)
        with naming_damage(name, remedy):
            metadata = read_object(file)
            ours = _entry(metadata, "worldsim", dict)
    if ours.get("format") != FORMAT:
        raise ValueError(
            f"{name} does not have format {FORMAT}: record again with this version of worldsim"
        )
    with naming_damage(name, remedy):
        steps_asked = _entry(ours, "steps_asked", int)
        if steps_asked < 0:
            raise ValueError(f"steps_asked is {steps_asked}")
        env_spec = metadata.get("env_spec")
        return RecordingMetadata(
            game=GameConfig.from_dict(_entry(ours, "game", dict)),
            settings=_entry(ours, "settings", dict),
            steps_asked=steps_asked,
            env_spec=env_spec if isinstance(env_spec, str) else None,
        )


def _entry(values: dict[str, Any], name: str, kind: type) -> Any:
    if name not in values:
        raise ValueError(f"it lacks {name}")
    if type(values[name]) is not kind:
        raise ValueError(f"{name} is {str(values[name])[:40]!r}, not of type {kind.__name__}")
    return values[name]
