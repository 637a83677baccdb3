"""The codec of a run, and the cache of its latents."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from worldsim.data.latent_cache import LatentCache, encode_episodes
from worldsim.model.codec import Codec, PixelCodec, load_codec
from worldsim.model.find_codec import find_codec, open_codec

from .config import PIXELS, TrainConfig, resumed_config
from .data import Data
from .processes import Processes
from .progress import TaskProgress
from .run_folder import read_progress

READERS = 4  # threads that read frames for a GPU


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
        if config.codec in (None, PIXELS):
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


def cache_latents(data: Data, codec: Codec, processes: Processes) -> Data:
    """Encode what the run trains on, as far as that was not done before; see `LatentCache`.

    Processes share the work: each begins at another episode, and leaves out what is there by then.

    Args:
        data: The data.
        codec: The codec, on the device of this process.
        processes: The processes of the run.

    Returns:
        The data, from whose sources windows of latents are read; the same for raw pixels.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If the disk is too small, or an episode is damaged.
    """
    if isinstance(codec, PixelCodec):
        return data
    pairs = zip(data.recordings, data.split.parts, data.backgrounds, strict=True)
    caches = [LatentCache(one, part.trained_on, codec, frame) for one, part, frame in pairs]
    todo: list[tuple[LatentCache, int]] = []
    notes: list[str] = []
    for cache in caches:
        lacking, damaged = cache.missing()
        numbers = sorted({*lacking[0], *lacking[1]})
        todo += [(cache, number) for number in numbers]
        if numbers:
            cache.latents.delete_leftovers()
            cache.moving.delete_leftovers()
            notes += _describe(cache, codec, lacking, damaged)
    processes.first(partial(_check_disk, todo))
    if todo:
        begin = len(todo) * processes.rank // processes.size
        todo = todo[begin:] + todo[:begin]
        num_frames = sum(cache.num_frames(number) for cache, number in todo)
        device = processes.device.type
        num_threads = torch.get_num_threads() if device == "cpu" else READERS
        started = time.monotonic()
        with TaskProgress(quiet=not processes.is_first) as bar:
            for sentence in notes:
                bar.note(sentence)
            with bar.task("encoding") as show:
                encode_episodes(todo, num_threads, lambda done: show(done / num_frames))
            rate = num_frames / (time.monotonic() - started)
            bar.note(f"encoded, {rate:,.0f} frames a second; training reads these latents")
    processes.gather_objects(None)  # each waits until all have done their part
    return replace(data, sources=tuple(cache.reader() for cache in caches))


def _describe(
    cache: LatentCache, codec: Codec, lacking: tuple[list[int], list[int]], damaged: list[str]
) -> list[str]:
    """Sentences on what is encoded, and why."""
    encoded, told = map(len, lacking)
    size = 1e-6 * sum(map(cache.num_bytes, lacking[0]))
    sentences = [f"{error.partition(': delete it')[0]}, so it is made again" for error in damaged]
    if encoded:
        of = f"of {len(cache.names):,} episodes" if encoded < len(cache.names) else "episodes"
        sentences.append(
            f"{cache.source.path}: encoding {encoded:,} {of}, once ({codec.describe()}; "
            f"{size:.3g} MB in {cache.latents.folder})"
        )
    if told > encoded:
        sentences.append(
            f"{cache.source.path}: {told - encoded:,} of {len(cache.names):,} episodes have "
            "latents but another median frame than before: what moves in them is found again"
        )
    return sentences


def _check_disk(todo: Sequence[tuple[LatentCache, int]]) -> None:
    """Raise ValueError if the disk has less room than the latents need."""
    needed: dict[Path, int] = {}
    for cache, number in todo:
        folder = next(each for each in cache.latents.folder.parents if each.is_dir())
        needed[folder] = needed.get(folder, 0) + cache.num_bytes(number)
    for folder, num_bytes in needed.items():
        if (free := shutil.disk_usage(folder).free) < num_bytes:
            raise ValueError(
                f"the latents of the recording take {1e-9 * num_bytes:.3g} GB, and the disk of "
                f"{folder} has {1e-9 * free:.3g} GB free: make room there"
            )


def _named(codec: str | None) -> str:
    return "raw pixels" if codec in (None, PIXELS) else f"the codec {codec}"
