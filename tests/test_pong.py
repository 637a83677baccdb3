"""Pong: info agrees with pixels, no hidden state, the end, the player's eyes."""

from __future__ import annotations

import gymnasium
import numpy as np

from worldsim.envs import pong
from worldsim.registration import register_envs

register_envs()


def colour_box(frame: np.ndarray, colour: tuple[int, int, int], top: int = 0) -> tuple[int, ...]:
    """Return (x, y, width, height) of the box around all pixels of a colour below a row."""
    ys, xs = np.nonzero((frame[top:] == colour).all(-1))
    x, y = int(xs.min()), int(ys.min())
    return x, y + top, int(xs.max()) - x + 1, int(ys.max()) + 1 - y


def test_pong_info_agrees_with_pixels() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    frame, info = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert colour_box(frame, pong.BALL) == (info["ball_x"], info["ball_y"], 4, 4)
        clear = 8 <= info["ball_x"] <= 52  # the ball hides no part of a paddle
        if clear:
            x, y, width, height = colour_box(frame, pong.PLAYER, top=6)
            assert (x, y, width, height) == (pong.PLAYER_X, info["player_y"], 3, 12)
            assert colour_box(frame, pong.OPPONENT, top=6)[1] == info["opponent_y"]
        pips = (frame[:6] == pong.OPPONENT).all(-1).sum() // 16
        assert pips == info["opponent_score"]
        frame, _, terminated, _, info = env.step(pong.play(frame, {}, rng))
        assert abs(info["ball_vx"]) in (2, 3)
        if terminated:
            break


def test_pong_ends_at_five_points_and_rewards_each() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(1)  # pressed into a corner
        rewards.append(reward)
        assert not truncated
    assert info["opponent_score"] == 5
    assert sum(rewards) == info["player_score"] - info["opponent_score"]
    assert (info["ball_x"], info["ball_y"]) == (30, 33)


def test_pong_two_frames_determine_the_velocity() -> None:
    """No hidden state, and no chance: where things were and are tells what moves next."""
    env = gymnasium.make("worldsim/Pong-v0", serve="play").unwrapped
    rng = np.random.default_rng(0)
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    repeats = 0
    for seed in range(60):
        frame, info = env.reset(seed=seed)
        terminated = False
        for _ in range(600):
            before = info
            action = pong.play(frame, {}, rng) if seed % 2 else int(rng.integers(3))
            frame, _, terminated, _, info = env.step(action)
            ball = tuple(state[key] for state in (before, info) for key in ("ball_x", "ball_y"))
            touching = info["ball_x"] < 7 or info["ball_x"] > 53
            paddle = info["opponent_y"] if info["ball_x"] < 32 else info["player_y"]
            key = (*ball, paddle if touching else -1)
            velocity = (info["ball_vx"], info["ball_vy"])
            repeats += key in known
            assert known.setdefault(key, velocity) == velocity
            if terminated:
                break
    assert repeats > 1000


def test_pong_player_sees_through_the_blur_of_a_learned_world() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    frame, _ = env.reset(seed=0)
    noise = np.random.default_rng(0)
    agreed = 0
    for t in range(300):
        blurred = (
            frame * 0.8 + np.roll(frame, 1, axis=0) * 0.2 + noise.normal(0, 8, frame.shape)
        ).clip(0, 255)
        action = pong.play(frame, {}, np.random.default_rng(t))
        agreed += action == pong.play(blurred.astype(np.uint8), {}, np.random.default_rng(t))
        frame, _, terminated, _, _ = env.step(action)
        if terminated:
            frame, _ = env.reset()
    assert agreed > 270


def test_pong_player_stays_when_it_sees_no_ball() -> None:
    blank = np.zeros((64, 64, 3), np.uint8)
    assert pong.play(blank, {}, np.random.default_rng(0)) == 0
