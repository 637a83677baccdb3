"""One episode and its file: the HDF5 shards of which recordings are made.

A shard holds an episode in Minari's layout, its frames in gzip chunks of 16. It is written aside
and renamed when it is whole. Reading frames goes around HDF5: the place of each chunk is looked up
once, then a window is two or three reads and ``zlib.decompress``. That is as fast as an open HDF5
file, more than twice as fast as opening one for each window, and needs nothing to be kept open.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CHUNK_FRAMES = 16
GZIP_LEVEL = 3  # on flat frames 1 to 3 read and write twice as fast as 4 to 9; 3 is the smallest

_SHARD_NAME = re.compile(r"episode_(\d{8})\.hdf5")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Episode:
    """One episode of T steps.

    Raises:
        ValueError: If the lengths do not belong together.
    """

    frames: np.ndarray
    """``uint8`` of shape (t+1 h w c)."""
    actions: np.ndarray
    """``int64`` of shape (t,)."""
    rewards: np.ndarray
    """``float32`` of shape (t,)."""
    terminations: np.ndarray
    """``bool`` of shape (t,)."""
    truncations: np.ndarray
    """``bool`` of shape (t,)."""
    seed: int | None = None
    """Seed that the episode's ``reset`` was given."""
    policy: str = ""
    """Who played."""

    def __post_init__(self) -> None:
        """Check that there is one frame more than there are steps."""
        steps = len(self.actions)
        if steps < 1:
            raise ValueError("an episode needs at least one step, got none")
        if len(self.frames) != steps + 1:
            raise ValueError(
                f"an episode of {steps} actions has {steps + 1} frames, got {len(self.frames)}"
            )
        for name in ("rewards", "terminations", "truncations"):
            if len(getattr(self, name)) != steps:
                raise ValueError(
                    f"an episode of {steps} actions has as many {name}, "
                    f"got {len(getattr(self, name))}"
                )


class Shard:
    """One episode's file: small arrays in memory, and where its chunks of frames are."""

    def __init__(self, path: Path, frame_shape: tuple[int, ...]) -> None:
        self.path = path
        self.frame_shape = frame_shape
        with naming_damage(path), h5py.File(path) as file:
            group = file["episode"]
            frames = group["observations"]
            self.actions = group["actions"][()].astype(np.int64)
            self.rewards = group["rewards"][()].astype(np.float32)
            self.terminations = group["terminations"][()].astype(bool)
            self.truncations = group["truncations"][()].astype(bool)
            seed = group.attrs.get("seed")
            self.seed = None if seed is None else int(seed)
            self.policy = str(group.attrs.get("policy", ""))
            if frames.shape != (len(self.actions) + 1, *frame_shape):
                raise ValueError(f"frames of shape {frames.shape}")
            if (frames.chunks or ())[1:] != frame_shape or frames.compression != "gzip":
                raise ValueError("its frames are not in gzip chunks of whole frames")
            self._chunk_frames = int(frames.chunks[0])
            chunks = [frames.id.get_chunk_info(i) for i in range(frames.id.get_num_chunks())]
            if len(chunks) != -(-len(frames) // self._chunk_frames):
                raise ValueError(f"only {len(chunks)} chunks of frames")
            chunks.sort(key=lambda chunk: chunk.chunk_offset)
        # The size is negative where HDF5 kept a chunk as it was, gzip having made it no smaller.
        self._chunks = np.array(
            [(c.byte_offset, -c.size if c.filter_mask else c.size) for c in chunks], np.int64
        )

    def read_frames(self, first: int, last: int, out: np.ndarray) -> None:
        """Read frames first … last - 1 into ``out``."""
        per_chunk = self._chunk_frames
        chunk_shape = (per_chunk, *self.frame_shape)
        chunk_bytes = int(np.prod(chunk_shape))
        with naming_damage(self.path), self.path.open("rb", buffering=0) as file:
            for chunk in range(first // per_chunk, (last - 1) // per_chunk + 1):
                offset, size = self._chunks[chunk].tolist()
                file.seek(offset)
                data = file.read(abs(size))
                if size > 0:
                    data = zlib.decompress(data, bufsize=chunk_bytes)
                frames = np.frombuffer(data, np.uint8).reshape(chunk_shape)
                start = chunk * per_chunk
                low, high = max(first, start), min(last, start + per_chunk)
                out[low - first : high - first] = frames[low - start : high - start]


def encode_shard(episode: Episode, number: int) -> bytes:
    """Return one episode as the bytes of an HDF5 file, in Minari's layout."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("episode")
        group.attrs["id"] = number
        group.attrs["total_steps"] = len(episode.actions)
        group.attrs["policy"] = episode.policy
        if episode.seed is not None:
            group.attrs["seed"] = episode.seed
        group.create_dataset(
            "observations",
            data=episode.frames,
            chunks=(min(CHUNK_FRAMES, len(episode.frames)), *episode.frames.shape[1:]),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
        )
        group["actions"] = episode.actions.astype(np.int64)
        group["rewards"] = episode.rewards.astype(np.float32)
        group["terminations"] = episode.terminations.astype(bool)
        group["truncations"] = episode.truncations.astype(bool)
    return buffer.getvalue()


def encode_links(shards: Sequence[Path]) -> bytes:
    """Return Minari's main file as bytes: episode_0, episode_1, … as links to shards."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for index, shard in enumerate(shards):
            link = h5py.ExternalLink(f"{shard.parent.name}/{shard.name}", "episode")
            file[f"episode_{index}"] = link
    return buffer.getvalue()


def read_attributes(shard: Path) -> dict[str, Any]:
    """Return what a shard says about its episode: total_steps, policy, and seed if it had one.

    Raises:
        ValueError: If the shard is damaged; the error names it.
    """
    with naming_damage(shard), h5py.File(shard) as file:
        attributes = dict(file["episode"].attrs)
        return {**attributes, "total_steps": int(attributes["total_steps"])}


def shard_name(number: int) -> str:
    """Return the file name of the episode of this number."""
    return f"episode_{number:08d}.hdf5"


def list_shards(folder: Path) -> dict[int, Path]:
    """Return the finished shards by their number, in order."""
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    matches = [match for match in map(_SHARD_NAME.fullmatch, names) if match]
    return {int(match[1]): folder / match[0] for match in matches}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside and rename it: it is there as a whole or not at all.

    Raises:
        OSError: In one sentence if the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise OSError(
                f"the disk is full: {path} could not be written ({error.strerror}); make room "
                "and run the same command to continue"
            ) from error
        raise


@contextlib.contextmanager
def naming_damage(shard: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes HDF5 or zlib say into one sentence with its name."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{shard} is damaged ({reason}): delete it, and the command that recorded it will "
            "record that episode again"
        ) from error
