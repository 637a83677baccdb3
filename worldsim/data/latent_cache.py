"""The cache of a recording's latents: where it is, what it lacks, and how that is encoded.

It is beside the recording, see `worldsim.data.latents`. That of a recording that may not be
written, or is elsewhere, is in the folder of `worldsim.system.cache`.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from worldsim.data.episodes import Episodes
from worldsim.data.latents import EpisodeArrays, LatentEpisodes, pack_bits
from worldsim.frames import MOVING_THRESHOLD, moving_pixels
from worldsim.model.codec import Codec
from worldsim.system.cache import cache_folder
from worldsim.system.interrupt import Interrupted
from worldsim.system.options import may

FOLDER = "latents"
FORMAT = 1  # of the files, and of what is in them
BLOCK_PIXELS = 2**22  # that are read and encoded together
SECONDS_TO_SHOW = 0.5
WARM_UP = 8  # latents before those of a block that a codec of video encodes again


class LatentCache:
    """Latents of some episodes of a recording, and which of their pixels move.

    Args:
        source: The recording or the pictures.
        episodes: Numbers of the episodes.
        codec: What encodes them, on any device.
        background: Their median frame, uint8 (h w c).

    Attributes:
        source: The recording or the pictures.
        names: The name of each episode in the cache, by its number.
        latents: Latents by name.
        moving: Bits of what moves by name.

    Raises:
        ValueError: If the cache is a link, which may lead anywhere.
    """

    def __init__(
        self, source: Episodes, episodes: Sequence[int], codec: Codec, background: np.ndarray
    ) -> None:
        self.source, self._codec, self._background = source, codec, background
        self._copies, self._on_device = threading.local(), threading.Lock()
        self.names = {int(index): source.content_id(int(index)) for index in episodes}
        height, width = source.game.frame_size
        self._shapes = (
            (codec.latent_channels, *codec.latent_size((height, width))),
            (height, -(-width // 8)),
        )
        self._digests = (
            _digest(codec.fingerprint()),
            f"moving-{_digest(f'{MOVING_THRESHOLD} {background.shape}', background.tobytes())}",
        )
        path = source.path
        if isinstance(path, Path):
            self._use(path / FOLDER)
            if self._may_write() or not any(self.missing()[0]):
                return
        self._use(cache_folder() / FOLDER)

    def _use(self, folder: Path) -> None:
        places = [folder / digest for digest in self._digests]
        for each in (folder, *places):
            if each.is_symlink():
                raise ValueError(f"{each} is a link, which is not followed: move the folder there")
        self.latents = EpisodeArrays(places[0], np.float16, self._shapes[0])
        self.moving = EpisodeArrays(places[1], np.uint8, self._shapes[1])

    def _may_write(self) -> bool:
        """Whether files may be written into folders, of which none may exist yet."""
        places = (self.latents.folder, self.moving.folder)
        above = places[0].parents[:2]
        return all(may(each, os.W_OK) for each in (*places, *above) if each.exists())

    def num_frames(self, index: int) -> int:
        """Return the frames of an episode."""
        return int(self.source.episode_lengths[index]) + 1

    def num_latents(self, index: int) -> int:
        """Return the latents of an episode; the last one may have frames beyond its end."""
        return self._codec.latent_of(self.num_frames(index) - 1) + 1

    def missing(self) -> tuple[tuple[list[int], list[int]], list[str]]:
        """Find what the cache lacks.

        Returns:
            Numbers of the episodes without latents, and of those without what moves; and why files
            that are there are none of the cache.
        """
        damaged: list[str] = []
        lacking: tuple[list[int], list[int]] = ([], [])
        for index, name in self.names.items():
            for numbers, arrays, num_rows in zip(
                lacking, (self.latents, self.moving), self._rows(index), strict=True
            ):
                try:
                    if arrays.has(name, num_rows):
                        continue
                except ValueError as error:
                    damaged.append(str(error))
                numbers.append(index)
        return lacking, damaged

    def num_bytes(self, index: int) -> int:
        """Return the bytes of the files of an episode, about."""
        rows = zip((self.latents, self.moving), self._rows(index), strict=True)
        return sum(arrays.row_bytes * num_rows for arrays, num_rows in rows)

    def encode(self, index: int, on_frames: Callable[[int], None]) -> None:
        """Encode an episode, and write what the cache lacks of it.

        Args:
            index: Number of the episode.
            on_frames: Called now and then with the number of frames that were encoded since the
                call before; may raise to stop.

        Raises:
            OSError: If a file cannot be written, as when the disk is full.
            ValueError: If the episode is damaged, or its latents are too large for float16.
        """
        name, rows = self.names[index], self._rows(index)
        has_latents, has_moving = (
            _has(arrays, name, num_rows)
            for arrays, num_rows in zip((self.latents, self.moving), rows, strict=True)
        )
        if has_latents and has_moving:
            on_frames(self.num_frames(index))
            return
        latents = np.empty((rows[0], *self.latents.row_shape), np.float16)
        moving = np.empty((rows[1], *self.moving.row_shape), np.uint8)
        p, pixels = self._codec.time_factor, int(np.prod(self.source.game.frame_size))
        step = max(1, BLOCK_PIXELS // (p * pixels), 2 * WARM_UP * (p > 1))
        for first in range(0, rows[0], step):
            last = min(first + step, rows[0])
            # A block of video begins early, since a codec sees the past of each latent.
            begin = max(0, first - WARM_UP) if p > 1 else first
            high = p * (last - 1) + 1
            new = slice(self._codec.frames_of(first).start, min(high, rows[1]))
            low = new.start if has_latents else p * begin
            tensor = torch.from_numpy(self.source.frames(index, low, new.stop)).to(self._device)
            if not has_moving:
                background = torch.from_numpy(self._background).to(self._device)
                is_moving = moving_pixels(tensor[None, new.start - low :], background)
                moving[new] = pack_bits(is_moving[0])
            if not has_latents:
                beyond = tensor[-1:].expand(high - low - len(tensor), -1, -1, -1)
                latents[first:last] = self._encode(torch.cat((tensor, beyond)))[first - begin :]
            on_frames(new.stop - new.start)
        if not has_latents:
            self.latents.write(name, latents)
        if not has_moving:
            self.moving.write(name, moving)

    def reader(self) -> LatentEpisodes:
        """Return the episodes, whose windows have latents instead of frames."""
        before = None
        if self.source.pixels_before is not None:
            shape = (1 + self._codec.time_factor, *self.source.frame_shape)
            grey = torch.full(shape, self.source.pixels_before, dtype=torch.uint8)
            bits = pack_bits(moving_pixels(grey[None, :1], torch.from_numpy(self._background)))
            before = self._encode(grey.to(self._device))[-1], bits[0, 0]
        parts = self.latents, self.moving, self._codec.time_factor
        return LatentEpisodes(self.source, self.names, *parts, before)

    @property
    def _device(self) -> torch.device:
        return next(self._codec.buffers()).device

    def _rows(self, index: int) -> tuple[int, int]:
        """Latents and frames of an episode."""
        return self.num_latents(index), self.num_frames(index)

    def _encode(self, frames: torch.Tensor) -> np.ndarray:
        """The latents (t' c h w) of frames (t h w c) in float16."""
        clip = rearrange(frames, "t h w c -> 1 t h w c")
        if self._device.type != "cpu":
            with self._on_device:  # which works on one thing at a time anyhow
                encoded = self._codec.encode(clip)[0]
        elif self._codec.time_factor == 1:
            encoded = self._codec.encode(clip)[0]
        else:  # some codecs of video keep what they have seen while they encode
            if not hasattr(self._copies, "codec"):
                self._copies.codec = copy.deepcopy(self._codec)
            encoded = self._copies.codec.encode(clip)[0]
        latents: np.ndarray = encoded.half().cpu().numpy()
        if not np.isfinite(latents).all():
            raise ValueError(
                f"latents of this codec reach {encoded.abs().max().item():.3g}, and about 1 is "
                "usual: correct its scaling_factor, or latents_std"
            )
        return latents


def encode_episodes(
    episodes: Sequence[tuple[LatentCache, int]],
    num_threads: int,
    show: Callable[[int], None],
) -> None:
    """Encode episodes on several threads, which share the codec and compute on one core each.

    What another process has encoded meanwhile is not encoded again.

    Args:
        episodes: Caches, and a number of an episode in each.
        num_threads: Threads. Each works on an episode of its own.
        show: Called twice a second with the number of frames that are done.

    Raises:
        OSError: As `LatentCache.encode`.
        ValueError: As `LatentCache.encode`.
    """
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def count(num_frames: int) -> None:
        nonlocal done
        if stop.is_set():
            raise Interrupted
        with lock:
            done += num_frames

    def work(cache: LatentCache, index: int) -> None:
        torch.set_num_threads(1)
        cache.encode(index, count)

    num_before = torch.get_num_threads()
    executor = ThreadPoolExecutor(num_threads, "encode")
    try:
        pending: set[Future[None]] = {executor.submit(work, *each) for each in episodes}
        while pending:
            finished, pending = wait(pending, SECONDS_TO_SHOW, FIRST_EXCEPTION)
            for each in finished:
                each.result()
            show(done)
    finally:
        stop.set()  # an error or Ctrl-C waits for no episode
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(num_before)  # also of threads that begin later


def _has(arrays: EpisodeArrays, name: str, num_rows: int) -> bool:
    try:
        return arrays.has(name, num_rows)
    except ValueError:
        return False


def _digest(text: str, data: bytes = b"") -> str:
    return sha256(f"{FORMAT} {text}".encode() + data).hexdigest()[:16]
