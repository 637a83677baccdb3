"""Latents of a recording's episodes, which are encoded once and kept beside it.

An episode has two files, written aside and renamed, in the layout of safetensors::

    pong/latents/<codec>/<episode>.safetensors             latents, float16 (t' c h w)
    pong/latents/moving-<median frame>/<episode>.safetensors  bits of what moves, uint8 (t h w/8)

Their names are digests: of the codec's weights and config, of the median frame, and of all that the
episode holds. So another codec or median frame has another folder, and an episode that was added or
changed has no file yet. All of it may be deleted at any time.

Latents are kept in float16. Its error is 0.0002 of their deviation, that of int8 would be 0.008. It
rounds eight times less than bfloat16 does, at the same two bytes, and holds all numbers of bfloat16
from 6e-5 to 65,504.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from safetensors.numpy import save

from worldsim.data.episodes import Episodes, fill
from worldsim.data.rewards import RecordedRewards
from worldsim.data.windows import Windows
from worldsim.system.files import FULL_DISK, reading, written_aside

REMEDY = "delete it if it is there, and the same command makes it again"
MAX_HEADER = 2**12  # bytes
LEFT_SECONDS = 3600.0
BLOCK = 2**22  # bytes that are summed at once
_TYPES = {"F16": np.float16, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


class _File(NamedTuple):
    """A file whose header was read.

    Attributes:
        offset: Where its rows begin.
        num_rows: How many there are.
    """

    offset: int
    num_rows: int


class EpisodeArrays:
    """A folder with an array for each episode, read in parts.

    It keeps no file open, can be pickled, and can be read by several threads.

    Args:
        folder: The folder, whether it exists or not.
        dtype: Type of the arrays, float16 or uint8.
        row_shape: Their shape without the first axis, which is time.
    """

    def __init__(self, folder: Path, dtype: type[np.generic], row_shape: Sequence[int]) -> None:
        self.folder = folder
        self.dtype, self.row_shape = np.dtype(dtype), tuple(row_shape)
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape))
        self._known: dict[str, _File] = {}  # whose checksum was right

    def path(self, episode: str) -> Path:
        """Return where the array of an episode is, whether it exists or not."""
        return self.folder / f"{episode}.safetensors"

    def delete_leftovers(self) -> None:
        """Delete unfinished files of a killed process; nobody writes one for an hour."""
        for leftover in self.folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.lstat().st_mtime > LEFT_SECONDS:
                    leftover.unlink()

    def has(self, episode: str, num_rows: int) -> bool:
        """Return whether the array of an episode is there.

        Raises:
            ValueError: If a file is there that does not hold it.
        """
        if not os.path.lexists(self.path(episode)):
            return False
        with reading(self.path(episode), REMEDY) as path:
            self._read_header(path, num_rows)
        return True

    def write(self, episode: str, rows: np.ndarray) -> None:
        """Write the array of an episode completely or not at all.

        Raises:
            OSError: If it cannot be written, as when the disk is full.
        """
        assert (rows.dtype, rows.shape[1:]) == (self.dtype, self.row_shape)
        about = {"checksum": f"{zlib.crc32(np.ascontiguousarray(rows).data):08x}"}
        path = self.path(episode)
        try:
            with written_aside(path) as aside:
                aside.write_bytes(save({"rows": rows}, about))
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise OSError(
                f"the disk is full: {path} could not be written; make room and run the same "
                "command to continue"
            ) from error

    def read(self, episode: str, first: int, last: int, out: np.ndarray) -> None:
        """Read rows first … last - 1 of an episode into a contiguous array.

        Raises:
            PermissionError: If its file may not be read.
            ValueError: If its file is gone or damaged.
        """
        file = self._known.get(episode) or self._open(episode)
        path = f"{self.folder}/{episode}.safetensors"  # a Path would take as long as reading
        try:
            with open(path, "rb", buffering=0) as opened:  # noqa: PTH123
                opened.seek(file.offset + first * self.row_bytes)
                if opened.readinto(out) == out.nbytes:  # type: ignore[arg-type]
                    return
        except OSError:
            pass
        with reading(path, REMEDY):
            raise ValueError(f"its rows {first} to {last - 1} cannot be read")

    def _open(self, episode: str) -> _File:
        """Read a file's header, and once all of it, to compare its checksum."""
        with reading(self.path(episode), REMEDY) as path:
            file, checksum = self._read_header(path)
            found = 0
            with path.open("rb") as opened:
                opened.seek(file.offset)
                while block := opened.read(BLOCK):
                    found = zlib.crc32(block, found)
            if f"{found:08x}" != checksum:
                raise ValueError("its checksum differs")
        self._known[episode] = file
        return file

    def _read_header(self, path: Path, num_rows: int | None = None) -> tuple[_File, str]:
        """Where a file's rows are, and their checksum; raises if the file does not hold them."""
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"its header has {length:,} bytes")
            header = json.loads(opened.read(length))
        shape = header["rows"]["shape"]
        if header["rows"]["dtype"] != _NAMES[self.dtype] or tuple(shape[1:]) != self.row_shape:
            raise ValueError(f"it holds {header['rows']['dtype']} rows of {tuple(shape[1:])}")
        if num_rows not in (None, shape[0]):
            raise ValueError(f"it has {shape[0]} rows, and its episode {num_rows}")
        file = _File(8 + length, int(shape[0]))
        if path.stat().st_size != file.offset + file.num_rows * self.row_bytes:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        return file, str(header["__metadata__"]["checksum"])


def pack_bits(moving: torch.Tensor) -> np.ndarray:
    """Pack a bool tensor (... w) into bits, ``uint8`` (... w/8); the last ones may be unused."""
    return np.packbits(moving.cpu().numpy(), axis=-1)


def unpack_bits(bits: torch.Tensor, width: int) -> torch.Tensor:
    """Undo `pack_bits`, on any device."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    every = rearrange(bits[..., None] >> places & 1, "... w eight -> ... (w eight)")
    return every[..., :width].bool()


class LatentEpisodes(Episodes):
    """Episodes whose windows have latents and what moves, instead of frames.

    Only steps and captions are read from the recording itself. Windows begin where a latent ends,
    so if a latent has several frames, a start is moved to the next such frame inside the episode.

    Args:
        source: The recording or the pictures.
        names: The name of each episode that has latents, by its number.
        latents: Latents by name (t' c h w).
        moving: Bits of what moves by name (t h w/8).
        time_factor: Frames per latent.
        before: Latent and bits of what is before an episode; None repeats its first ones.
    """

    def __init__(
        self,
        source: Episodes,
        names: Mapping[int, str],
        latents: EpisodeArrays,
        moving: EpisodeArrays,
        time_factor: int = 1,
        before: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.path, self.game = source.path, source.game
        self.episode_lengths, self.pixels_before = source.episode_lengths, source.pixels_before
        self._joint_actions, self._own_game = source._joint_actions, source._own_game
        self._source, self._names, self._before = source, names, before
        self._latents, self._moving, self._time_factor = latents, moving, time_factor

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height and width of a frame, and no channels."""
        return (*self.game.frame_size, 0)

    def fingerprint(self, index: int) -> str:
        """Return the episode's content hash, 16 hexadecimal digits."""
        return self._source.fingerprint(index)

    def recorded_rewards(self) -> RecordedRewards:
        """Return the figures of all rewards."""
        return self._source.recorded_rewards()

    def caption(self, index: int) -> str | None:
        """Return what an episode shows, in words; None if it has no caption."""
        return self._source.caption(index)

    def windows(self, episodes: Sequence[int], starts: Sequence[int], length: int) -> Windows:
        """Read windows of latents, see `Episodes.windows`.

        Args:
            episodes: Index of the episode of each window; it must have latents.
            starts: First frame of each window, about, if a latent has several frames.
            length: Frames of each window: 1 + p * (t' - 1) for t' latents of p frames.

        Raises:
            ValueError: As `Episodes.windows`; a damaged file of latents is named.
        """
        p = self._time_factor
        assert (length - 1) % p == 0, f"windows have 1 + {p} * n frames, got {length}"
        starts = [self._to_border(start) for start in starts]
        result = super().windows(episodes, starts, length)
        count = len(starts)
        num_latents = 1 + (length - 1) // p
        result.latents = np.empty((count, num_latents, *self._latents.row_shape), np.float16)
        result.moving = np.empty((count, length, *self._moving.row_shape), np.uint8)
        before, before_moving = self._before or (None, None)
        for row, (index, start) in enumerate(zip(episodes, starts, strict=True)):
            name, num_steps = self._names[index], int(self.episode_lengths[index])
            read = partial(self._latents.read, name)
            fill(result.latents[row], start // p, 1 - (-num_steps // p), read, before)
            read = partial(self._moving.read, name)
            fill(result.moving[row], start, 1 + num_steps, read, before_moving)
        return result

    def _to_border(self, start: int) -> int:
        """The frame that ends a latent nearest to a start.

        It is the one after a start before the episode, so that the end stays in a window that holds
        all of it. A picture ends its only latent, so that there it is the one before.
        """
        if start < 0 and self.pixels_before is None:
            return start + -start % self._time_factor
        return start - start % self._time_factor

    def _read(self, index: int, first: int, last: int, out: np.ndarray) -> None:
        """Read nothing: frames have no channels."""

    def _steps(self, index: int) -> Mapping[str, np.ndarray]:
        return self._source._steps(index)

    @property
    def _frame_bytes(self) -> int:
        """Bytes of a frame in a window."""
        return self._latents.row_bytes + self._moving.row_bytes
