"""Whether a world still looks like its game after thousands of steps.

    python tests/benchmarks/bench_drift.py WORLD RECORDING [--steps 5000] [--sessions 8] [--restart]

Sessions go on under actions of the recording, through every end that the world foretells, or with
``--restart`` beginning anew there, as its environment and its window do. For each
part of them: how far the frames are from the nearest recorded ones (root mean square over a frame
of 16 by 16, in values of 255), beside held-out recorded frames, which nothing should do better
than; PSNR of the pixels that change in less than one recorded frame in a thousand; how many pixels
differ from the median frame, as a share of what differs in the recording, so that things that
vanish or multiply show; and how many of those differ from the frame before, so that a world that
has come to rest shows.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro

from worldsim.metrics import psnr
from worldsim.moving import MOVING_THRESHOLD
from worldsim.recording import Recording
from worldsim.rollout import Rollout
from worldsim.world_model import load

SIDE = 16
MOST = 20_000  # recorded frames to compare with
PARTS = (1, 10, 100, 500, 1000, 2000, 5000, 10000)


def shrink(frames: np.ndarray) -> torch.Tensor:
    """Small copies (b d) of frames (b h w c)."""
    small = [cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames]
    return torch.from_numpy(np.stack(small).reshape(len(frames), -1)).float()


def nearest(small: torch.Tensor, known: torch.Tensor) -> float:
    """Mean distance of each to its nearest neighbour, root mean square over pixels."""
    distances = torch.cat([torch.cdist(part, known).min(1).values for part in small.split(64)])
    return float(distances.mean() / known.shape[1] ** 0.5)


def differing(frames: np.ndarray, other: np.ndarray) -> float:
    difference = np.abs(frames.astype(np.int16) - other.astype(np.int16)).max(-1)
    return float((difference > MOVING_THRESHOLD).mean())


def main(
    world_name: str,
    recording_folder: Path,
    /,
    steps: int = 5000,
    sessions: int = 8,
    passes: int | None = None,
    restart: bool = False,
    strip: Path | None = None,
) -> None:
    """Measure.

    Args:
        restart: Begin anew where a game is over.
        strip: Write a filmstrip of one session here.
    """
    world, recording = load(world_name), Recording(recording_folder)
    train, held_out = recording.split()
    median = recording.median_frame()
    frames = np.concatenate([recording.episode(i).frames for i in train])
    still = np.mean([(frame == median).all(-1) for frame in frames], axis=0) > 0.999
    known = shrink(frames[:: max(1, len(frames) // MOST)])
    episodes = [recording.episode(i) for i in held_out]
    real = np.concatenate([episode.frames for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    rng = np.random.default_rng(0)
    begins = rng.integers(len(actions), size=sessions)

    def report(name: str, shown: np.ndarray, before: np.ndarray) -> None:
        quiet = psnr(shown, np.broadcast_to(median, shown.shape), still[None].repeat(len(shown), 0))
        print(
            f"{name:>16} {nearest(shrink(shown), known):8.2f} {quiet:8.1f} "
            f"{differing(shown, median) / differing(real, median):8.2f} "
            f"{differing(shown, before) / differing(real[1:], real[:-1]):8.2f}",
            flush=True,
        )

    print(f"{'steps':>16} {'nearest':>8} {'still dB':>8} {'objects':>8} {'motion':>8}")
    sample = np.sort(rng.choice(len(real) - 1, min(800, len(real) - 1), replace=False)) + 1
    report("held-out frames", real[sample], real[sample - 1])
    rows = np.arange(sessions) % len(world.starts.frames)
    rollout = Rollout(world, sessions, num_passes=passes)
    rollout.reset(world.starts.frames[rows], world.starts.actions[rows], range(len(rows)))
    begun = time.monotonic()
    last, part, shots, ends = world.starts.frames[rows, -1], [], [], 0
    bounds = [p for p in PARTS if p <= steps]
    for step in range(1, steps + 1):
        played = rollout.step(actions[(begins + step) % len(actions)])
        shown, over = played.frames, played.terminations
        # the last 100 steps up to each bound
        if any(bound - 100 < step <= bound for bound in bounds):
            part.append((shown, last))
        last = shown
        for lane in np.flatnonzero(over) if restart else ():
            start = [(lane + step) % len(world.starts.frames)]
            rollout.reset(world.starts.frames[start], world.starts.actions[start], [step], [lane])
            ends += 1
        if step in bounds:
            shots.append(shown[0])
            now, before = (np.concatenate(side) for side in zip(*part, strict=True))
            report(f"..{step:,}", now, before)
            part = []
    seconds = time.monotonic() - begun
    print(f"{ends} games over; {steps * len(rows) / seconds:.0f} frames/s")
    if strip:
        cv2.imwrite(str(strip), np.concatenate(shots, 1)[..., ::-1])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
