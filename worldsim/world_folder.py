"""The folder of a world: written whole, found by name, and read.

On disk a world is a folder, with no pickle in it::

    config.json         the game (ids, frame size, actions, keys), the default passes, and which
                        episodes the world was trained on
    model/              VideoDiT, in the layout of diffusers
    head.safetensors    reward and termination
    codec/              a diffusers VAE, for large frames only
    starts.h5           recorded windows to begin from, and the recording's median frame
    metrics.json        figures measured when it was trained
    README.md           the model card
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worldsim.codec import load_codec, save_codec
from worldsim.dit_folder import load_dit, save_dit
from worldsim.find_world import find_world
from worldsim.game_config import GameConfig
from worldsim.heads import RewardTerminationHead
from worldsim.recording import Windows
from worldsim.split import Split
from worldsim.threads import forget_lost_threads
from worldsim.world_model import WorldModel

FORMAT = 3  # of the folder and of the network in it


class _OtherFormatError(ValueError):
    """A world written by another version."""


def save(world: WorldModel, path: str | os.PathLike[str]) -> None:
    """Write the world folder, whole or not at all; an older one in its place is replaced."""
    path = Path(path)
    aside = path.with_name(path.name + ".writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(world, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    aside.rename(path)


def _write(world: WorldModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"format": FORMAT, "num_passes": world.num_passes}
    config["game"] = world.game.to_dict()
    if world.split is not None:
        config["split"] = world.split.to_dict()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_dit(world.dit, folder / "model")
    save_file(world.head.state_dict(), folder / "head.safetensors")
    save_codec(world.codec, folder / "codec")
    with h5py.File(folder / "starts.h5", "w") as file:
        for field in dataclasses.fields(Windows):
            values = getattr(world.starts, field.name)
            file.create_dataset(field.name, data=values, compression="gzip")
        file.create_dataset("background", data=world.background, compression="gzip")
    for tensors in folder.rglob("*.safetensors"):  # written for their owner alone
        shutil.copymode(folder / "config.json", tensors)
    (folder / "metrics.json").write_text(json.dumps(world.metrics, indent=2) + "\n")
    (folder / "README.md").write_text(world.card)


def load(name: str | os.PathLike[str], device: str | torch.device | None = None) -> WorldModel:
    """Load a world.

    Args:
        name: A world that ships with the package ("pong", "maze" or "balls"), a world folder, or a
            run folder, of which the newest checkpoint is taken.
        device: Where to put it; a GPU if there is one.

    Returns:
        The world, in evaluation mode.

    Raises:
        ValueError: If there is no such world, or its folder cannot be read.
    """
    path = find_world(name)
    forget_lost_threads()
    try:
        config = json.loads((path / "config.json").read_text())
        written = int(config["format"])
        if written != FORMAT:  # its parts are not ours to judge
            raise _OtherFormatError(
                f"the world in {path} has format {written} and this version of worldsim reads "
                f"{FORMAT}; train it again, or take the version that wrote it"
            )
        game = GameConfig.from_dict(config["game"])
        dit = load_dit(path / "model")
        head = RewardTerminationHead(dit.config.width)
        head.load_state_dict(load_file(path / "head.safetensors"))
        with h5py.File(path / "starts.h5") as file:
            starts = Windows(**{f.name: file[f.name][:] for f in dataclasses.fields(Windows)})
            background = file["background"][:]
        metrics = json.loads((path / "metrics.json").read_text())
        card = (path / "README.md").read_text()
        codec = load_codec(path / "codec", game.channels)
        num_passes = int(config["num_passes"])
        split = Split.from_dict(config["split"]) if "split" in config else None
    except _OtherFormatError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"the world in {path} is damaged ({error}); write it again or take another"
        ) from error
    world = WorldModel(
        dit=dit,
        head=head,
        codec=codec,
        game=game,
        starts=starts,
        background=background,
        num_passes=num_passes,
        split=split,
        metrics=metrics,
        card=card,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return world.to(device).eval()
