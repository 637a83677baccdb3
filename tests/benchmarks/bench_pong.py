"""How true a Pong world is to its rules: one ball, a score that counts, a paddle that obeys.

python tests/benchmarks/bench_pong.py [WORLD] [--passes 2] [--steps 200] [--sessions 16]
    [--recording recordings/pong]

Balls are counted in sessions under the scripted player: there is one. Each point that is rewarded
there should light one more pip of the score and leave it lit. The player's paddle is moved
by random actions, each held for one to eight steps, for 64 steps from each of the world's starts;
where it must then be follows from the game's rule alone. With a recording, its held-out games are
played to their end by the recorded actions from twelve frames that are eight steps before it: the
world should say that the game is over then, and not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro

from worldsim.data.recording import Recording
from worldsim.envs import pong
from worldsim.envs.sight import is_colour
from worldsim.eval.unseen import unseen
from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

OBEY_STEPS = 64
LIT_STEPS = 12  # a pip that is still lit then stays
PIPS = {pong.PLAYER: [56 - 5 * i for i in range(5)], pong.OPPONENT: [4 + 5 * i for i in range(5)]}


class Played(NamedTuple):
    """What was seen in sessions, (t b).

    Attributes:
        balls: How many balls there are.
        pips: Lit pips of player and computer (t b 2).
        rewards: Rewards.
        ends: Whether a game was over.
    """

    balls: np.ndarray
    pips: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray


def count_balls(frame: np.ndarray) -> int:
    """Count the patches of the ball's colour in the court of a frame (h w c)."""
    ball = is_colour(frame[pong.COURT_TOP : pong.COURT_BOTTOM], pong.BALL).astype(np.uint8)
    return cv2.connectedComponents(ball)[0] - 1


def count_pips(frame: np.ndarray) -> list[int]:
    """Count the pips of player and computer that are lit, by half of their pixels or more."""
    return [
        sum(is_colour(frame[1:5, x : x + 4], colour).mean() >= 0.5 for x in columns)
        for colour, columns in PIPS.items()
    ]


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
    balls, pips, rewards, ends = [], [], [], []
    for step in range(steps):
        actions = np.array([pong.play(frame, {}, rng) for frame in frames])
        frames, reward, terminated = rollout.step(actions)[:3]
        balls.append([count_balls(frame) for frame in frames])
        pips.append([count_pips(frame) for frame in frames])
        rewards.append(reward)
        ends.append(terminated)
        for lane in np.flatnonzero(terminated):
            start = [(lane + step) % len(starts.frames)]
            rollout.reset(starts.frames[start], starts.actions[start], [step], lanes=[lane])
    return Played(np.array(balls), np.array(pips), np.array(rewards), np.array(ends))


def keep_the_ball(played: Played) -> str:
    """How many balls there are in sessions under the scripted player."""
    balls, rewards, ends = played.balls, played.rewards, played.ends
    return (
        f"{balls.size:,} frames: "
        + ", ".join(f"{np.mean(balls == n):.1%} with {n} balls" for n in range(4))
        + "; one ball, by quarters of the session: "
        + ", ".join(f"{np.mean(part == 1):.0%}" for part in np.array_split(balls, 4))
        + f"; {(rewards > 0.5).sum()} points won, {(rewards < -0.5).sum()} lost, "
        + f"{ends.sum()} games over"
    )


def keep_the_score(played: Played) -> str:
    """How many points light a pip, by how many were lit before, and how many stay lit."""
    counts = np.zeros((2, pong.WINNING_SCORE, 3), int)  # points, pips lit, pips that stayed so
    for lane, rewards in enumerate(played.rewards.T):
        for step in np.flatnonzero(np.abs(rewards) > 0.5):
            after = slice(step + 1, step + LIT_STEPS)
            interrupted = (np.abs(rewards[after]) > 0.5).any() or played.ends[after, lane].any()
            if step == 0 or step + LIT_STEPS > len(rewards) or interrupted:
                continue
            side = int(rewards[step] < 0)
            pips = played.pips[:, lane, side]
            lit = pips[step - 1]
            over = played.ends[step, lane]  # that frame is the last of its game
            if lit < pong.WINNING_SCORE:
                new = pips[step if over else step + 2] == lit + 1
                stays = new and (over or pips[step + LIT_STEPS - 1] == lit + 1)
                counts[side, lit] += 1, new, stays
    points, lit, stay = counts.sum((0, 1))
    by_score = ", ".join(f"{n} of {of}" for of, n, _ in counts.sum(0))
    return (
        f"{lit} of {points} points light a pip (of those at a score of 0 to 4: {by_score}), "
        f"{stay} are lit {LIT_STEPS - 1} steps later"
    )


def end_games(world: WorldModel, passes: int | None, recording: Recording) -> str:
    """How sure the world is of the ends of held-out games, and of the steps before them."""
    context, before = 12, 8
    games = [recording.episode(i) for i in unseen([world], recording).unseen]
    games = [game for game in games if game.terminations[-1]]
    frames = np.stack([game.frames[-context - before :][:context] for game in games])
    actions = np.stack([game.actions[-context - before + 1 :] for game in games])
    rollout = Rollout(world, len(games), num_passes=passes)
    rollout.reset(frames, actions[:, : context - 1], range(len(games)))
    steps = [rollout.step(actions[:, context - 1 + step]) for step in range(before)]
    probs = np.array([step.termination_probs for step in steps])
    return (
        f"{len(games)} held-out games: chance of the end {probs[-1].mean():.2f} where it is, above "
        f"a half in {np.mean(probs[-1] > 0.5):.0%}; before it {probs[:-1].mean():.4f}; "
        f"size of the last reward {np.abs(steps[-1].rewards).mean():.2f}"
    )


def main(
    world_name: str = "pong",
    /,
    passes: int | None = None,
    steps: int = 200,
    sessions: int = 16,
    recording: Path | None = None,
) -> None:
    world = load(world_name)
    played = play(world, passes, steps, sessions)
    print(f"{passes or world.num_passes} passes, {keep_the_ball(played)}", flush=True)
    print(keep_the_score(played))
    print(obey(world, passes))
    if recording:
        print(end_games(world, passes, Recording(recording)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
