"""Balls: energy, walls, no tunnelling, pushes, and pixels that agree with info."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from worldsim.envs import balls
from worldsim.registration import register_envs

register_envs()


def energy(info: dict[str, Any]) -> float:
    """Return the kinetic energy, with radius squared for mass."""
    return float((info["radii"] ** 2 * (info["velocities"] ** 2).sum(1)).sum() / 2)


@pytest.mark.parametrize("seed", range(4))
def test_balls_keep_their_energy_and_their_box(seed: int) -> None:
    env = gymnasium.make("worldsim/Balls-v0", drag=0.0, max_episode_steps=5000)
    _, info = env.reset(seed=seed)
    start, changed = energy(info), 0
    speeds = np.linalg.norm(info["velocities"], axis=1)
    for _ in range(1000):
        _, _, _, _, info = env.step(0)
        assert energy(info) == pytest.approx(start, rel=1e-9)
        edge = 2 + info["radii"][:, None]
        assert (info["positions"] >= edge - 1e-9).all()
        assert (info["positions"] <= 64 - edge + 1e-9).all()
        now = np.linalg.norm(info["velocities"], axis=1)
        changed += not np.allclose(now, speeds)
        speeds = now
    assert changed > 10  # collisions did happen


@pytest.mark.parametrize("gravity", [0.0, 0.1])
def test_balls_never_pass_through_one_another(gravity: float) -> None:
    env = gymnasium.make("worldsim/Balls-v0", gravity=gravity, max_episode_steps=5000)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for t in range(2000):
        if t % 8 == 0:
            action = int(rng.integers(5))  # held for a while, to reach the greatest speed
        before = info
        _, _, _, _, info = env.step(action)
        old, new = (state["positions"][:, None] - state["positions"] for state in (before, info))
        reach = info["radii"][:, None] + info["radii"]
        distances = np.linalg.norm(new, axis=-1) + 99 * np.eye(5)
        assert (distances > reach * 0.4).all()
        # Were a ball to cross another within a step, their difference would turn right round.
        assert ((old * new).sum(-1)[~np.eye(5, dtype=bool)] > 0).all()


def test_balls_slow_down_by_drag_and_fall_by_gravity() -> None:
    env = gymnasium.make("worldsim/Balls-v0", drag=0.02, max_episode_steps=1000)
    _, info = env.reset(seed=0)
    energies = [energy(info)] + [energy(env.step(0)[4]) for _ in range(100)]
    assert (np.diff(energies) < 0).all()
    env = gymnasium.make("worldsim/Balls-v0", drag=0.02, gravity=0.1, max_episode_steps=1000)
    _, info = env.reset(seed=0)
    for _ in range(600):
        _, _, _, _, info = env.step(0)
    assert info["positions"][:, 1].mean() > 45
    with pytest.raises(ValueError, match=r"gravity must be from 0 to 0\.5 .* got -1"):
        balls.Balls(gravity=-1)
    with pytest.raises(ValueError, match="drag must be from 0 to 1, got 2"):
        balls.Balls(drag=2)


def test_balls_are_where_info_says_to_a_fraction_of_a_pixel() -> None:
    env = gymnasium.make("worldsim/Balls-v0")
    frame, info = env.reset(seed=0)
    looked = 0
    for _ in range(100):
        gaps = np.linalg.norm(info["positions"][0] - info["positions"][1:], axis=1)
        alone = (gaps > info["radii"][1:] + 7).all()
        if alone and np.linalg.norm(info["positions"][0] - info["target"]) > 12:
            x, y = info["positions"][0]
            ys, xs = np.mgrid[:64, :64] + 0.5
            weight = np.where(np.hypot(xs - x, ys - y) < 7, frame[..., 0] - 20.0, 0.0)
            looked += 1
            assert (weight * xs).sum() / weight.sum() == pytest.approx(x, abs=0.4)
            assert (weight * ys).sum() / weight.sum() == pytest.approx(y, abs=0.4)
        frame, _, _, _, info = env.step(0)
    assert looked > 20


def test_balls_pushes_and_targets() -> None:
    for action, (x, y) in enumerate(balls.PUSHES):
        env = gymnasium.make("worldsim/Balls-v0", drag=0.0)
        _, still = env.reset(seed=3)
        _, _, _, _, info = env.step(action)
        change = info["velocities"][0] - still["velocities"][0]
        np.testing.assert_allclose(change, [balls.PUSH * x, balls.PUSH * y], atol=1e-9)
    rng = np.random.default_rng(0)
    frame, info = env.reset(seed=0)
    score = 0
    for _ in range(200):
        before = info["target"]
        frame, reward, _, _, info = env.step(balls.play(frame, info, rng))
        score += int(reward)
        turned = [64 - before[1], before[0]]  # clockwise to the next corner
        np.testing.assert_array_equal(info["target"], turned if reward else before)
    assert info["score"] == score > 2
