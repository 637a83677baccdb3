"""The bench of chance finds in a game's own frames what the game did."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.chance_measures import count_objects
from tests.benchmarks.chance_serves import (
    AFTER,
    LATE,
    WAYS,
    after_serves,
    ball_shares,
    entropy,
    name_way,
    total_variation,
)
from worldsim.envs.pong import Pong


def serve(seed: int) -> tuple[tuple[int, int], np.ndarray]:
    """Velocity of the serve of a game, and the frames after it under moves up and down."""
    env = Pong(serve="lot")
    _, info = env.reset(seed=seed)
    frames = [env.step(1 + (step % 6) // 3)[0] for step in range(LATE)]
    return (info["ball_vx"], info["ball_vy"]), np.stack(frames)


def test_each_of_the_eight_ways_of_a_serve_is_named() -> None:
    played = [serve(seed) for seed in range(60)]
    assert {way for way, _ in played} == set(WAYS)
    for way, frames in played:
        named = name_way(frames)
        assert named is not None
        assert WAYS[named] == way


def test_a_serve_that_does_not_go_one_way_has_none() -> None:
    served = dict(serve(seed) for seed in range(60))
    frames, other = served[2, 1], served[2, -2]
    two_balls = np.maximum(frames, other)
    mean = ((frames.astype(int) + other) // 2).astype(np.uint8)
    still = np.repeat(frames[:1], LATE, axis=0)
    late = np.concatenate((still[:4], frames[: LATE - 4]))  # as if it had waited
    for wrong in (two_balls, mean, still, late, frames[:, :, ::-1] * 0):
        assert name_way(wrong) is None


def test_frames_after_serves_are_those_of_the_same_game() -> None:
    rewards, ends = np.zeros((60, 2)), np.zeros((60, 2), bool)
    rewards[10, 0] = 1.0  # a serve whose game goes on
    rewards[20, 1], ends[25, 1] = -0.9, True  # one whose game ends, without a last point
    rewards[40, 1], ends[40, 1] = 1.0, True  # the last point of a game: no serve
    after = after_serves(rewards, ends)
    assert np.flatnonzero(after[:, 0]).tolist() == list(range(11, 11 + AFTER))
    assert np.flatnonzero(after[:, 1]).tolist() == list(range(21, 26))


def test_balls_are_shared_out_to_one_none_and_more() -> None:
    assert ball_shares(np.array([[1, 0], [2, 5]])) == {"one": 0.25, "none": 0.25, "more": 0.5}


def test_draws_of_all_ways_alike_have_the_most_entropy_and_no_variation() -> None:
    even, one = np.full(8, 3), np.array([7, 0, 0, 0, 0, 0, 0, 0])
    assert entropy(even) == pytest.approx(np.log(8))
    assert total_variation(even) == 0
    assert entropy(one) == 0
    assert total_variation(one) == pytest.approx(7 / 8)


def test_objects_are_pieces_of_four_pixels_or_more() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True  # two that touch at a corner are one
    mask[8:11, 8:11] = mask[8, 2] = True  # another one, and a speck
    assert count_objects(mask) == 2
