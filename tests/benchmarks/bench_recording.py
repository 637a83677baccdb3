"""Ways to keep frames, and windows a second: ``python tests/benchmarks/bench_recording.py PATH``.

PATH is a recording; without one, 4,000 steps of worldsim/Pong-v0 are recorded first. Each way is
measured in CPU seconds of one core, on the same random windows of 16 frames, files in the cache of
the system.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldsim.data.recording import Recording
from worldsim.envs.record import main as record

WINDOW, BATCH, NUM_BATCHES = 16, 64, 32
MAX_FRAMES = 8192
WAYS: dict[str, dict[str, Any]] = {
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "gzip 3": {"compression": "gzip", "compression_opts": 3},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "gzip 6": {"compression": "gzip", "compression_opts": 6},
    "gzip 9": {"compression": "gzip", "compression_opts": 9},
    "lzf": {"compression": "lzf"},
    "none": {},
}


def measure_recording(path: Path) -> float:
    """Return windows a second of `Recording.sample_windows`."""
    recording = Recording(path)
    rng = np.random.default_rng(0)
    begun = time.process_time()
    for _ in range(NUM_BATCHES):
        recording.sample_windows(rng, BATCH, WINDOW)
    return NUM_BATCHES * BATCH / (time.process_time() - begun)


def measure_opening(path: Path) -> float:
    """Return CPU milliseconds to open a recording."""
    begun = time.process_time()
    Recording(path)
    return 1000 * (time.process_time() - begun)


def measure_ways(frames: np.ndarray, folder: Path) -> None:
    """Print bytes a frame, written frames a second, and windows a second of each way."""
    starts = np.random.default_rng(0).integers(len(frames) - WINDOW, size=NUM_BATCHES * BATCH)
    print(f"{'':8} bytes/frame  written frames/s  windows/s by h5py  opened anew  by raw chunks")
    for name, options in WAYS.items():
        file_name = folder / f"{name}.hdf5"
        begun = time.process_time()
        with h5py.File(file_name, "w") as file:
            file.create_dataset("o", data=frames, chunks=(16, *frames.shape[1:]), **options)
        written = len(frames) / (time.process_time() - begun)
        with h5py.File(file_name, rdcc_nbytes=0) as file:  # no cache of decoded chunks
            dataset = file["o"]
            begun = time.process_time()
            for start in starts:
                dataset[start : start + WINDOW]
            by_h5py = len(starts) / (time.process_time() - begun)
            begun = time.process_time()
            for start in starts:
                with h5py.File(file_name) as opened:
                    opened["o"][start : start + WINDOW]
            opening = len(starts) / (time.process_time() - begun)
            raw = f"{_measure_raw(dataset, starts):22,.0f}" if "gzip" in name else ""
        size = file_name.stat().st_size / len(frames)
        print(f"{name:8} {size:11,.0f} {written:17,.0f} {by_h5py:18,.0f} {opening:13,.0f} {raw}")


def _measure_raw(dataset: h5py.Dataset, starts: np.ndarray) -> float:
    chunk_bytes = int(np.prod(dataset.chunks))
    begun = time.process_time()
    for start in starts.tolist():
        for chunk in range(start // 16, (start + WINDOW - 1) // 16 + 1):
            _, data = dataset.id.read_direct_chunk((chunk * 16, 0, 0, 0))
            frames = np.frombuffer(zlib.decompress(data, bufsize=chunk_bytes), np.uint8)
            frames.reshape(dataset.chunks).copy()
    return len(starts) / (time.process_time() - begun)


def main() -> None:
    """Measure a recording and the alternatives."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "pong"
        if not path.exists():
            record(["worldsim/Pong-v0", "--steps", "4000", "--out", str(path)])
        recording = Recording(path)
        frames: list[np.ndarray] = []
        for index in range(len(recording)):
            frames.append(recording.episode(index).frames)
            if sum(map(len, frames)) >= MAX_FRAMES:
                break
        size = sum(shard.stat().st_size for shard in path.glob("**/shards/*.hdf5"))
        print(f"{path}: {size / (recording.total_steps + len(recording)):,.0f} bytes/frame")
        bare = shutil.copytree(path, folder / "bare", ignore=shutil.ignore_patterns("index.hdf5"))
        times = measure_opening(path), measure_opening(bare)
        print(f"opened in {times[0]:,.1f} ms by its index, in {times[1]:,.1f} ms without one")
        print(f"Recording.sample_windows: {measure_recording(path):,.0f} windows/s")
        measure_ways(np.concatenate(frames), folder)


if __name__ == "__main__":
    main()
