"""Do small things in large frames survive in a world? The ball of Pong, found by its colour.

Worlds continue held-out windows under the recorded actions, at any frame size. In frames whose real
one shows the ball: the share with just one ball, and with one that is within two pixels (of 64) of
the real one's place. Beside them, the same of the codec alone, without any prediction, and of the
last frame copied.

    worldsim record worldsim/Pong-v0 --frame-size 128 128 --out recordings/pong128
    worldsim train recordings/pong128 --out runs/pong128
    python tests/benchmarks/bench_small_things.py runs/pong128 --on recordings/pong128
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import tyro

from worldsim.data.recording import Recording
from worldsim.envs import pong
from worldsim.envs.sight import is_colour
from worldsim.eval.held_out import choose_windows, roll_out
from worldsim.eval.unseen import unseen
from worldsim.world_folder import load

HORIZONS = (1, 4, 8, 16, 32)
NEAR = 2.0  # pixels of the game's own frame


@dataclass(frozen=True)
class Config:
    """What is measured."""

    worlds: tyro.conf.Positional[tuple[str, ...]]
    """Worlds of Pong."""
    on: str
    """Recording of Pong."""
    windows: int = 64
    """Held-out windows."""


def find_ball(frame: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of balls in a frame (h w c), and the centre (y, x) of the largest one."""
    scale = frame.shape[0] / pong.SIZE
    top, bottom = round(pong.COURT_TOP * scale), round(pong.COURT_BOTTOM * scale)
    mask = is_colour(frame[top:bottom], pong.BALL).astype(np.uint8)
    count, _, about, centres = cv2.connectedComponentsWithStats(mask)
    if count == 1:
        return 0, np.full(2, np.nan)
    largest = 1 + int(np.argmax(about[1:, cv2.CC_STAT_AREA]))
    return count - 1, centres[largest][::-1] / scale


def score(real: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the shares (2) of frames (b h w c) with one ball, and with one in its place."""
    found = []
    for one, other in zip(real, shown, strict=True):
        (number, place), (seen, where) = find_ball(one), find_ball(other)
        if number == 1:
            near = seen == 1 and bool(np.hypot(*(where - place)) <= NEAR)
            found.append((seen == 1, near))
    return np.mean(found, axis=0)


def main(config: Config) -> None:
    """Measure each world and print a table."""
    torch.set_num_threads(1)
    recording = Recording(config.on)
    columns = " | ".join(f"+{horizon}" for horizon in HORIZONS)
    print(f"one ball / in its place, % | {columns}\n{'---|' * len(HORIZONS)}---")
    for name in config.worlds:
        world = load(name, "cpu")
        held_out = choose_windows(
            world,
            recording,
            unseen([world], recording).unseen,
            horizons=(max(HORIZONS),),
            num_windows=config.windows,
        )
        real = held_out.real
        with torch.no_grad():
            decoded = [
                world.codec.decode(world.codec.encode(torch.from_numpy(clip[None])))[0]
                for clip in real
            ]
        copied = np.repeat(held_out.last_context[:, None], real.shape[1], axis=1)
        for label, frames in (
            ("last frame copied", copied),
            (f"codec of {name}", np.stack([each.numpy() for each in decoded])),
            (name, roll_out(world, held_out)),
        ):
            shares = [100 * score(real[:, h - 1], frames[:, h - 1]) for h in HORIZONS]
            print(label, *(f"{one:.0f} / {placed:.0f}" for one, placed in shares), sep=" | ")


if __name__ == "__main__":
    main(tyro.cli(Config))
