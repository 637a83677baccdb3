"""Shards: the HDF5 files of a recording, one per episode.

A shard holds an episode in Minari's layout, its frames in gzip chunks of 16. It is written aside
and renamed when it is complete. Frames are read without HDF5: the offset of each chunk is found
once, and a window is then two or three reads. This is as fast as an open HDF5 file, more than twice
as fast as opening one per window, and keeps no file open.

The dataset ``checksums`` has the CRC-32 of each stored chunk; the attribute ``checksum`` covers
these and all other data. Older shards lack both and are read without them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldsim.data.captions import Caption
from worldsim.data.episode import STEP_TYPES, Episode, check_steps
from worldsim.data.folder import SHARDS, Folder
from worldsim.game.config import GameConfig
from worldsim.system.files import FULL_DISK, naming_damage, written_aside
from worldsim.system.hdf5 import (
    check_dataset,
    get_group,
    inflate,
    open_hdf5,
    read_array,
    read_attribute,
    stored_chunks,
)
from worldsim.system.options import check_value

CHUNK_FRAMES = 16
GZIP_LEVEL = 3  # on flat frames 1 to 3 read and write twice as fast as 4 to 9; 3 is the smallest
MAX_EPISODE_BYTES = 2**40
OBJECT_BYTES = 2**11  # of an open shard beside its arrays
NO_CHECKSUM = -1
REMEDY = "delete it, and the command that recorded it will record that episode again"

_SHARD_NAME = re.compile(r"episode_(\d{8})\.hdf5")


class Shard:
    """One episode's file: its steps in memory, and the offsets of its chunks of frames.

    The actions in ``steps`` have the smallest type that holds them.

    Args:
        folder: The folder of the recording's files.
        file: Its name in it; it may come from a stranger.
        game: The game that it must be an episode of.

    Raises:
        OSError: If it may not be read, or cannot be downloaded.
        ValueError: If it is damaged or of another game.
    """

    def __init__(self, folder: Folder, file: str, game: GameConfig) -> None:
        self._folder = folder
        self._file = file
        self._name, self._remedy = folder.name(file), folder.remedy(file, REMEDY)
        self.frame_shape = (*game.frame_size, game.channels)
        with folder.file(file) as path, open_hdf5(path, self._remedy, self._name) as opened:
            group = get_group(opened, "episode")
            shape = (None, *self.frame_shape)
            frames = check_dataset(group, "observations", np.uint8, shape, MAX_EPISODE_BYTES)
            if (frames.chunks or ())[1:] != self.frame_shape or frames.compression != "gzip":
                raise ValueError("its frames are not in gzip chunks of complete frames")
            self._chunk_frames = int(frames.chunks[0])
            if self._chunk_frames > CHUNK_FRAMES:
                raise ValueError(f"its chunks have more than {CHUNK_FRAMES} frames")
            if len(frames) < 2:
                raise ValueError(f"it must have two frames or more, got {len(frames)}")
            chunks = list(stored_chunks(frames))
            self.num_steps = len(frames) - 1
            self.steps = {
                name: read_array(group, name, kind, (self.num_steps,))
                for name, kind in STEP_TYPES.items()
            }
            self.seed = read_attribute(group, "seed", int)
            self.policy = read_attribute(group, "policy", str) or ""
            self.caption = read_attribute(group, "caption", str)
            check_value("its caption", self.caption, Caption | None)
            checksum = read_attribute(group, "checksum", int)
            has_checksums = checksum is not None or "checksums" in group
            crcs = np.empty(0, np.uint32)
            if has_checksums:
                crcs = read_array(group, "checksums", np.uint32, (len(chunks),))
            self.checksum = _checksum(self, crcs)
            """The CRC-32 of all but the frames; of those too if the shard has checksums."""
            if has_checksums and checksum != self.checksum:
                raise ValueError("its checksum differs")
            check_steps(self.steps, game.num_actions)
        # Half of the memory: a recording may have more steps than fit into it.
        actions = self.steps["actions"].astype(np.min_scalar_type(game.num_actions - 1))
        self.steps["actions"] = actions
        checksums = crcs.tolist() if has_checksums else [NO_CHECKSUM] * len(chunks)
        self._chunks = np.array(
            [
                (chunk.offset, chunk.size, chunk.is_deflated, checksum)
                for chunk, checksum in zip(chunks, checksums, strict=True)
            ],
            np.int64,
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that it takes, about."""
        arrays = (self._chunks, *self.steps.values())
        num_bytes = 4 * len(self.caption or "") + OBJECT_BYTES
        return num_bytes + sum(array.nbytes for array in arrays)

    def fingerprint(self) -> int:
        """Return the content hash of 64 bits: of seed, actions, rewards, ends and first frame.

        Raises:
            ValueError: If the first frame is damaged.
        """
        first = np.empty((1, 1, *self.frame_shape), np.uint8)
        self.read_frames(0, 1, first[0])
        digest = hashlib.blake2b(repr((self.seed, first.shape)).encode(), digest_size=8)
        # Later fields must stay out: worlds keep these hashes of their episodes.
        names = ("actions", "rewards", "terminations", "truncations")
        steps = [self.steps[name].astype(STEP_TYPES[name]) for name in names]
        for part in (first, *steps):
            digest.update(part.astype(part.dtype.newbyteorder("<")).tobytes())
        return int.from_bytes(digest.digest(), "big")

    def read_frames(self, first: int, last: int, out: np.ndarray) -> None:
        """Read frames first … last - 1 into ``out``.

        Raises:
            OSError: If the shard may not be read, or cannot be downloaded.
            ValueError: If it is damaged.
        """
        per_chunk = self._chunk_frames
        chunk_shape = (per_chunk, *self.frame_shape)
        chunk_bytes = math.prod(chunk_shape)
        with self._folder.open(self._file) as file, naming_damage(self._name, self._remedy):
            for index in range(first // per_chunk, (last - 1) // per_chunk + 1):
                offset, size, is_deflated, checksum = self._chunks[index].tolist()
                file.seek(offset)
                data = file.read(size)
                start = index * per_chunk
                if checksum not in (NO_CHECKSUM, zlib.crc32(data)):
                    raise ValueError(f"the checksum of its frames from {start} on differs")
                if is_deflated:
                    data = inflate(data, chunk_bytes)
                frames = np.frombuffer(data, np.uint8).reshape(chunk_shape)
                low, high = max(first, start), min(last, start + per_chunk)
                out[low - first : high - first] = frames[low - start : high - start]


def _checksum(episode: Episode | Shard, chunk_checksums: np.ndarray) -> int:
    checksum = 0
    for values in (*episode.steps.values(), chunk_checksums):
        checksum = zlib.crc32(values.tobytes(), checksum)
    about = f"{episode.seed} {episode.policy}"
    if episode.caption is not None:  # older shards have none
        about += f"\n{episode.caption}"
    return zlib.crc32(about.encode(), checksum)


def encode_shard(episode: Episode, number: int) -> bytes:
    """Return one episode as the bytes of an HDF5 file, in Minari's layout."""
    typed: dict[str, Any] = {
        name: values.astype(STEP_TYPES[name]) for name, values in episode.steps.items()
    }
    episode = dataclasses.replace(episode, **typed)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("episode")
        group.attrs["id"] = number
        group.attrs["total_steps"] = len(episode.actions)
        group.attrs["policy"] = episode.policy
        if episode.seed is not None:
            group.attrs["seed"] = episode.seed
        if episode.caption is not None:
            group.attrs["caption"] = episode.caption
        frames = group.create_dataset(
            "observations",
            data=episode.frames,
            chunks=(min(CHUNK_FRAMES, len(episode.frames)), *episode.frames.shape[1:]),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
        )
        for name, values in episode.steps.items():
            group[name] = values
        file.flush()
        stored = [frames.id.read_direct_chunk(chunk.place)[1] for chunk in stored_chunks(frames)]
        checksums = np.array([zlib.crc32(data) for data in stored], np.uint32)
        group["checksums"] = checksums
        group.attrs["checksum"] = _checksum(episode, checksums)
    return buffer.getvalue()


def encode_links(shards: Sequence[Path]) -> bytes:
    """Return Minari's main file as bytes: episode_0, episode_1, … as links to shards."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for index, shard in enumerate(shards):
            link = h5py.ExternalLink(f"{shard.parent.name}/{shard.name}", "episode")
            file[f"episode_{index}"] = link
    return buffer.getvalue()


def shard_name(number: int) -> str:
    """Return the file name of the episode with this number."""
    return f"episode_{number:08d}.hdf5"


def list_shards(folder: Folder) -> dict[int, int]:
    """Return the bytes of the finished shards by number, in order.

    Raises:
        OSError: If the folder may not be read, or a remote one cannot be reached.
    """
    sizes = folder.sizes(SHARDS)
    matches = [match for match in map(_SHARD_NAME.fullmatch, sorted(sizes)) if match]
    return {int(match[1]): sizes[match[0]] for match in matches}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        OSError: If it cannot be written, as when the disk is full.
    """
    try:
        with written_aside(path) as aside, aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise OSError(
            f"the disk is full: {path} could not be written ({error.strerror}); make room "
            "and run the same command to continue"
        ) from error
