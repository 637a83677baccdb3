"""Find a codec that the user names: a folder, or an id on the Hugging Face Hub.

Only a config in JSON and weights in safetensors are read or downloaded, so no code of theirs runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.autoencoders import COMPRESSION
from worldsim.model.weights import CONFIG, WEIGHTS
from worldsim.system.files import read_object, reading
from worldsim.system.hub import HUB_ID, why_not_fetched

REMEDY = (
    "give a folder of `worldsim codec`, that of a diffusers autoencoder in safetensors, or an id "
    "on the Hub"
)
PLACES = ("", "vae/")  # of an autoencoder: the folder itself, or that of a pipeline


class CodecFiles(NamedTuple):
    """The files of a codec.

    Attributes:
        kind: Its class, one of `COMPRESSION`.
        config: Its config, a JSON file.
        weights: Its weights, in safetensors.
    """

    kind: str
    config: Path
    weights: Path


def open_codec(name: str, channels: int) -> AutoencoderCodec:
    """Read the codec that a user names.

    Args:
        name: As for `find_codec`.
        channels: Of the frames.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: As `find_codec`, or if it is damaged or of other channels.
    """
    return AutoencoderCodec.load(*find_codec(name), channels, REMEDY)


def find_codec(name: str) -> CodecFiles:
    """Find the files of a codec, and download them if they are on the Hub.

    Args:
        name: Folder of a diffusers autoencoder, or of a pipeline with one in ``vae/``; or the id of
            either on the Hub. Files may be links, as in the Hub's cache.

    Raises:
        PermissionError: If its config may not be read.
        ValueError: If there is no such folder or id, its class is unknown, or its weights are not
            in safetensors.
    """
    find = _finder(name)
    kind = None
    for place in PLACES:
        if (config := find(place + CONFIG)) is None:
            continue
        with reading(config, REMEDY) as file:
            kind = read_object(file).get("_class_name")
        if isinstance(kind, str) and kind in COMPRESSION:
            break
    else:
        raise ValueError(
            f"{name} is no autoencoder that can be a codec: the _class_name in its {CONFIG} must "
            f"be one of {', '.join(COMPRESSION)}, got {_shown(kind)}: {REMEDY}"
        )
    weights = find(place + WEIGHTS)
    if weights is None:
        raise ValueError(
            f"{name} has no {place}{WEIGHTS}: weights are read from one file in safetensors, since "
            "a pickle may run code; write it by save_pretrained of a current diffusers"
        )
    return CodecFiles(kind, config, weights)


def _finder(name: str) -> Callable[[str], Path | None]:
    """What returns the path of a codec's file, without links, or None if it has no such file."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return lambda file: (folder / file).resolve() if (folder / file).exists() else None
    if not HUB_ID.fullmatch(name) or folder.exists():
        raise ValueError(f"there is no folder {name}, and it is not an id on the Hub: {REMEDY}")

    def fetch(file: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(name, file)).resolve()
        except (EntryNotFoundError, OSError, ValueError) as error:  # its own are OSErrors
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                return None
            raise ValueError(
                f"there is no folder {name}, and {why_not_fetched(name, error)}"
            ) from error

    return fetch


def _shown(kind: Any) -> str:
    return "none" if kind is None else f"{kind!r:.60}"
