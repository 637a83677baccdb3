"""The folder of a world: save, load and check it.

On disk a world is a folder, with no pickle in it::

    config.json         the game (ids, frame size, actions, keys), the default passes, the
                        split of its recording, and the checksums of other files
    model/              VideoDiT, in the layout of diffusers
    head.safetensors    reward and termination
    codec/              a diffusers VAE, for large frames only
    text/               the encoder of prompts, for worlds with text only
    starts.h5           recorded windows to begin from, and the recording's median frame
    metrics.json        figures measured in training
    README.md           the model card

A stranger's folder can only be played. Only regular files are read, none of them names code, and
sizes are checked before memory is allocated.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from worldsim.data.captions import Caption as CaptionLine
from worldsim.data.rewards import RecordedRewards
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.find_world import find_world, is_world
from worldsim.game.config import GameConfig
from worldsim.model.codec import load_codec
from worldsim.model.dit_folder import load_dit, save_dit
from worldsim.model.heads import RewardTerminationHead
from worldsim.model.pretrained_text import EMBEDDINGS, PretrainedEncoder
from worldsim.model.text import load_text
from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, build_network
from worldsim.system.devices import pick_device, pick_dtype
from worldsim.system.files import (
    check_checksum,
    checksum,
    naming_damage,
    read_object,
    read_text,
    reading,
    remove,
    write_json,
    write_text,
)
from worldsim.system.hdf5 import check_dataset, open_hdf5, read_array
from worldsim.system.options import Count, Passes, Precision, check_value
from worldsim.system.threads import forget_lost_threads
from worldsim.world_model import WorldModel

FORMAT = 4  # of the folder and of the network in it
READABLE = (3, FORMAT)  # 3: without chance codes

HEAD, STARTS = "head.safetensors", "starts.h5"
MODEL_CONFIG, MODEL_WEIGHTS = f"model/{CONFIG}", f"model/{WEIGHTS}"
CODEC_CONFIG, CODEC_WEIGHTS = f"codec/{CONFIG}", f"codec/{WEIGHTS}"
TEXT = tuple(f"text/{name}" for name in (CONFIG, WEIGHTS, EMBEDDINGS))
SUMMED = (MODEL_CONFIG, MODEL_WEIGHTS, HEAD, STARTS, CODEC_CONFIG, CODEC_WEIGHTS, *TEXT)
"""Files with checksums: all that decide frames. The others may be edited."""


def save(world: WorldModel, path: str | os.PathLike[str]) -> None:
    """Write the world folder completely or not at all, replacing an older world there.

    Raises:
        OSError: If it cannot be written.
        ValueError: If ``path`` holds something else, which stays unchanged, or the world is in
            bfloat16.
    """
    path = Path(path).expanduser()
    if world.dit.dtype != torch.float32:
        raise ValueError(
            f"a world is saved in float32, and this one is in {world.dit.dtype}: load it with "
            'dtype="float32"'
        )
    if path.exists() and not (is_world(path) or (path.is_dir() and not any(path.iterdir()))):
        raise ValueError(f"{path} exists and is not a world: choose another folder")
    aside, old = (path.with_name(f"{path.name}.{word}") for word in ("writing", "replaced"))
    remove(aside)
    try:
        _write(world, aside)
    except BaseException:
        remove(aside)
        raise
    if os.path.lexists(path):
        remove(old)
        path.rename(old)
    aside.rename(path)
    remove(old)


def _write(world: WorldModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    save_dit(world.dit, folder / "model")
    save_file(world.head.state_dict(), folder / HEAD)
    world.codec.save(folder / "codec")
    if world.text is not None:
        world.text.save(folder / "text", world.starts.captions)
    with h5py.File(folder / STARTS, "w") as file:
        for name, values in world.starts.arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
        file.create_dataset("background", data=world.background, compression="gzip")
    write_json(folder / "metrics.json", world.metrics)
    write_text(folder / "README.md", world.card)
    config: dict[str, Any] = {"format": FORMAT, "num_passes": world.num_passes}
    config["game"] = world.game.to_dict()
    if world.recorded_rewards is not None:
        config["recorded_rewards"] = world.recorded_rewards.to_dict()
    if world.split is not None:
        config["split"] = world.split.to_dict()
    if world.text is not None and world.starts.captions:
        config["start_captions"] = list(world.starts.captions)
    files = [name for name in SUMMED if (folder / name).exists()]
    config["checksums"] = {name: checksum(folder / name) for name in files}
    write_json(folder / "config.json", config)
    for tensors in folder.rglob("*.safetensors"):  # safetensors makes them private
        shutil.copymode(folder / "config.json", tensors)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str = "auto",
    text_encoder: str | None = None,
) -> WorldModel:
    """Load a world.

    Args:
        name: As for `find_world`.
        device: Where to put it; by default a GPU if there is one.
        dtype: ``"float32"``, ``"bfloat16"`` for half of the memory, or ``"auto"``: bfloat16 for
            large worlds on a GPU. A world in bfloat16 cannot be saved or trained.
        text_encoder: Folder or Hub id of the frozen text encoder that the world was trained with.
            Only new prompts need it. It is loaded because you name it: what the world's folder
            names is not.

    Returns:
        The world, in evaluation mode.

    Raises:
        PermissionError: If one of its files may not be read.
        ValueError: If there is no such world, device or dtype, or its folder is damaged.
    """
    path, device = find_world(name), pick_device(device)
    check_value("dtype", dtype, Precision)
    forget_lost_threads()
    with reading(path / "config.json", REMEDY) as file:
        config = read_object(file)
        written = config["format"]
        check_value("format", written, Count)
    if written not in READABLE:  # before its parts are read, which may have another layout
        raise ValueError(
            f"the world in {path} has format {written} and this version of worldsim reads "
            f"{READABLE[0]} to {FORMAT}: train it again, or use the version that wrote it"
        )
    with reading(path / "config.json", REMEDY):
        game = GameConfig.from_dict(config["game"])
        check_value("num_passes", config["num_passes"], Passes)
        split = Split.from_dict(config["split"]) if "split" in config else None
        rewards = config.get("recorded_rewards")
        recorded_rewards = None if rewards is None else RecordedRewards.from_dict(rewards)
        checksums = dict(config.get("checksums", {}))
    for part in ("model", "codec", "text"):
        if (path / part).is_symlink():
            raise ValueError(f"{path / part} is a link, which is not followed: copy the folder")
    for part in SUMMED:
        if part in checksums:
            with reading(path / part, REMEDY) as file:
                check_checksum(file, checksums[part])
    # Each part is checked by itself, then against the others.
    dit = load_dit(path / "model")
    with reading(path / HEAD, REMEDY) as file:
        head = build_network(lambda: RewardTerminationHead(dit.config.width), file)
    codec = load_codec(path / "codec", game.channels)
    with naming_damage(path, REMEDY):
        _check_equal("actions", dit.config.num_actions, game.num_actions)
        _check_equal("latent channels", dit.config.latent_channels, codec.latent_channels)
        codec.latent_size(game.frame_size)
    starts, background = _read_starts(path, game)
    with reading(path / "config.json", REMEDY):
        starts.captions = _check_captions(config.get("start_captions", []), len(starts.frames))
    text = load_text(path / "text")
    with reading(path / "metrics.json", REMEDY) as file:
        metrics = read_object(file)
    with reading(path / "README.md", REMEDY) as file:
        card = read_text(file)
    with naming_damage(path / "codec", REMEDY):
        world = WorldModel(
            dit=dit,
            head=head,
            codec=codec,
            game=game,
            starts=starts,
            background=background,
            recorded_rewards=recorded_rewards,
            num_passes=config["num_passes"],
            split=split,
            metrics=metrics,
            card=card,
            text=text,
        )
        if not world.background_latents.isfinite().all():
            raise ValueError("its latents of the background are not finite")
    if text_encoder is not None:
        if not isinstance(world.text, PretrainedEncoder):
            raise ValueError(
                f"the world in {path} has no text encoder of transformers, got {text_encoder!r}: "
                "leave it out"
            )
        world.text.use(text_encoder)
    world.to(device).eval()
    parameters = sum(parameter.numel() for parameter in dit.parameters())
    dit.set_dtype(pick_dtype(dtype, device, parameters))
    return world


def _check_equal(name: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"its network has {found} {name}, its other parts have {expected}")


def _check_captions(captions: Any, num_starts: int) -> tuple[str | None, ...]:
    """Validate and return the captions of the starts, all of them or none."""
    if not isinstance(captions, list) or len(captions) not in (0, num_starts):
        raise ValueError(f"its start_captions must be a list of {num_starts} captions")
    for caption in captions:
        check_value("start_captions", caption, CaptionLine | None)
    return tuple(captions)


def _read_starts(path: Path, game: GameConfig) -> tuple[Windows, np.ndarray]:
    """The windows to begin from and the median frame."""
    frame = (*game.frame_size, game.channels)
    with open_hdf5(path / STARTS, REMEDY) as file:
        b, t = check_dataset(file, "frames", np.uint8, (None, None, *frame)).shape[:2]
        if not (b and t):
            raise ValueError("it has no start frame")
        layout = Windows.layout(b, t, frame)
        arrays: dict[str, Any] = {
            name: read_array(file, name, kind, size) for name, (kind, size) in layout.items()
        }
        starts = Windows(**arrays)
        background = read_array(file, "background", np.uint8, frame)
        if not np.isfinite(starts.rewards).all():
            raise ValueError("its rewards are not all finite")
        if not ((starts.actions >= 0) & (starts.actions <= game.num_actions)).all():
            raise ValueError(
                f"its actions must be in 0..{game.num_actions - 1}, or {game.num_actions} if "
                f"unknown, got {starts.actions.min()}..{starts.actions.max()}"
            )
    return starts, background
