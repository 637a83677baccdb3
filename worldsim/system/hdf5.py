"""Read HDF5 files that may come from a stranger; only plain data is accepted.

HDF5 can point to other files, call decoding plugins, and claim arrays of any size. So each dataset
is checked before it is read: it is stored completely in this file, with the expected type and
shape. Chunks are inflated here, up to their size.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import h5py
import numpy as np

from worldsim.system.files import reading

MAX_BYTES = 2**30
"""Default limit of one array: a gigabyte."""
MAX_TRUSTED_BYTES = 2**16
"""Compressed bytes that are inflated without a limit: they become 64 MiB at most."""
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_BYTES = 2**16

Kind = TypeVar("Kind", int, str)


class Chunk(NamedTuple):
    """A stored chunk of a dataset."""

    place: tuple[int, ...]
    """Index of its first value in the dataset."""
    offset: int
    """First byte in the file."""
    size: int
    """Bytes stored."""
    is_deflated: bool
    """Whether it is compressed: HDF5 stores it raw if gzip does not shrink it."""


@contextmanager
def open_hdf5(
    path: str | os.PathLike[str], remedy: str, name: str | None = None
) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; arguments and errors as for `worldsim.system.files.reading`.

    Raises:
        ValueError: Also if it begins with other data.
    """
    with reading(path, remedy, name), h5py.File(path, "r") as file:
        if file.userblock_size:
            raise ValueError("it begins with data that is not HDF5")
        yield file


def get_group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a group of this file.

    Raises:
        ValueError: If it does not exist, is a link or a dataset, or has too many attributes.
    """
    group = _own_entry(parent, name)
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{name} is not a group")
    _check_attributes(group, name)
    return group


def check_dataset(
    parent: h5py.Group,
    name: str,
    dtype: np.dtype | type,
    shape: Sequence[int | None],
    max_bytes: int = MAX_BYTES,
) -> h5py.Dataset:
    """Return a dataset of plain numbers in this file, without reading a value.

    `stored_chunks` then checks that its chunks are stored.

    Args:
        parent: The file, or a group in it.
        name: Name of the dataset.
        dtype: Its stored type, exactly.
        shape: Its shape; None for any length.
        max_bytes: Upper bound of the array's bytes.

    Raises:
        ValueError: If it differs in any of these.
    """
    dataset = _own_entry(parent, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is not a dataset")
    _check_attributes(dataset, name)
    _check_type(dataset, name, np.dtype(dtype))
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    fits = dataset.shape is not None and len(dataset.shape) == len(shape)
    if not fits or any(w not in (None, s) for w, s in zip(shape, dataset.shape, strict=True)):
        raise ValueError(f"{name} has shape {dataset.shape}, not ({expected})")
    num_bytes = _num_bytes(dataset.shape, dataset.dtype)
    if num_bytes > max_bytes:
        raise ValueError(f"{name} takes {num_bytes:,} bytes, more than {max_bytes:,}")
    _check_layout(dataset, name)
    return dataset


def read_array(
    parent: h5py.Group,
    name: str,
    dtype: np.dtype | type,
    shape: Sequence[int | None],
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Read a dataset after `check_dataset`; the arguments and errors are the same."""
    dataset = check_dataset(parent, name, dtype, shape, max_bytes)
    if dataset.chunks is None or dataset.size == 0:
        return _checked(dataset[()], name)
    chunks = list(stored_chunks(dataset))  # checked before memory is allocated
    values = np.empty(dataset.shape, dtype)
    num_bytes = _num_bytes(dataset.chunks, dataset.dtype)
    for chunk in chunks:
        _, data = dataset.id.read_direct_chunk(chunk.place)
        if chunk.is_deflated:
            data = inflate(data, num_bytes)
        block = np.frombuffer(data, dtype, math.prod(dataset.chunks)).reshape(dataset.chunks)
        part = values[tuple(map(slice, chunk.place, np.add(chunk.place, block.shape)))]
        part[...] = block[tuple(map(slice, part.shape))]
    return _checked(values, name)


def read_attribute(holder: h5py.Group | h5py.Dataset, name: str, kind: type[Kind]) -> Kind | None:
    """Read an attribute of a group or dataset: one integer or one text.

    Args:
        holder: The result of `get_group` or `check_dataset`.
        name: Name of the attribute.
        kind: ``int`` or ``str``.

    Returns:
        Its value, or None if it does not exist.

    Raises:
        ValueError: If it is of another kind.
    """
    if name not in holder.attrs:
        return None
    attribute = holder.attrs.get_id(name)
    is_text = h5py.check_string_dtype(attribute.dtype) is not None
    is_number = attribute.dtype.kind in "iu" and attribute.dtype.names is None
    if attribute.shape != () or not (is_text if kind is str else is_number):
        raise ValueError(f"the attribute {name} is not one {kind.__name__}")
    value = holder.attrs[name]
    return kind(value.decode() if isinstance(value, bytes) else value)


def stored_chunks(dataset: h5py.Dataset) -> Iterator[Chunk]:
    """Yield the chunks of a dataset, in the order of their indices.

    Raises:
        ValueError: At the first one that is missing or reaches beyond the file.
    """
    end, total = _file_size(dataset), 0
    is_deflated, find = dataset.compression is not None, dataset.id.get_chunk_info_by_coord
    places = [
        range(0, size, step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)
    ]
    if math.prod(map(len, places)) > end:  # checked before they are listed
        raise ValueError(f"{dataset.name} claims more than the file holds")
    for place in itertools.product(*places):
        stored = find(place)
        if stored.byte_offset is None or stored.size < 1:
            raise ValueError(f"{dataset.name} lacks its chunk at {place}")
        total += stored.size
        if stored.byte_offset + stored.size > end or total > end:
            raise ValueError(f"{dataset.name} claims more than the file holds")
        yield Chunk(place, stored.byte_offset, stored.size, is_deflated and not stored.filter_mask)


def inflate(data: bytes, num_bytes: int) -> bytes:
    """Inflate a chunk, up to its expected size.

    Raises:
        ValueError: If it has another size.
        zlib.error: If it is damaged.
    """
    if len(data) <= MAX_TRUSTED_BYTES:  # faster; gzip expands data at most a thousand times
        values = zlib.decompress(data, bufsize=num_bytes)
        if len(values) != num_bytes:
            raise ValueError(f"a chunk has {len(values):,} bytes, not {num_bytes:,}")
        return values
    inflater = zlib.decompressobj()
    values = inflater.decompress(data, num_bytes + 1)
    if len(values) != num_bytes or not inflater.eof:
        raise ValueError(f"a chunk does not have its {num_bytes:,} bytes")
    return values


def _own_entry(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    link = parent.get(name, getlink=True)
    if link is None:
        raise ValueError(f"there is no {name}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link")
    return parent[name]


def _check_attributes(holder: h5py.Group | h5py.Dataset, name: str) -> None:
    num_attributes = h5py.h5a.get_num_attrs(holder.id)
    if num_attributes > MAX_ATTRIBUTES:
        raise ValueError(f"{name} has more than {MAX_ATTRIBUTES} attributes")
    for index in range(num_attributes):
        if h5py.h5a.open(holder.id, index=index).get_storage_size() > MAX_ATTRIBUTE_BYTES:
            raise ValueError(f"an attribute of {name} has more than {MAX_ATTRIBUTE_BYTES:,} bytes")


def _check_type(dataset: h5py.Dataset, name: str, dtype: np.dtype) -> None:
    """Compare the stored types, so that equal bytes mean equal numbers."""
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
        raise ValueError(f"{name} is not of type {dtype}")


def _check_layout(dataset: h5py.Dataset, name: str) -> None:
    """Check that all values are stored in this file, raw or by gzip."""
    settings = dataset.id.get_create_plist()
    layout = settings.get_layout()
    if settings.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise ValueError(f"{name} has its values in another file")
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if filters not in ([], [h5py.h5z.FILTER_DEFLATE]):
        raise ValueError(f"{name} is stored with other filters than gzip")
    if dataset.size == 0:
        return
    if layout == h5py.h5d.CHUNKED:
        if any(step > size for step, size in zip(dataset.chunks, dataset.shape, strict=True)):
            raise ValueError(f"{name} has chunks of {dataset.chunks}, larger than itself")
        return  # `stored_chunks` checks them
    num_bytes = _num_bytes(dataset.shape, dataset.dtype)
    end, file_size = num_bytes, _file_size(dataset)
    if layout == h5py.h5d.CONTIGUOUS:
        end += dataset.id.get_offset() or file_size
    if dataset.id.get_storage_size() != num_bytes or end > file_size:
        raise ValueError(f"{name} claims {num_bytes:,} bytes, more than are stored")


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    """Raise for booleans that are neither 0 nor 1."""
    if values.dtype == bool and (values.view(np.uint8) > 1).any():
        raise ValueError(f"{name} has values that are neither true nor false")
    return values


def _file_size(dataset: h5py.Dataset) -> int:
    return int(h5py.h5i.get_file_id(dataset.id).get_filesize())


def _num_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return math.prod(shape) * int(dtype.itemsize)
