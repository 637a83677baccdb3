"""Raw pixels or a codec: what a run takes if its settings do not say."""

from __future__ import annotations

import dataclasses
import shlex

from worldsim.data.opening import read_games
from worldsim.model.autoencoder_sizes import Compression

from .codec_config import CodecConfig
from .config import PIXELS, TrainConfig
from .processes import Processes
from .progress import TaskProgress, duration
from .run_log import Logging

LARGE = 128 * 128  # pixels of a frame from which a codec is trained; raw pixels suit up to 96x96
SHARE = 0.5  # of the world's own training
DEFAULT_MINUTES = 30.0  # of the world


def with_codec(config: TrainConfig, processes: Processes) -> TrainConfig:
    """The settings with a codec, if frames are large and none is named; it is trained first.

    A codec that was interrupted goes on, and a finished one is taken as it is.

    Args:
        config: The settings of a new run.
        processes: Its processes.

    Raises:
        KeyboardInterrupt: If the codec's training is stopped; it is kept.
        ValueError: If several processes share the run, or a recording is unusable.
    """
    games = [game for game in read_games(config.recordings) if game is not None]
    largest = max((game.frame_size for game in games), key=lambda size: size[0] * size[1])
    if config.codec is not None or largest[0] * largest[1] < LARGE:
        return config
    size = f"{largest[0]}x{largest[1]}"
    side = Compression.parse(CodecConfig.compression).side
    odd = sorted({length for game in games for length in game.frame_size if length % side})
    if odd:
        _note(
            processes,
            f"frames of {size} suit a codec, but {odd[0]} is no multiple of {side}: training on "
            "raw pixels; record at such a size for a codec",
        )
        return config
    if processes.size > 1:
        recordings = shlex.join(map(str, config.recordings))
        raise ValueError(
            f"frames of {size} need a codec, which one process trains: run `worldsim codec "
            f"{recordings} --out codecs/NAME` first, then give --codec codecs/NAME; or --codec "
            f"{PIXELS} for raw pixels"
        )
    from .codec import train_codec  # most runs train none

    minutes = None if config.steps else SHARE * (config.minutes or DEFAULT_MINUTES)
    steps = max(1, round(SHARE * config.steps)) if config.steps else None
    length = f"{steps:,} steps" if steps else duration(60 * (minutes or 0))
    folder = config.out / "codec"
    _note(
        processes,
        f"frames of {size} are large, so the world learns in latents: a codec is trained first, "
        f"{length}, in {folder} (--codec FOLDER takes a trained one, --codec {PIXELS} none)",
    )
    finished, *_ = train_codec(
        CodecConfig(
            recordings=config.recordings,
            out=folder,
            minutes=minutes,
            steps=steps,
            seed=config.seed,
            device=config.device,
            logging=Logging(log=()),
        )
    )
    if not finished:
        _note(processes, f"stopped: {folder} keeps the codec, and the same command goes on")
        raise KeyboardInterrupt
    return dataclasses.replace(config, codec=str(folder))


def _note(processes: Processes, sentence: str) -> None:
    with TaskProgress(quiet=not processes.is_first) as bar:
        bar.note(sentence)
