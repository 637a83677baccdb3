"""The codec of a run, and the cache of its latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from worldsim.model.codec import Codec, PixelCodec, load_codec
from worldsim.model.find_codec import find_codec, open_codec

from .config import TrainConfig, resumed_config
from .data import Data
from .processes import Processes
from .run_folder import read_progress


def make_codec(
    config: TrainConfig, data: Data, checkpoint: Path | None, processes: Processes
) -> Codec:
    """The codec that the settings name; a resumed run goes on with that of its checkpoint.

    Args:
        config: The settings.
        data: The recordings that it must fit.
        checkpoint: From which the run goes on; None for a new run.
        processes: The processes of the run; the first one downloads what is on the Hub.

    Raises:
        ValueError: If there is no such codec, it does not fit the frames, or the checkpoint has
            another one.
    """
    channels = data.game.channels

    def named() -> Codec:
        if config.codec is None:
            return PixelCodec(channels)
        if processes.size > 1:
            processes.first(partial(find_codec, config.codec))
        return open_codec(config.codec, channels)

    if checkpoint is None:
        codec = named()
    else:
        codec = load_codec(checkpoint / "codec", channels)
        begun = resumed_config(config, read_progress(checkpoint)[1]).codec
        if begun != config.codec and named().fingerprint() != codec.fingerprint():
            raise ValueError(
                f"this run began with {_named(begun)}, and {_named(config.codec)} is another one: "
                "leave out --codec, or start a new run in another --out"
            )
    for recording in data.recordings:
        try:
            codec.latent_size(recording.game.frame_size)
        except ValueError as error:
            raise ValueError(f"{recording.path}: {error}") from error
    return codec


def _named(codec: str | None) -> str:
    return "raw pixels" if codec is None else f"the codec {codec}"
