"""A world that plays on by its ring cache, beside the same world chained in windows.

python tests/benchmarks/bench_long_video.py [WORLDS ...] [--seconds 30] [--out FOLDER]

Each row is a run of `worldsim imagine`: warping error and shift of the mean colour at seams and
elsewhere, steps that look like cuts, and the highest memory of the process. Windows have four times
the frames of the world's window. Of Balls also the share of frames with exactly one target. Writes
long_video.md, and seam_WORLD.png: the seam with the largest warping error, at an overlap of one
frame, and below it the same steps by the ring.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import tyro

from worldsim.eval.flicker import measure_steps
from worldsim.media import filmstrip, read_frames
from worldsim.world_folder import load

RUN = """
import resource, sys
from worldsim.video.imagine import main
main(sys.argv[1:])
print("MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
COLUMNS = ["world", "way", "seconds", "warping error", "at seams", "colour shift", "at seams"]
COLUMNS += ["cuts", "one target", "peak MB"]


def row(world: str, overlap: int, seconds: float, out: Path) -> str:
    """Make a video, by the ring if the overlap is 0, and return its row of the table."""
    arguments = ["--model", world, "--seconds", str(seconds), "--out", str(out)]
    if overlap:
        arguments += ["--overlap", str(overlap)]
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory = float(done.stdout.rsplit("MB", 1)[1])
    found = json.loads(out.with_suffix(".json").read_text())
    seams = found.get("seams")
    if seams is None:
        shift, cuts = f"{found['colour_shift']:.2f}", str(len(found["cuts"]))
        figures = [f"{found['warping_error']:.2f}", "", shift, "", cuts]
    else:
        figures = [
            f"{seams['warping_error_elsewhere']:.2f}",
            f"{seams['warping_error']:.2f}",
            f"{seams['colour_shift_elsewhere']:.2f}",
            f"{seams['colour_shift']:.2f}",
            str(len(seams["cuts"])),
        ]
    kept = f"{one_target(read_frames(out, last=10_000)):.1%}" if world == "balls" else ""
    way = f"{found['windows']} windows, overlap {overlap}" if overlap else "ring"
    return "| " + " | ".join([world, way, f"{seconds:g}", *figures, kept, f"{memory:.0f}"]) + " |"


def one_target(frames: np.ndarray) -> float:
    """Share of the frames of Balls (t h w 3) with exactly one patch in the colour of the target."""
    red, green, blue = np.moveaxis(frames, -1, 0)
    counts = []
    for mask in (red > 180) & (green > 140) & (blue < 110):
        areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        counts.append(int((areas >= 8).sum()))
    return float(np.mean(np.array(counts) == 1))


def main(
    worlds: tuple[str, ...] = ("pong", "balls", "maze"),
    /,
    seconds: float = 30,
    longer: float = 100,
    out: Path = Path("long_video"),
) -> None:
    """Measure all worlds.

    Args:
        worlds: Names or folders.
        seconds: Length of the videos.
        longer: Length of further videos of the first world, for the memory.
        out: A folder for videos, table and pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name in worlds:
        world = load(name, device="cpu")
        half = max(1, world.window // 2)
        runs = [(0, seconds), (half, seconds), (1, seconds)]
        if name == worlds[0]:  # memory at another length
            runs += [(0, longer), (half, longer)]
        for overlap, length in runs:
            path = out / f"{Path(name).name}_{overlap}_{length:g}.mp4"
            lines.append(row(name, overlap, length, path))
            print(lines[-1], flush=True)
        chained, ring = (
            read_frames(out / f"{Path(name).name}_{overlap}_{seconds:g}.mp4", last=10_000)
            for overlap in (1, 0)
        )
        errors, window = measure_steps(chained).errors, 4 * world.window
        seams = range(window - 1, len(chained) - 5, window - 1)  # the last frame of each window
        seam = max(seams, key=lambda frame: errors[frame])
        strips = [video[seam - 4 : seam + 6] for video in (chained, ring)]
        labels, steps = ["chained", "ring"], [str(step) for step in range(-4, 6)]
        path = out / f"seam_{Path(name).name}.png"
        filmstrip(strips, path, scale=2, labels=labels, column_labels=steps)
        (out / "long_video.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
