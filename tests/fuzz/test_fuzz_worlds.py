"""Damaged worlds: each is refused in one sentence, or plays what the whole one plays."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fuzz.mutations import (
    assert_a_sentence,
    damage_bytes,
    damage_json,
    damaged,
    replace_by_something_else,
)
from tests.tiny_text import save_tiny_encoder
from tests.tiny_worlds import make_tiny_vae_codec, make_tiny_world
from worldsim.model.pretrained_text import PretrainedEncoder
from worldsim.model.text import VocabularyEncoder
from worldsim.rollout import Rollout
from worldsim.world_folder import SUMMED, load

JSON = ("config.json", "metrics.json", "model/config.json", "codec/config.json", "text/config.json")
ARRAYS = ("frames", "actions", "rewards", "terminations", "truncations", "valid", "background")


PROMPT = "a ball that rolls"


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[np.ndarray]]]:
    """Worlds of both kinds of text, and what they play."""
    folder = tmp_path_factory.mktemp("whole")
    encoder = save_tiny_encoder(folder / "encoder")
    found = []
    for text in (VocabularyEncoder.of([PROMPT], 8), PretrainedEncoder.of(encoder, [PROMPT])):
        world = make_tiny_world(codec=make_tiny_vae_codec(), text=text)
        world.metrics, world.card = {"psnr": {"1": 30.5}}, "# Square"
        world.starts.captions = (PROMPT, None, None)
        path = folder / type(text).__name__
        world.save(path)
        found.append((path, play(path)))
    return found


def play(path: Path) -> list[np.ndarray]:
    """Frames, rewards and ends of some steps, with as many passes as the whole world takes."""
    world = load(path, device="cpu")
    rollout = Rollout(world, num_passes=2)
    starts = world.starts[:1]
    rollout.reset(starts.frames, starts.actions, seeds=[5], prompts=[PROMPT])
    return [part for t in range(3) for part in rollout.step(np.array([t])) if part is not None]


def pick(path: Path, rng: np.random.Generator, *names: str) -> str:
    """One of these files of a world that it has."""
    return str(rng.choice([name for name in names if (path / name).exists()]))


def forget_checksums(path: Path) -> None:
    """Make the world one of before there were any, which other checks alone guard."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "checksums": {}}), encoding="utf-8")


def damage_a_file(path: Path, rng: np.random.Generator) -> str:
    name = pick(path, rng, *SUMMED, *JSON, "README.md")
    return f"{name} {damage_bytes(path / name, rng)}"


def damage_a_config(path: Path, rng: np.random.Generator) -> str:
    name = pick(path, rng, *JSON)
    return f"{name} {damage_json(path / name, rng)}"


def damage_an_unguarded_config(path: Path, rng: np.random.Generator) -> str:
    forget_checksums(path)
    return damage_a_config(path, rng)


def change_a_tensor(path: Path, rng: np.random.Generator) -> str:
    """Give a tensor another type, shape, name or values that are no numbers."""
    forget_checksums(path)
    file = path / pick(path, rng, *(name for name in SUMMED if name.endswith(".safetensors")))
    tensors = load_file(file)
    name = str(rng.choice(sorted(tensors)))
    tensor = tensors.pop(name)
    changes = {
        "missing": {},
        "renamed": {name + "s": tensor},
        "one more": {name: tensor, "more": torch.zeros(1)},
        "nan": {name: torch.full_like(tensor, torch.nan)},
        "infinite": {name: torch.full_like(tensor, -torch.inf)},
        "whole numbers": {name: tensor.long()},
        "truth values": {name: tensor > 0},
        "flat": {name: tensor.flatten()[None]},
        "longer": {name: torch.cat([tensor, tensor])},
        "empty": {name: torch.zeros(0)},
    }
    how = str(rng.choice(list(changes)))
    save_file({**tensors, **changes[how]}, file)
    return f"{file.name} {name} {how}"


def change_the_starts(path: Path, rng: np.random.Generator) -> str:
    """Give an array another type, shape or layout, or put something else in its place."""
    forget_checksums(path)
    with h5py.File(path / "starts.h5", "r+") as file:
        name = str(rng.choice(ARRAYS))
        values = file[name][()]
        del file[name]
        how = str(
            rng.choice(["missing", "group", "flat", "float", "nan", "huge", "elsewhere", "link"])
        )
        if how == "group":
            file.create_group(name)
        elif how == "flat":
            file.create_dataset(name, data=values.ravel())
        elif how == "float":
            file.create_dataset(name, data=values.astype(np.float64))
        elif how == "nan":
            file.create_dataset(name, data=np.full(values.shape, np.nan, np.float32))
        elif how == "huge":
            file.create_dataset(name, (10**9, *values.shape[1:]), values.dtype, compression="gzip")
        elif how == "elsewhere":
            external = [("/etc/passwd", 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=external)
        elif how == "link":
            file[name] = h5py.ExternalLink("/etc/passwd", "x")
    return f"{name} {how}"


def replace_a_file(path: Path, rng: np.random.Generator) -> str:
    name = pick(path, rng, *SUMMED, *JSON, "README.md")
    kind = replace_by_something_else(path / name, path.with_name("elsewhere"), rng)
    return f"{name} {kind}"


WAYS = (
    damage_a_file,
    damage_a_file,
    damage_a_config,
    damage_an_unguarded_config,
    change_a_tensor,
    change_the_starts,
    replace_a_file,
)
UNGUARDED = ("model/config.json", "codec/config.json", "text/config.json")
"""Without checksums, what a network is made from may be changed into another that fits."""


FOREIGN = ("use only words of its training captions", "which is not loaded because")
"""What an error says when a whole world does not know the prompt: its words were changed."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(400))
def test_a_damaged_world_is_refused_or_plays_the_same(
    seed: int, wholes: list[tuple[Path, list[np.ndarray]]], tmp_path: Path
) -> None:
    whole, expected = wholes[seed % 2]
    with damaged(whole, tmp_path, seed, WAYS) as (path, how):
        try:
            played = play(path)
        except (ValueError, OSError) as error:
            if not any(words in str(error) for words in FOREIGN):
                assert_a_sentence(error, path, how)
        else:
            may_differ = how.startswith("damage_an_unguarded_config") and any(
                name in how for name in UNGUARDED
            )
            for found, wanted in zip(played, expected, strict=True):
                assert may_differ or np.array_equal(found, wanted), how
                assert np.isfinite(found).all(), how
