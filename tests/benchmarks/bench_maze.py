"""Whether a Maze world remembers what has left its view.

    python tests/benchmarks/bench_maze.py [WORLD] [--mazes 64] [--passes 2]

In real mazes the player walks at random until the world's window is full of recorded frames. From
there the world goes on by itself: so many tiles along an open path, and back by the same path. PSNR
of the last frame against the real one, apart for the pixels that were out of view at the far end of
the path and for those that never were; beside what the same world makes of the way back when it has
forgotten all but the newest frames, and the recording's median frame.
"""

from __future__ import annotations

import argparse

import numpy as np

from worldsim.envs import maze
from worldsim.metrics import psnr
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel, load

SEEN = ~maze.DARKNESS  # the round view
BACK = np.array(maze.OPPOSITE)


def walk(seed: int, context: int, far: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (t h w c) and actions of a way out and back, and which pixels were out of view."""
    rng = np.random.default_rng(seed)
    while True:  # until a path of that length begins where the walk has led
        env = maze.Maze()
        frame, info = env.reset(seed=int(rng.integers(2**31)))
        frames, actions = [frame], list(rng.integers(1, len(maze.MOVES), size=context - 1))
        for action in actions:
            frame, *_, info = env.step(action)
            frames.append(frame)
        out = find_path(info, far, rng)
        if out:
            break
    begin = info["player"]
    for action in out:
        frame, *_, info = env.step(action)
        frames.append(frame)
    moved = (info["player"] - begin) * maze.TILE
    for action in BACK[out[::-1]]:
        frames.append(env.step(action)[0])
    y, x = np.mgrid[: maze.SIZE, : maze.SIZE] - moved[:, None, None]
    inside = (y >= 0) & (y < maze.SIZE) & (x >= 0) & (x < maze.SIZE)
    still_seen = inside & SEEN[y.clip(0, maze.SIZE - 1), x.clip(0, maze.SIZE - 1)]
    return np.stack(frames), np.array([*actions, *out, *BACK[out[::-1]]]), SEEN & ~still_seen


def find_path(info: dict, far: int, rng: np.random.Generator) -> list[int]:
    """Actions along open tiles, none visited twice; empty where there is no such path."""
    shut = info["walls"].copy()
    for name in ("door", "exit"):
        shut[tuple(info[name])] = True

    def extend(path: list[int], places: list[tuple[int, int]]) -> list[int]:
        if len(path) == far:
            return path
        for action in rng.permutation(4) + 1:
            row, column = maze.MOVES[action]
            ahead = (places[-1][0] + row, places[-1][1] + column)
            if not shut[ahead] and ahead not in places:
                whole = extend([*path, int(action)], [*places, ahead])
                if whole:
                    return whole
        return []

    return extend([], [tuple(info["player"].tolist())])


def remember(
    world: WorldModel, far: int, mazes: int, passes: int | None = None
) -> tuple[float, float, float, float]:
    """PSNR after ways of one length.

    Returns:
        Where it had left the view: of the world, of the world when it has forgotten, of the median
        frame; and of the world where it had not.
    """
    context = world.window
    walks = [walk(seed, context, far) for seed in range(mazes)]
    frames, actions, left = (np.stack(column) for column in zip(*walks, strict=True))
    rollout = Rollout(world, mazes, num_passes=passes)
    rollout.reset(frames[:, :context], actions[:, : context - 1], range(mazes))
    shown = [rollout.step(actions[:, t]).frames for t in range(context - 1, context + 2 * far - 1)]
    recent = np.stack([*frames[:, :context].swapaxes(0, 1), *shown[:far]], 1)
    first = context + far - world.num_history
    forgetful = Rollout(world, mazes, num_passes=passes)
    forgetful.reset(recent[:, first:], actions[:, first : context + far - 1], range(mazes))
    for t in range(context + far - 1, context + 2 * far - 1):
        forgotten = forgetful.step(actions[:, t]).frames
    real = frames[:, -1]
    median = np.broadcast_to(world.background, real.shape)
    out_of_view = [float(psnr(one, real, left)) for one in (shown[-1], forgotten, median)]
    return *out_of_view, float(psnr(shown[-1], real, SEEN & ~left))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("world", nargs="?", default="maze")
    parser.add_argument("--mazes", type=int, default=64)
    parser.add_argument("--passes", type=int)
    arguments = parser.parse_args()
    world = load(arguments.world)
    print(f"{'':>5} {'out of view at the far end, dB':>33} {'in view':>11}")
    print(f"{'tiles':>5} {'world':>11}{'forgetful':>11}{'median':>11}{'world':>11}")
    for far in range(2, world.window // 2 + 1):
        figures = remember(world, far, arguments.mazes, arguments.passes)
        print(f"{far:>5} " + "".join(f"{figure:>11.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
