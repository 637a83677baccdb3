"""Whether a world still looks like its game after thousands of steps.

    python tests/benchmarks/bench_drift.py WORLD RECORDING [--steps 5000] [--sessions 8] [--restart]

What the stability section of `worldsim eval` measures (`worldsim.eval.drift`), in longer and more
sessions, and also through every end that the world predicts, unless ``--restart`` begins anew
there, as its environment and its window do.
"""

from __future__ import annotations

import time
from pathlib import Path

import tyro
from rich.progress import Progress

from worldsim.data.recording import Recording
from worldsim.eval.drift import drift
from worldsim.eval.unseen import unseen
from worldsim.world_folder import load

PARTS = (1, 10, 100, 500, 1000, 2000, 5000, 10000)


def main(
    world_name: str,
    recording_folder: Path,
    /,
    steps: int = 5000,
    sessions: int = 8,
    passes: int | None = None,
    restart: bool = False,
) -> None:
    """Measure.

    Args:
        restart: Begin anew where a game is over.
    """
    world, recording = load(world_name), Recording(recording_folder)
    begun = time.monotonic()
    with Progress(transient=True) as progress:
        bar = progress.add_task("playing", total=steps)
        found = drift(
            world,
            recording,
            unseen([world], recording),
            bounds=[part for part in PARTS if part <= steps],
            num_lanes=sessions,
            num_passes=passes,
            restart=restart,
            on_step=lambda: progress.advance(bar),
        )
    print(f"{'steps':>16} {'nearest':>8} {'still dB':>8} {'objects':>8} {'motion':>8}")
    print(f"{'held-out frames':>16} {found.held_out_nearest:8.2f} {found.held_out_still:8.1f}")
    for i, step in enumerate(found.steps):
        figures = (found.nearest[i].mean(), found.still[i])
        shares = (found.objects[i].mean(), found.motion[i].mean())
        print(
            f"{f'..{step:,}':>16} {figures[0]:8.2f} {figures[1]:8.1f} "
            f"{shares[0]:8.2f} {shares[1]:8.2f}"
        )
    slope, seconds = found.slope, time.monotonic() - begun
    print(
        f"{slope.value:+.2f} ({slope.low:+.2f} to {slope.high:+.2f}) a thousand steps; "
        f"{found.ends} games over; {steps * sessions / seconds:.0f} frames/s"
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
