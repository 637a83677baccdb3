"""The folder of a denoiser: its config and its weights, in the layout of diffusers.

diffusers itself is not used: importing it takes longer than all else that a world needs. A class of
diffusers with the same constructor can read the folder, and this module reads folders of diffusers.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from worldsim.model.dit import VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, build_network, read_network_config
from worldsim.system.files import reading, write_json


def save_dit(dit: VideoDiT, folder: str | os.PathLike[str]) -> None:
    """Write config and weights into a new folder."""
    folder = Path(folder)
    folder.mkdir()
    config = {"_class_name": type(dit).__name__, **dit.config.to_dict()}
    write_json(folder / CONFIG, config)
    save_file(dit.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})


def load_dit(folder: str | os.PathLike[str]) -> VideoDiT:
    """Read a folder of `save_dit` or diffusers.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: If a file is missing or damaged, or config and weights do not fit.
    """
    folder = Path(folder)
    with reading(folder / CONFIG, REMEDY) as file:
        config = DiTConfig(**read_network_config(file))
    with reading(folder / WEIGHTS, REMEDY) as file:
        return build_network(lambda: VideoDiT(config), file).eval()
