"""The folder of a denoiser: its config and its weights, in the layout of diffusers.

Written out here, since importing diffusers takes longer than all else that a world needs. A class
of diffusers with the same constructor reads the folder, and what diffusers wrote is read here.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from worldsim.model.dit import DiTConfig, VideoDiT
from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, build_network, read_network_config
from worldsim.system.files import reading, write_json


def save_dit(dit: VideoDiT, folder: str | os.PathLike[str]) -> None:
    """Write config and weights into a new folder."""
    folder = Path(folder)
    folder.mkdir()
    config = {"_class_name": type(dit).__name__, **asdict(dit.config)}
    write_json(folder / CONFIG, config)
    save_file(dit.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})


def load_dit(folder: str | os.PathLike[str]) -> VideoDiT:
    """Read what `save_dit` or diffusers wrote.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: In one sentence, if a file is missing or damaged, or the two do not fit.
    """
    folder = Path(folder)
    with reading(folder / CONFIG, REMEDY) as file:
        config = DiTConfig(**read_network_config(file))
    with reading(folder / WEIGHTS, REMEDY) as file:
        return build_network(lambda: VideoDiT(config), file).eval()
