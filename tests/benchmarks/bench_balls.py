"""How true a Balls world is to its physics: where each ball is, and whether it is still whole.

    python tests/benchmarks/bench_balls.py WORLD [--sessions 32] [--steps 64] [--passes 2]

Sessions go on from real ones under the same actions, each held for one to eight steps; there is no
chance in the motion. A ball is found by its colour (in real frames within 0.3 pixels of where it
is): its centre may then be compared with the real one's, and its area.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tyro

from worldsim.envs import balls
from worldsim.envs.sight import is_colour
from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

HORIZONS = (1, 4, 8, 16, 32, 64, 128, 256)
NAMES = ("white, pushed", "red", "blue", "green", "violet")
NEAR = 40  # of 255: how far a pixel of a ball may be from its colour
FEWEST = 8  # pixels that make a ball


def find_balls(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (... 5 2) as (x, y), nan where there is none, and areas (... 5) in pixels."""
    mine = np.stack([is_colour(frames, colour, NEAR) for colour in balls.COLOURS], axis=-3)
    area = mine.sum((-2, -1))
    y, x = np.mgrid[: balls.SIZE, : balls.SIZE] + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.stack([(mine * axis).sum((-2, -1)) / area for axis in (x, y)], axis=-1)
    return np.where(area[..., None] >= FEWEST, centres, np.nan), area


def play(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (t h w c) of a real game and its actions."""
    rng = np.random.default_rng(seed)
    held = np.repeat(rng.integers(5, size=steps), rng.integers(1, 9, size=steps))[:steps]
    env = balls.Balls()
    return np.stack([env.reset(seed=seed)[0], *(env.step(int(a))[0] for a in held)]), held


class Played(NamedTuple):
    """Real and imagined sessions (b t ...), ball by ball.

    Attributes:
        off: Pixels between a ball's imagined centre and its real one, nan where there is none.
        stayed: The same had it stayed where it was when the imagined part begins.
        found: Whether it is there in the imagined frame.
        area: Pixels of its colour in the imagined frame.
        real_area: The same in the real one.
        target: Whether the target is there, (b t).
    """

    off: np.ndarray
    stayed: np.ndarray
    found: np.ndarray
    area: np.ndarray
    real_area: np.ndarray
    target: np.ndarray


def imagine(world: WorldModel, sessions: int, steps: int, passes: int | None = None) -> Played:
    """Let a world go on from real games under the same actions."""
    context = world.window
    games = [play(seed, context + steps - 1) for seed in range(sessions)]
    frames, actions = (np.stack(column) for column in zip(*games, strict=True))
    rollout = Rollout(world, sessions, num_passes=passes)
    rollout.reset(frames[:, :context], actions[:, : context - 1], range(sessions))
    shown = np.stack(
        [rollout.step(actions[:, t]).frames for t in range(context - 1, context + steps - 1)], 1
    )
    real, real_area = find_balls(frames[:, context:])
    last, _ = find_balls(frames[:, context - 1 : context])
    ours, area = find_balls(shown)
    return Played(
        off=np.linalg.norm(ours - real, axis=-1),
        stayed=np.linalg.norm(last - real, axis=-1),
        found=area >= FEWEST,
        area=area,
        real_area=real_area,
        target=is_colour(shown, balls.TARGET, NEAR).sum((-2, -1)) >= FEWEST,
    )


def main(
    world_name: str,
    /,
    sessions: int = 32,
    steps: int = 64,
    passes: int | None = None,
) -> None:
    played = imagine(load(world_name), sessions, steps, passes)
    print(f"{'':>5} {'pixels off (had it stayed)':^33} {'found':>8} {'area':>8} {'target':>8}")
    print(f"{'step':>5} {'white, pushed':>16} {'the others':>16}", end=" ")
    print(f"{'all':>8} {'of true':>8} {'found':>8}")
    for horizon in (h for h in HORIZONS if h <= steps):
        at = Played(*(figure[:, horizon - 1] for figure in played))
        off = " ".join(
            f"{np.nanmean(at.off[:, of]):>8.2f} ({np.nanmean(at.stayed[:, of]):5.2f})"
            for of in (slice(0, 1), slice(1, None))
        )
        found, area = at.found.mean(), at.area.sum() / at.real_area.sum()
        print(f"{horizon:>5} {off} {found:>8.1%} {area:>8.2f} {at.target.mean():>8.1%}")
    found = played.found.mean((0, 1))
    print("found, by ball: " + ", ".join(f"{n} {f:.1%}" for n, f in zip(NAMES, found, strict=True)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
