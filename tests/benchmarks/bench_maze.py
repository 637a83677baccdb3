"""Whether a Maze world remembers what has left its view.

    python tests/benchmarks/bench_maze.py [WORLD] [--mazes 64] [--passes 2]

In real mazes the player walks at random until the world's window is full of recorded frames. From
there the world goes on by itself: so many cells along an open path, and back by the same path. PSNR
of the last frame against the real one, apart for the lit pixels that were in the dark at the far
end of the path and for those that were not; beside what the same world makes of the way back when
it has forgotten all but the newest frames, and the recording's median frame.
"""

from __future__ import annotations

import numpy as np
import tyro

from worldsim.envs import maze
from worldsim.eval.fidelity import psnr
from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

BACK = np.array(maze.OPPOSITE)


def walk(
    seed: int, context: int, far: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames (t h w c) and actions of a way out and back; the pixels lit at its end, at far end."""
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
    lit = maze.lit_from(tuple(info["player"]))
    for action in out:
        frame, *_, info = env.step(action)
        frames.append(frame)
    lit_far_away = maze.lit_from(tuple(info["player"]))
    for action in BACK[out[::-1]]:
        frames.append(env.step(action)[0])
    return np.stack(frames), np.array([*actions, *out, *BACK[out[::-1]]]), lit, lit_far_away


def find_path(info: dict, far: int, rng: np.random.Generator) -> list[int]:
    """Actions along open cells, none visited twice; empty where there is no such path."""

    def extend(path: list[int], cells: list[tuple[int, int]]) -> list[int]:
        if len(path) == far:
            return path
        for action in rng.permutation(4) + 1:
            ahead = maze.ahead_of(cells[-1], action)
            if maze.is_open(info["open_ways"], cells[-1], action) and ahead not in cells:
                whole = extend([*path, int(action)], [*cells, ahead])
                if whole:
                    return whole
        return []

    door = tuple(info["door"].tolist())
    return extend([], [door, tuple(info["player"].tolist())])


def remember(
    world: WorldModel, far: int, mazes: int, passes: int | None = None
) -> tuple[float, float, float, float]:
    """PSNR after ways of one length.

    Returns:
        Where it had been in the dark: of the world, of the world when it has forgotten, of the
        median frame; and of the world where it had not.
    """
    context = world.window
    walks = [walk(seed, context, far) for seed in range(mazes)]
    frames, actions, lit, lit_far_away = (np.stack(part) for part in zip(*walks, strict=True))
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
    hidden = lit & ~lit_far_away
    was_hidden = [float(psnr(one, real, hidden)) for one in (shown[-1], forgotten, median)]
    return *was_hidden, float(psnr(shown[-1], real, lit & lit_far_away))


def main(
    world_name: str = "maze",
    /,
    mazes: int = 64,
    passes: int | None = None,
) -> None:
    world = load(world_name)
    print(f"{'':>5} {'in the dark at the far end, dB':>33} {'lit':>11}")
    print(f"{'cells':>5} {'world':>11}{'forgetful':>11}{'median':>11}{'world':>11}")
    for far in range(2, world.window // 2 + 1):
        figures = remember(world, far, mazes, passes)
        print(f"{far:>5} " + "".join(f"{figure:>11.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
