"""Recording on Ray against local processes: ``python tests/benchmarks/bench_record_ray.py``.

Two workers of each kind record the same steps of worldsim/Pong-v0 in turn, REPEATS times. The rate
counts the steps after the first finished episode; the start is what comes before it. A Ray cluster
of this machine runs already, as a cluster does. Ray gives its workers a niceness of 15, so that
they yield to other work; here they have that of local workers.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import ray

from worldsim.data.recording import Recording
from worldsim.envs.record import RecordConfig, record

STEPS, REPEATS = 20_000, 5


def measure(out: Path, address: str | None, steps: int) -> tuple[float, float]:
    """Return the steps a second after the start, and the seconds of the start."""
    begun = time.time()
    record(RecordConfig("worldsim/Pong-v0", steps=steps, workers=2, ray=address), out)
    times = {file: file.stat().st_mtime for file in sorted(out.glob("**/shards/*.hdf5"))}
    # Surplus episodes are deleted in the end, so the first and the last one may be missing here.
    first, last = min(times.values()), max(times.values())
    lengths = Recording(out).episode_lengths
    after = sum(int(n) for n, at in zip(lengths, times.values(), strict=True) if at > first)
    return after / (last - first), first - begun


def main() -> None:
    """Measure in turn."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    begun = time.monotonic()
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    print(f"the cluster starts in {time.monotonic() - begun:.1f} s")
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(REPEATS):
            for kind in rates:
                address = "auto" if kind == "ray" else None
                rate, start = measure(Path(name) / f"{kind}{repeat}", address, steps)
                rates[kind].append(rate)
                print(f"{kind:5} {rate:6,.0f} steps/s after a start of {start:.1f} s", flush=True)
    ratios = [ray / local for local, ray in zip(*rates.values(), strict=True)]
    print(f"ray/local: {', '.join(f'{one:.3f}' for one in ratios)}; ", end="")
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
