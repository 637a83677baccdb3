"""How true a Pong world is to its rules: one ball, and a paddle that goes where it is sent.

python tests/benchmarks/bench_pong.py [WORLD] [--passes 2] [--steps 200] [--sessions 16]

Balls are counted in sessions under the scripted player: there is one. The player's paddle is moved
by random actions, each held for one to eight steps, for 64 steps from each of the world's starts;
where it must then be follows from the game's rule alone.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import tyro

from worldsim.envs import pong
from worldsim.envs.sight import is_colour
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel, load

OBEY_STEPS = 64


class Played(NamedTuple):
    """What was seen in sessions, (t b).

    Attributes:
        balls: How many balls there are.
        rewards: Rewards.
        ends: Whether a game was over.
    """

    balls: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray


def count_balls(frame: np.ndarray) -> int:
    """Count the patches of the ball's colour in the court of a frame (h w c)."""
    ball = is_colour(frame[pong.COURT_TOP : pong.COURT_BOTTOM], pong.BALL).astype(np.uint8)
    return cv2.connectedComponents(ball)[0] - 1


def paddle_rows(frames: np.ndarray) -> np.ndarray:
    """Centre row of the player's paddle in frames (b h w c), nan where there is none."""
    court = frames[:, pong.COURT_TOP : pong.COURT_BOTTOM, pong.PLAYER_X :]
    paddle = is_colour(court, pong.PLAYER)
    rows = np.arange(pong.COURT_TOP, pong.COURT_BOTTOM)[:, None]
    count = paddle.sum((1, 2))
    return np.where(count >= 3, (paddle * rows).sum((1, 2)) / np.maximum(count, 1), np.nan)


def obey(world: WorldModel, passes: int | None) -> str:
    """How far the paddle is from where the actions have sent it."""
    starts, sessions = world.starts, range(len(world.starts.frames))
    rollout = Rollout(world, len(sessions), num_passes=passes)
    rollout.reset(starts.frames, starts.actions, sessions)
    half = (pong.PADDLE_HEIGHT - 1) / 2
    lowest, highest = pong.COURT_TOP + half, pong.COURT_BOTTOM - 1 - half
    rows = paddle_rows(starts.frames[:, -1])
    rng = np.random.default_rng(1)
    shape = (len(sessions), OBEY_STEPS)
    held = [np.repeat(rng.integers(3, size=64), rng.integers(1, 9, size=64)) for _ in sessions]
    actions = np.stack([row[:OBEY_STEPS] for row in held])
    off = np.empty(shape)
    for step in range(OBEY_STEPS):
        frames = rollout.step(actions[:, step]).frames
        rows = rows + pong.PADDLE_SPEED * np.array([0, -1, 1])[actions[:, step]]
        rows = np.clip(rows, lowest, highest)
        off[:, step] = np.abs(paddle_rows(frames) - rows)
    late = off[:, OBEY_STEPS // 2 :]
    return (
        f"player's paddle over {OBEY_STEPS} steps of held random actions, {shape[0]} sessions: "
        f"found in {np.isfinite(off).mean():.1%}, {np.nanmean(off):.2f} pixels off, within 1 pixel "
        f"in {(off <= 1).mean():.1%} of the frames (second half {(late <= 1).mean():.1%})"
    )


def play(world: WorldModel, passes: int | None, steps: int, sessions: int) -> Played:
    """Let the scripted player play; a session whose game is over begins anew."""
    starts, first = world.starts, np.arange(sessions) % len(world.starts.frames)
    rollout = Rollout(world, sessions, num_passes=passes)
    rollout.reset(starts.frames[first], starts.actions[first], range(sessions))
    frames = starts.frames[first, -1]
    rng = np.random.default_rng(0)
    balls, rewards, ends = [], [], []
    for step in range(steps):
        actions = np.array([pong.play(frame, {}, rng) for frame in frames])
        frames, reward, terminated, _ = rollout.step(actions)
        balls.append([count_balls(frame) for frame in frames])
        rewards.append(reward)
        ends.append(terminated)
        for lane in np.flatnonzero(terminated):
            start = [(lane + step) % len(starts.frames)]
            rollout.reset(starts.frames[start], starts.actions[start], [step], lanes=[lane])
    return Played(np.array(balls), np.array(rewards), np.array(ends))


def keep_the_ball(world: WorldModel, passes: int | None, steps: int, sessions: int) -> str:
    """How many balls there are in sessions under the scripted player."""
    balls, rewards, ends = play(world, passes, steps, sessions)
    return (
        f"{passes or world.num_passes} passes, {balls.size:,} frames: "
        + ", ".join(f"{np.mean(balls == n):.1%} with {n} balls" for n in range(4))
        + "; one ball, by quarters of the session: "
        + ", ".join(f"{np.mean(part == 1):.0%}" for part in np.array_split(balls, 4))
        + f"; {(rewards > 0.5).sum()} points won, {(rewards < -0.5).sum()} lost, "
        + f"{ends.sum()} games over"
    )


def main(
    world_name: str = "pong",
    /,
    passes: int | None = None,
    steps: int = 200,
    sessions: int = 16,
) -> None:
    world = load(world_name)
    print(keep_the_ball(world, passes, steps, sessions), flush=True)
    print(obey(world, passes))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
