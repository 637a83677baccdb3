"""HDF5 from strangers: plain arrays are read to the bit, all else is refused before it is read."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from worldsim.system.hdf5 import get_group, inflate, open_hdf5, read_array, read_attribute

VALUES = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def read(path: Path, dtype: type = np.uint8, name: str = "x", max_bytes: int = 10**6) -> np.ndarray:
    with open_hdf5(path, "write it again") as file:
        return read_array(file, name, dtype, (None, 7, 3), max_bytes)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "gzip"},
        {"chunks": (2, 7, 3)},
        {"chunks": (2, 4, 2), "compression": "gzip", "compression_opts": 9},
        {"chunks": (3, 7, 3), "maxshape": (None, 7, 3)},
    ],
)
def test_a_plain_array_is_read_to_the_bit(tmp_path: Path, how: dict) -> None:
    for dtype in (np.uint8, np.int64, np.float32, bool):
        values = VALUES.astype(dtype)
        with h5py.File(tmp_path / "a", "w") as file:
            file.create_dataset("x", data=values, **how)
        found = read(tmp_path / "a", dtype)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def test_truth_values_are_true_or_false(tmp_path: Path) -> None:
    for how in ({}, {"compression": "gzip"}):
        with h5py.File(tmp_path / "a", "w") as file:
            file.create_dataset("x", data=np.full((5, 7, 3), 2, np.uint8).view(bool), **how)
        with pytest.raises(ValueError, match="neither true nor false"):
            read(tmp_path / "a", bool)


def test_an_array_without_values_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        file["x"] = VALUES[:0]
    assert read(tmp_path / "a").shape == (0, 7, 3)


def external(file: h5py.File) -> None:
    file.create_dataset("x", (5, 7, 3), "u1", external=[("/etc/passwd", 0, 105)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 7, 3), "u1")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (5, 7, 3))
    file.create_virtual_dataset("x", layout)


def soft_link(file: h5py.File) -> None:
    file["y"] = VALUES
    file["x"] = h5py.SoftLink("/y")


def external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/etc/other.h5", "x")


def group(file: h5py.File) -> None:
    file.create_group("x")


def scalar(file: h5py.File) -> None:
    file["x"] = np.uint8(3)


def nothing(file: h5py.File) -> None:
    file["x"] = h5py.Empty("u1")


def other_shape(file: h5py.File) -> None:
    file["x"] = VALUES[:, :, :2]


def other_type(file: h5py.File) -> None:
    file["x"] = VALUES.astype(np.int16)


def other_order(file: h5py.File) -> None:
    file["x"] = VALUES.astype(">i4")


def texts(file: h5py.File) -> None:
    file.create_dataset("x", (5, 7, 3), h5py.string_dtype())


def lists(file: h5py.File) -> None:
    file.create_dataset("x", (5, 7, 3), h5py.vlen_dtype(np.uint8))


def other_filter(file: h5py.File) -> None:
    file.create_dataset("x", data=VALUES, compression="lzf")


def unknown_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((5, 7, 3))
    plist.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((5, 7, 3))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, plist)


def never_written(file: h5py.File) -> None:
    file.create_dataset("x", (5, 7, 3), "u1")


def chunks_never_written(file: h5py.File) -> None:
    file.create_dataset("x", (30_000, 7, 3), "u1", chunks=(10, 7, 3))[:10] = 1


def too_many(file: h5py.File) -> None:
    file.create_dataset("x", (10**12, 7, 3), "u1", chunks=(10, 7, 3))


def too_many_chunks(file: h5py.File) -> None:
    file.create_dataset("x", (40_000, 7, 3), "u1", chunks=(1, 1, 1))


def many_attributes(file: h5py.File) -> None:
    file["x"] = VALUES
    for index in range(100):
        file["x"].attrs[f"a{index}"] = index


def large_chunks(file: h5py.File) -> None:
    file.create_dataset("x", data=VALUES, chunks=(10**6, 7, 3), maxshape=(None, 7, 3))


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (external, "in another file"),
        (virtual, "in another file"),
        (soft_link, "x is a link"),
        (external_link, "x is a link"),
        (group, "x is not a dataset"),
        (lambda file: None, "there is no x"),
        (scalar, r"has shape \(\), not \(any, 7, 3\)"),
        (nothing, r"has shape None"),
        (other_shape, r"has shape \(5, 7, 2\)"),
        (other_type, "not of type uint8"),
        (other_order, "not of type uint8"),
        (texts, "not of type uint8"),
        (lists, "not of type uint8"),
        (other_filter, "other filters than gzip"),
        (unknown_filter, "other filters than gzip"),
        (never_written, "more than are stored"),
        (chunks_never_written, r"lacks its chunk at \(10, 0, 0\)"),
        (too_many, "takes 21,000,000,000,000 bytes, more than 1,000,000"),
        (too_many_chunks, "claims more than the file holds"),
        (large_chunks, "larger than itself"),
        (many_attributes, "more than 64 attributes"),
    ],
)
def test_what_is_no_plain_array_is_refused_at_once(
    tmp_path: Path, write: Callable[[h5py.File], None], sentence: str
) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        write(file)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf"a is damaged \(.*{sentence}.*\): write it") as caught:
        read(tmp_path / "a")
    assert time.monotonic() - begun < 1
    assert "\n" not in str(caught.value)


def test_a_chunk_is_inflated_as_far_as_its_size(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        data = file.create_dataset("x", (5, 7, 3), "u1", chunks=(5, 7, 3), compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**27)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not have its 105 bytes"):
        read(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("values", [b"", b"ab", b"abcd"])
def test_a_chunk_of_another_size_is_refused(values: bytes) -> None:
    assert inflate(zlib.compress(b"abc"), 3) == b"abc"
    for data in (zlib.compress(values), zlib.compress(b"abc")[:-1]):
        with pytest.raises((ValueError, zlib.error)):
            inflate(data, 3)


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        file["x"] = VALUES
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(ValueError, match="a is damaged"):
        read(tmp_path / "a")


def test_a_link_in_the_folder_is_no_file_of_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        file["x"] = VALUES
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="b is a link"):
        read(tmp_path / "b")


def test_attributes_are_one_number_or_one_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as file:
        attributes = file.create_group("g").attrs
        attributes["seed"], attributes["policy"], attributes["seeds"] = 3, "agent", [1, 2]
        attributes["half"] = 0.5
    with open_hdf5(tmp_path / "a", "write it again") as file:
        group = get_group(file, "g")
        assert read_attribute(group, "seed", int) == 3
        assert read_attribute(group, "policy", str) == "agent"
        assert read_attribute(group, "nothing", int) is None
        for name, kind in (("policy", int), ("seed", str), ("seeds", int), ("half", int)):
            with pytest.raises(ValueError, match=f"the attribute {name} is not one"):
                read_attribute(group, name, kind)
