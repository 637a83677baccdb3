"""How a world draws the serves of a Pong in which each goes one of eight ways by lot.

`balls` counts the balls in sessions under the scripted player, and in the frames after serves:
a world that cannot choose has none or several there. `serves` continues recorded serves many
times with other noise, and names the way that each one goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench_pong import count_balls, play
from tests.benchmarks.chance_measures import FILM_STEPS, Found, Scene, draw
from worldsim.envs import pong
from worldsim.envs.sight import is_colour
from worldsim.eval.held_out import HeldOutWindows

WAYS = [(vx, vy) for vx in (-2, 2) for vy in (-2, -1, 1, 2)]
"""Velocities of a serve in pixels per step, all equally likely in the game."""

SESSIONS, STEPS = 24, 128  # under the scripted player
AFTER = 16  # frames after a serve
CONTEXTS, DRAWS = 16, 16  # recorded serves, and how often each is continued
EARLY, LATE = 5, 10  # steps after a serve; a ball touches nothing before step 12
NEAR_SPEED = 0.35  # pixels per step by which a clear way may be off
NEAR_PLACE = 4.0  # pixels by which the ball may be off at step ``LATE``

_MIDDLE = np.array([pong.SIZE - 1, pong.COURT_TOP + pong.COURT_BOTTOM - 1]) / 2


def balls(scene: Scene) -> Found:
    """Shares of frames with one ball, none and more, in all frames and after serves."""
    played = play(scene.world, scene.passes, STEPS, SESSIONS)
    world = _by_time(played.balls, after_serves(played.rewards, played.ends))
    # The game's are those of the held-out episodes.
    counts, after = [], []
    for index in scene.episodes.unseen:
        episode = scene.recording.episode(index)
        counts.append([count_balls(frame) for frame in episode.frames[1:]])
        after.append(after_serves(episode.rewards[:, None], episode.terminations[:, None])[:, 0])
    return Found(world, _by_time(np.concatenate(counts), np.concatenate(after)))


def _by_time(counts: NDArray[np.int64], after: NDArray[np.bool_]) -> dict[str, float]:
    free, served = ball_shares(counts), ball_shares(counts[after])
    return {
        **{f"balls: {number}": share for number, share in free.items()},
        **{f"balls after a serve: {number}": share for number, share in served.items()},
    }


def ball_shares(counts: NDArray[np.int64]) -> dict[str, float]:
    """Shares of numbers of balls that are one, none and more; nan of no numbers.

    Example:
        >>> ball_shares(np.array([1, 1, 0, 3]))
        {'one': 0.5, 'none': 0.25, 'more': 0.25}
    """
    if not counts.size:
        return dict.fromkeys(("one", "none", "more"), float("nan"))
    which = {"one": counts == 1, "none": counts == 0, "more": counts > 1}
    return {name: float(chosen.mean()) for name, chosen in which.items()}


def after_serves(rewards: NDArray[np.float32], ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the frames, (t b), up to ``AFTER`` steps after a serve of the same game.

    Every point is followed by a serve in the same step, unless it ends the game.

    Args:
        rewards: Rewards (t b).
        ends: Whether a game was over (t b); the next frame is of another game.
    """
    found = np.zeros(rewards.shape, bool)
    for step, lane in np.argwhere((np.abs(rewards) > 0.5) & ~ends):
        over = np.flatnonzero(ends[step + 1 : step + 1 + AFTER, lane])
        found[step + 1 : step + 1 + (over[0] + 1 if len(over) else AFTER), lane] = True
    return found


def serves(scene: Scene) -> Found:
    """How recorded serves go on in the world: clear ways, their distribution and their entropy.

    Each context ends on the frame of a serve: its ball is in the middle, and no frame before tells
    where it will go. Total variation is that between the clear ways of all contexts and the game's;
    entropy is that of the clear ways of one context, in nats, averaged over the contexts. Beside
    them stands what as many fair draws have: also those are not quite even.
    """
    held_out = serve_windows(scene, LATE)
    # Spread the contexts over all recorded serves; all of these name the game's own ways.
    spread = np.unique(np.linspace(0, len(held_out.real) - 1, CONTEXTS).round().astype(int))
    imagined = draw(scene, held_out, np.repeat(spread, DRAWS).tolist())
    ways = [name_way(frames) for frames in imagined]
    world = _judge(np.array([-1 if way is None else way for way in ways]).reshape(-1, DRAWS))
    rng = np.random.default_rng(0)
    fair = [_judge(rng.integers(len(WAYS), size=(len(spread), DRAWS))) for _ in range(200)]
    game = {name: float(np.mean([each[name] for each in fair])) for name in world}
    game["serves: unclear"] = float(np.mean([name_way(real) is None for real in held_out.real]))
    return Found(world, game)


def serve_windows(scene: Scene, horizon: int) -> HeldOutWindows:
    """All held-out windows whose context ends on the frame of a serve.

    Raises:
        ValueError: If no held-out serve has ``horizon`` steps after it.
    """
    context, places = scene.world.window, []
    for index in scene.episodes.unseen:
        rewards = scene.recording.rewards(index)
        scored = np.flatnonzero(np.abs(rewards) > 0.5) + 1
        places += [
            (index, int(frame) + 1 - context) for frame in scored if frame + horizon <= len(rewards)
        ]
    if not places:
        raise ValueError(
            f"no held-out serve of {scene.recording.path} has {horizon} steps after it: record more"
        )
    episodes, starts = zip(*places, strict=True)
    windows = scene.recording.windows(episodes, starts, context + horizon)
    return HeldOutWindows(windows, context, horizon, tuple(places))


def filmed(scene: Scene) -> HeldOutWindows:
    """Two serves for a filmstrip."""
    return serve_windows(scene, FILM_STEPS).first(2, FILM_STEPS)


def name_way(frames: NDArray[np.uint8]) -> int | None:
    """Name the way of a serve, as an index of ``WAYS``; None if it has no clear one.

    A way is clear if each frame from ``EARLY`` to ``LATE`` has one ball, which moves between them
    as in the game and is about where the game's would be.

    Args:
        frames: The frames after that of the serve, ``uint8`` (t h w c), t of ``LATE`` or more.
    """
    seen = frames[EARLY - 1 : LATE]
    if any(count_balls(frame) != 1 for frame in seen):
        return None
    first, last = (_centre(frame) for frame in (seen[0], seen[-1]))
    speed = (last - first) / (LATE - EARLY)
    for index, way in enumerate(WAYS):
        off = last - (_MIDDLE + LATE * np.array(way))
        if np.abs(speed - way).max() <= NEAR_SPEED and np.abs(off).max() <= NEAR_PLACE:
            return index
    return None


def _centre(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centre (x, y) of the pixels of the ball's colour in the court."""
    court = frame[pong.COURT_TOP : pong.COURT_BOTTOM]
    rows, columns = np.nonzero(is_colour(court, pong.BALL))
    return np.array([columns.mean(), rows.mean() + pong.COURT_TOP])


def _judge(ways: NDArray[np.int64]) -> dict[str, float]:
    """Figures of named ways (contexts draws), of which -1 is unclear."""
    clear = [row[row >= 0] for row in ways]
    entropies = [entropy(np.bincount(row, minlength=len(WAYS))) for row in clear if len(row)]
    return {
        "serves: unclear": float((ways < 0).mean()),
        "serves: total variation": total_variation(
            np.bincount(np.concatenate(clear), minlength=len(WAYS))
        ),
        "serves: entropy": float(np.mean(entropies)) if entropies else float("nan"),
    }


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy in nats of the distribution with these counts.

    Example:
        >>> round(entropy(np.array([3, 3, 0])), 3), entropy(np.array([5, 0, 0]))
        (0.693, 0.0)
    """
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log(shares)).sum()))


def total_variation(counts: NDArray[np.int64]) -> float:
    """Total variation between the distribution with these counts and the even one; nan of none.

    Example:
        >>> total_variation(np.array([2, 2])), total_variation(np.array([4, 0]))
        (0.0, 0.5)
    """
    if not counts.sum():
        return float("nan")
    return float(np.abs(counts / counts.sum() - 1 / len(counts)).sum() / 2)
