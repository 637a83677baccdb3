"""The index of a recording: what is known of each episode without opening its shard.

It is the file ``index.hdf5`` beside the shards. An entry serves if the shard has the size that it
tells; all other shards are opened. So a recording without an index, or with one that is older than
its last episodes, is read as well. When a shard is opened, it must be the one of its entry.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping

import h5py
import numpy as np

from worldsim.data.folder import INDEX, Folder
from worldsim.data.rewards import RecordedRewards
from worldsim.data.shard import MAX_EPISODE_BYTES, Shard
from worldsim.system.hdf5 import get_group, open_hdf5, read_array, read_attribute

FORMAT = 1
REMEDY = "delete it, and the command that recorded it will write it again"
MAX_STEPS = 2**53  # of a recording, so that sums stay exact

ENTRY = np.dtype(
    [
        ("number", np.int64),
        ("num_bytes", np.int64),  # of the shard
        ("num_steps", np.int64),
        ("checksum", np.int64),  # `Shard.checksum`
        ("fingerprint", np.uint64),  # `Shard.fingerprint`
        ("smallest", np.float64),  # `RecordedRewards` of the episode
        ("lowest_score", np.float64),
        ("highest_score", np.float64),
    ]
)
"""What is known of an episode."""


def entry_of(shard: Shard, number: int, num_bytes: int) -> np.ndarray:
    """Return the entry of an episode, of shape ().

    Raises:
        ValueError: If its first frame is damaged.
    """
    rewards = RecordedRewards.of([shard.steps["rewards"]])
    known = (number, num_bytes, shard.num_steps, shard.checksum, shard.fingerprint())
    return np.array((*known, *rewards.to_dict().values()), ENTRY)


def encode_index(entries: np.ndarray) -> bytes:
    """Return an index as the bytes of an HDF5 file.

    Args:
        entries: Of type `ENTRY`, by ascending number.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("episodes")
        for name in ENTRY.names or ():
            group[name] = entries[name]
        group.attrs["format"] = FORMAT
        group.attrs["checksum"] = zlib.crc32(entries.tobytes())
    return buffer.getvalue()


def read_index(folder: Folder, sizes: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read what is known of each shard, as far as its index serves.

    Args:
        folder: The folder of the recording's files.
        sizes: The bytes of each shard by its number, in order.

    Returns:
        Entries of type `ENTRY`, and whether each is known. Of the others only number and size are.

    Raises:
        OSError: If the index may not be read, or a remote one cannot be.
    """
    entries = np.zeros(len(sizes), ENTRY)
    entries["number"] = np.fromiter(sizes.keys(), np.int64, len(sizes))
    entries["num_bytes"] = np.fromiter(sizes.values(), np.int64, len(sizes))
    index = _checked_index(folder) if INDEX in folder.sizes() else np.zeros(0, ENTRY)
    places = np.searchsorted(index["number"], entries["number"])
    are_known = places < len(index)
    places[~are_known] = 0
    if len(index):
        for name in ("number", "num_bytes"):
            are_known &= index[name][places] == entries[name]
        entries[are_known] = index[places[are_known]]
    return entries, are_known


def _checked_index(folder: Folder) -> np.ndarray:
    """The entries of the index; none if it is damaged or of another format."""
    try:
        with folder.file(INDEX) as path, open_hdf5(path, REMEDY, folder.name(INDEX)) as file:
            group = get_group(file, "episodes")
            if read_attribute(group, "format", int) != FORMAT:
                raise ValueError("it has another format")
            names = ENTRY.names or ()
            first = read_array(group, names[0], ENTRY[names[0]], (None,))
            entries = np.zeros(len(first), ENTRY)
            for name in names:
                entries[name] = read_array(group, name, ENTRY[name], first.shape)
            if read_attribute(group, "checksum", int) != zlib.crc32(entries.tobytes()):
                raise ValueError("its checksum differs")
            _check_entries(entries)
            return entries
    except ValueError:  # all that it tells is also in the shards
        return np.zeros(0, ENTRY)


def _check_entries(entries: np.ndarray) -> None:
    """Raise ValueError for what no recording has."""
    steps, smallest = entries["num_steps"], entries["smallest"]
    low, high = entries["lowest_score"], entries["highest_score"]
    holds = (
        (np.diff(entries["number"]) > 0).all()
        and ((steps > 0) & (steps < MAX_EPISODE_BYTES)).all()
        and steps.sum(dtype=np.float64) < MAX_STEPS
        and np.isfinite([smallest, low, high]).all()
        and ((smallest >= 0) & (low <= 0) & (high >= 0)).all()
    )
    if not holds:
        raise ValueError("it has values that no episode has")
