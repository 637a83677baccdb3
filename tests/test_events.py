"""Rewards and ends, predicted and recorded."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny_worlds import make_tiny_episode, make_tiny_game, make_tiny_world
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.eval.events import Predicted, find, predict, summarize

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Rewards in a few steps, each of its own size; the last one in the last step."""
    game, path = make_tiny_game(), tmp_path_factory.mktemp("recordings") / "paid"
    with RecordingWriter(path, game) as writer:
        for seed in range(3):
            episode = make_tiny_episode(game, 43, seed)
            episode.rewards[:] = 0
            episode.rewards[[0, 20, 42]] = 1 + seed, -2 - seed, 3 + seed
            writer.write_episode(episode)
    return Recording(path)


def test_every_recorded_step_is_looked_at_once(recording: Recording) -> None:
    steps = predict(make_tiny_world(), recording, [0, 2], num_stretches=100)
    assert len(steps.rewards) == 86  # what lies beyond an episode's end is no step
    assert sorted(steps.rewards[steps.rewards != 0].tolist()) == [-4, -2, 1, 3, 3, 5]
    assert steps.terminations.sum() == sum(recording.episode(i).terminations.sum() for i in (0, 2))
    assert (steps.weights == 1).all()


def test_of_the_steps_without_events_a_sample_stands_for_all(recording: Recording) -> None:
    steps = predict(make_tiny_world(), recording, [0, 1, 2], num_stretches=12)
    rare = steps.rewards != 0
    assert rare.sum() == 6  # of the nine stretches with something in it six have been drawn
    assert steps.weights[rare] == pytest.approx(9 / 6)
    assert steps.weights.max() == pytest.approx(9 / 6)
    assert steps.weights.sum() == pytest.approx(3 * 43, rel=0.15)


def test_the_same_seed_predicts_the_same(recording: Recording) -> None:
    one, again, other = (
        predict(make_tiny_world(), recording, [1], num_stretches=6, seed=seed) for seed in (0, 0, 1)
    )
    for ours, theirs in zip(one, again, strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(one.predicted_rewards, other.predicted_rewards)


def test_a_perfect_world_has_perfect_figures_and_a_late_one_none() -> None:
    rewards = np.array([0, 1, 0, 0, -1, 0, 0, 1], np.float32)
    ends = rewards == -1
    weights = np.array([5.0, 1, 5, 5, 1, 5, 5, 1])
    perfect = summarize(Predicted(rewards, 0.9 * rewards, ends, ends.astype(np.float32), weights))
    assert perfect.reward_positive == find(rewards > 0, rewards > 0, weights)
    assert perfect.reward_positive.f1 == perfect.termination.f1 == 1
    assert perfect.termination_brier == perfect.termination_calibration_error == 0
    assert perfect.reward_mean == pytest.approx(1 / 28)
    assert perfect.predicted_reward_mean == pytest.approx(0.9 / 28)
    late = np.roll(rewards, 1)
    worse = summarize(Predicted(rewards, late, ends, np.roll(ends, 1).astype(np.float32), weights))
    assert worse.reward_positive.f1 == worse.reward_negative.f1 == 0
    assert worse.termination.recall == 0
    assert worse.termination_brier == pytest.approx(6 / 28)


def test_calibration_is_about_frequencies_not_about_being_sure() -> None:
    ends = np.array([True, False, False, False])
    nothing, one = np.zeros(4, np.float32), np.ones(4)
    fair = summarize(Predicted(nothing, nothing, ends, np.full(4, 0.25, np.float32), one))
    sure = summarize(Predicted(nothing, nothing, ends, np.full(4, 0.75, np.float32), one))
    assert fair.termination_calibration_error == 0
    assert fair.termination_brier == fair.termination_brier_of_mean == 3 / 16
    assert sure.termination_calibration_error == pytest.approx(0.5)
    assert fair.reward_positive.number == 0
    assert np.isnan(fair.reward_positive.f1)
