"""Changes of what is on disk, as damage or a stranger makes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def edit_tensor(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: change(weights[name])}, path)


def edit_starts(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[name][:])
        del file[name]
        file.create_dataset(name, data=values)


@contextmanager
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Be a user whom permissions stop, also where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:  # pytest's own folders, which let nobody through
            folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
