"""How many balls a Pong world shows in long sessions under the scripted player: there is one.

python tests/benchmarks/bench_pong.py [WORLD] [--passes 2] [--steps 200] [--sessions 8]
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from worldsim.envs import pong
from worldsim.rollout import Rollout
from worldsim.world_model import load


def count_balls(frame: np.ndarray) -> int:
    """Count the patches of the ball's colour in the court of a frame (h w c)."""
    court = frame[pong.COURT_TOP : pong.COURT_BOTTOM].astype(int)
    ball = (np.abs(court - pong.BALL).max(-1) < 60).astype(np.uint8)
    return cv2.connectedComponents(ball)[0] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("world", nargs="?", default="pong")
    parser.add_argument("--passes", type=int)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=8)
    arguments = parser.parse_args()
    world = load(arguments.world)
    starts, sessions = world.starts, range(arguments.sessions)
    rollout = Rollout(world, arguments.sessions, num_passes=arguments.passes)
    rollout.reset(starts.frames[sessions], starts.actions[sessions], sessions)
    frames = starts.frames[sessions, -1]
    rng = np.random.default_rng(0)
    balls, rewards, ends = [], [], 0
    for step in range(arguments.steps):
        actions = np.array([pong.play(frame, {}, rng) for frame in frames])
        frames, reward, terminated, _ = rollout.step(actions)
        balls.append([count_balls(frame) for frame in frames])
        rewards.append(reward)
        for lane in np.flatnonzero(terminated):
            start = [(lane + step) % len(starts.frames)]
            rollout.reset(starts.frames[start], starts.actions[start], [step], lanes=[lane])
            ends += 1
    shown = np.array(balls)
    points = np.array(rewards)
    print(
        f"{rollout.num_passes} passes, {shown.size} frames: "
        + ", ".join(f"{np.mean(shown == n):.1%} with {n} balls" for n in range(4))
        + "; one ball, by quarters of the session: "
        + ", ".join(f"{np.mean(part == 1):.0%}" for part in np.array_split(shown, 4))
        + f"; {(points > 0.5).sum()} points won, {(points < -0.5).sum()} lost, {ends} games over"
    )


if __name__ == "__main__":
    main()
