"""How much of what a world gets wrong is the game's own chance.

    python tests/benchmarks/bench_chance.py WORLD RECORDING [--windows 64] [--steps 128]

The game is played again up to where a held-out window begins (its episode's seed is recorded), and
from there once more under the same actions but with other chance. What comes of it, measured
against what was recorded as the world's frames are, is as much as any world could reach on average
that draws its chances as the game does. Games that can be branched so: Atari's and our own.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import tyro

from worldsim.game import make_game
from worldsim.held_out import HeldOutWindows, roll_out
from worldsim.metrics import compare
from worldsim.recording import Recording
from worldsim.world_model import load

HORIZONS = (1, 8, 16, 32, 64, 128)


def redraw_chance(env: gymnasium.Env, seed: int) -> None:
    """Give the game other random numbers from here on, and change nothing else of it."""
    game = env.unwrapped
    if hasattr(game, "ale"):
        state = game.ale.cloneState()
        env.reset(seed=seed)
        game.ale.restoreState(state)
    else:
        game.np_random = np.random.default_rng(seed)


def play_again(recording: Recording, index: int, begin: int, steps: int, seed: int) -> np.ndarray:
    """Frames (t h w c) after the frame ``begin`` of an episode, as they may come another time."""
    env, episode = make_game(recording.game), recording.episode(index)
    frame, _ = env.reset(seed=episode.seed)
    for action in episode.actions[:begin]:
        frame, *_ = env.step(action)
    if not (frame == episode.frames[begin]).all():
        raise SystemExit(f"episode {index} does not come again with its seed and actions")
    redraw_chance(env, seed)
    frames, over = [], False
    for action in episode.actions[begin : begin + steps]:
        if not over:
            frame, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        frames.append(frame)
    env.close()
    return np.stack(frames)


def main(
    world_name: str,
    recording_folder: Path,
    /,
    windows: int = 64,
    steps: int = 128,
    passes: int | None = None,
) -> None:
    world, recording = load(world_name), Recording(recording_folder)
    _, held_out = recording.split()
    context = world.window
    places = [
        (index, start)
        for index in held_out
        for start in range(int(recording.episode_lengths[index]) + 2 - context - steps)
    ]
    chosen = np.random.default_rng(0).permutation(len(places))[:windows]
    episodes, starts = zip(*(places[i] for i in chosen), strict=True)
    real = HeldOutWindows(recording.windows(episodes, starts, context + steps), context, steps)
    again = np.stack(
        [
            play_again(recording, index, start + context - 1, steps, seed)
            for seed, (index, start) in enumerate(zip(episodes, starts, strict=True))
        ]
    )
    median = recording.median_frame()
    horizons = [h for h in HORIZONS if h <= steps]
    ours = compare(roll_out(world, real, num_passes=passes), real, median, horizons)
    chance = compare(again, real, median, horizons)
    print(f"{'':>5} {'moving pixels':^43}  {'all pixels':^43}")
    names = "".join(f"{name:>11}" for name in ("world", "game again", "copy-last", "median"))
    print(f"{'step':>5}{names} {names}")
    for horizon in horizons:
        figures = [
            "".join(
                f"{row[f'{kind}_{name}']:>11.1f}"
                for row, name in (
                    (ours[horizon], "world"),
                    (chance[horizon], "world"),
                    (ours[horizon], "copy_last"),
                    (ours[horizon], "median"),
                )
            )
            for kind in ("psnr_moving", "psnr")
        ]
        print(f"{horizon:>5}{figures[0]} {figures[1]}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
