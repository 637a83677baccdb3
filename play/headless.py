"""Playing where nobody looks on: no window, no keys, and no pygame."""

from __future__ import annotations

import time
from collections.abc import Callable

from worldsim.policy import Policy

from .pace import Pace
from .session import Session


def play_headless(
    session: Session, num_steps: int, pace: Pace, make_policy: Callable[[], Policy] | None
) -> None:
    """Play a number of steps, episode after episode.

    Args:
        session: What is played.
        num_steps: Steps in all.
        pace: When each step is due.
        make_policy: Makes a player for each episode; without one nothing is ever pressed.
    """
    policy = make_policy() if make_policy else None
    while session.total_steps < num_steps:
        if session.is_over:
            session.restart()
            pace.restart()
            policy = make_policy() if make_policy else None
        time.sleep(pace.seconds_until_due())
        begun = time.perf_counter()
        action = session.config.noop_action
        if policy is not None:
            action = int(policy(session.observation, session.info, session.rng))
        session.step(action)
        pace.mark(time.perf_counter() - begun)
