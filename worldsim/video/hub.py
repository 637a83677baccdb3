"""Pretrained pipelines: find, fetch and check them before they are loaded."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from worldsim.system.devices import check_memory
from worldsim.system.files import naming_damage, read_object, reading
from worldsim.system.hub import HUB_ID, why_not_fetched

REMEDY = "fetch or write the model again"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def quiet_libraries() -> None:
    """Silence the warnings and the progress bars of diffusers and transformers."""
    from transformers.utils import logging as transformers_logging

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def fetch_model(model: str, variant: str | None = None) -> Path:
    """Return the folder of a model, and fetch it from the Hub if ``model`` is an id.

    Raises:
        ValueError: If the model does not exist or cannot be fetched.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(
                f"{folder} holds no diffusers pipeline: it has no model_index.json; give a folder "
                "that save_pretrained wrote, or the id of a model on the Hub"
            )
        return folder
    if not HUB_ID.fullmatch(model) or folder.exists():
        raise ValueError(
            f"there is no folder {model}, and it is not an id on the Hub (OWNER/NAME): give the "
            "folder of a diffusers pipeline or such an id"
        )
    try:
        return Path(DiffusionPipeline.download(model, variant=variant, use_safetensors=True))
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors
        raise ValueError(why_not_fetched(model, error)) from error


def class_of(folder: Path) -> str:
    """Return the class that the index of a pipeline's folder names.

    Raises:
        ValueError: If diffusers has no such class, or it makes no video.
    """
    name = str(read_config(folder / "model_index.json").get("_class_name"))
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise ValueError(
            f"the model in {folder} is a {name}, which diffusers {diffusers.__version__} does not "
            "have: a later version may (pip install -U diffusers)"
        )
    if "num_frames" not in inspect.signature(cls.__call__).parameters:
        raise ValueError(f"the model in {folder} is a {name}, which makes no video")
    return name


def check_no_code(folder: Path) -> None:
    """Refuse a pipeline that needs code other than the classes of diffusers and transformers.

    Files may be links, as in the Hub's cache.

    Raises:
        ValueError: If it names a module, or holds something that is neither file nor folder.
    """
    for path in folder.rglob("*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{path} is neither a file nor a folder: take it away")
    for name, entry in read_config(folder / "model_index.json").items():
        if name.startswith("_") or not isinstance(entry, list) or entry[:1] == [None]:
            continue
        library = str(entry[0]) if entry else ""
        known = library in ("diffusers", "transformers") or hasattr(diffusers.pipelines, library)
        if not known or len(entry) != 2:
            raise ValueError(
                f"the {name} in {folder} is {entry!s:.80}, which is not a class of diffusers or "
                "transformers: code shipped with a model is not run"
            )
        if (folder / name / "model_index.json").exists():  # whose own index may name code
            raise ValueError(
                f"the {name} in {folder} is a pipeline inside a pipeline, which is not loaded: use "
                "a model of single networks"
            )
    for path in sorted(folder.glob("*/*config.json")):
        if "auto_map" in read_config(path):
            raise ValueError(
                f"{path} names its own code (auto_map), which is not run: use a model of "
                "diffusers' or transformers' classes"
            )


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model, which may be a link, as in the cache of the Hub.

    Raises:
        PermissionError: If it may not be read.
        ValueError: If it does not exist or holds no JSON object.
    """
    with reading(path.resolve(), REMEDY) as file:
        return read_object(file)


def precision_on(device: str, dtype: str) -> torch.dtype:
    """Return the precision that ``--dtype`` means on a device."""
    if dtype == "auto":
        if device == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return DTYPES[dtype]


def check_weights_fit(
    folder: Path, variant: str | None, device: str, precision: torch.dtype, offload: str
) -> None:
    """Check, before anything is loaded, that the weights fit into memory.

    Raises:
        ValueError: If they do not.
    """
    sizes = {part.name: _num_weights(part, variant) for part in folder.iterdir() if part.is_dir()}
    sizes = {part: size * precision.itemsize for part, size in sizes.items()}
    whole, largest = sum(sizes.values()), max(sizes.values(), default=0)
    needed = {"cpu": whole}
    if device == "cuda" and offload == "none":
        needed = {"cuda": whole}  # they only pass through the computer's memory
    elif device == "cuda" and offload == "model":
        needed["cuda"] = largest
    for place, num_bytes in needed.items():
        check_memory(
            num_bytes,
            f"the model in {folder} as {str(precision).removeprefix('torch.')}",
            "try --dtype bf16, --offload sequential on a GPU, or a smaller model",
            place,
        )


def _num_weights(part: Path, variant: str | None) -> int:
    """Count the weights of a part, those of the variant if it has them."""
    files = list(part.glob("*.safetensors"))
    chosen = [f for f in files if variant and f".{variant}" in f.name]
    total = 0
    for file in chosen or [f for f in files if "." not in f.stem]:
        # A length, a header in JSON, and then the weights.
        with naming_damage(file, REMEDY), file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            header.pop("__metadata__", None)
            total += sum(math.prod(tensor["shape"]) for tensor in header.values())
    return total
