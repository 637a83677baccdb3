"""The folder of a denoiser: its config and its weights, in the layout of diffusers.

Written out here, since importing diffusers takes longer than all else that a world needs. A class
of diffusers with the same constructor reads the folder, and what diffusers wrote is read here.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from worldsim.dit import DiTConfig, VideoDiT
from worldsim.files import check_regular, read_json, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_dit(dit: VideoDiT, folder: str | os.PathLike[str]) -> None:
    """Write config and weights into a new folder."""
    folder = Path(folder)
    folder.mkdir()
    config = {"_class_name": type(dit).__name__, **asdict(dit.config)}
    write_json(folder / "config.json", config)
    save_file(dit.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})


def load_dit(folder: str | os.PathLike[str]) -> VideoDiT:
    """Read what `save_dit` or diffusers wrote.

    Raises:
        OSError: If a file is missing or may not be read.
        TypeError: If the config has a name too many or too few.
        ValueError: If the config makes no network, or the weights are not those of its network.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    dit = VideoDiT(DiTConfig(**{k: v for k, v in config.items() if not k.startswith("_")}))
    weights = load_file(check_regular(folder / WEIGHTS))
    for name, tensor in dit.state_dict().items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape:
            has = "nothing" if found is None else f"{tuple(found.shape)}"
            raise ValueError(f"{WEIGHTS} wants {name} of {tuple(tensor.shape)} and has {has}")
    if unknown := weights.keys() - dit.state_dict().keys():
        raise ValueError(f"{WEIGHTS} has {min(unknown)}, which is no part of the network")
    dit.load_state_dict(weights)
    return dit.eval()
