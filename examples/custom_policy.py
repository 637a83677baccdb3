"""Record a game with a player of your own: any function of a frame.

python examples/custom_policy.py [--steps 5000] [--out recordings/followed]

On the command line, in this folder, it is `--policy custom_policy:follow_the_ball`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from worldsim import Recording
from worldsim.envs.record import RecordConfig, record

NOOP, UP, DOWN = 0, 1, 2
BALL, PADDLE = (250, 246, 220), (64, 208, 112)


def follow_the_ball(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
    """Move the paddle towards the ball.

    Args:
        observation: The frame, ``uint8`` (h w c).
        info: What the game reports beside it; not needed here.
        rng: The only source of chance, so that a recording can be repeated.

    Returns:
        The action.
    """
    rows = [
        np.flatnonzero((observation == colour).all(axis=2).any(axis=1)) for colour in (BALL, PADDLE)
    ]
    if not all(len(found) for found in rows) or rng.random() < 0.1:
        return int(rng.integers(3))  # mistakes belong into a recording
    ball, paddle = (found.mean() for found in rows)
    return NOOP if abs(ball - paddle) < 2 else UP if ball < paddle else DOWN


def main(steps: int = 5_000, out: Path = Path("recordings/followed")) -> None:
    config = RecordConfig(
        env_id="worldsim/Pong-v0",
        steps=steps,
        policy=("custom_policy:follow_the_ball=0.8", "sticky=0.2"),
    )
    record(config, out)
    recording = Recording(out)
    rewards = np.concatenate([recording.rewards(i) for i in range(len(recording))])
    points = f"{(rewards > 0).sum()} points won and {(rewards < 0).sum()} lost"
    print(f"{out}: {recording.total_steps:,} steps in {len(recording)} games, {points}")
    print(f"next: worldsim train {out} --out runs/{out.name} --minutes 10")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
