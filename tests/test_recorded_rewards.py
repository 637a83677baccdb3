"""What was recorded decides which expectations are no reward and which scores are new."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from tests.tiny_worlds import make_tiny_world, write_pong_recording
from worldsim import Rollout
from worldsim.data.rewards import RecordedRewards
from worldsim.model.heads import HeadOutput, RewardTerminationHead, symlog, two_hot
from worldsim.train.config import TrainConfig
from worldsim.train.data import Data
from worldsim.train.presets import build_world
from worldsim.train.processes import Processes

PONG = RecordedRewards(smallest=1.0, lowest_score=-5.0, highest_score=5.0)


def head_output(rewards: torch.Tensor, head: RewardTerminationHead) -> HeadOutput:
    """Logits of a head that is all but sure of these rewards (b t)."""
    sure = two_hot(symlog(rewards), head.bins)
    return HeadOutput((sure + 1e-8).log(), torch.zeros_like(rewards))


class TestFloor:
    def test_an_expectation_that_is_nearly_none_is_exactly_none(self) -> None:
        head = RewardTerminationHead(8)
        output = head_output(torch.tensor([[0.0, 1.0, -1.0, 0.0]]), head)
        assert (head.rewards(output) != 0).all()  # each bin has a little of the probability
        floored = head.rewards(output, PONG.floor)
        assert floored[0, [0, 3]].tolist() == [0.0, 0.0]
        assert torch.allclose(floored[0, 1:3], torch.tensor([1.0, -1.0]), atol=0.02)

    @pytest.mark.parametrize("size", [1e-4, 0.01, 0.3, 20.0])
    def test_graded_rewards_are_not_lost(self, size: float) -> None:
        recorded = RecordedRewards.of([np.array([0, size, -3 * size])])
        head = RewardTerminationHead(8)
        output = head_output(torch.tensor([[size, -3 * size]]), head)
        kept = head.rewards(output, recorded.floor)
        assert kept.tolist() == head.rewards(output).tolist()
        assert (kept != 0).all()

    def test_a_recording_without_rewards_predicts_none(self) -> None:
        recorded = RecordedRewards.of([np.zeros(5)])
        assert recorded.floor == math.inf
        head = RewardTerminationHead(8)
        assert not head.rewards(head_output(torch.full((1, 2), 0.5), head), recorded.floor).any()

    def test_a_rollout_applies_it(self) -> None:
        world = make_tiny_world()
        played = []
        for recorded in (None, RecordedRewards(1e6, 0.0, 0.0)):
            world.recorded_rewards = recorded
            rollout = Rollout(world, 2)
            rollout.reset(world.starts.frames[:2], world.starts.actions[:2], [0, 1])
            played.append(rollout.step(np.array([1, 2])))
        assert played[0].rewards.all()
        assert not played[1].rewards.any()
        assert np.array_equal(played[0].frames, played[1].frames)


class TestWorlds:
    def test_training_keeps_what_was_recorded(self, tmp_path: Path) -> None:
        recording = write_pong_recording(tmp_path / "pong")
        config = TrainConfig((tmp_path / "pong",), tmp_path / "run", device="cpu")
        world = build_world(config, Data.of(config, None, Processes()))
        rewards = [recording.rewards(index) for index in range(len(recording))]
        assert any(part.any() for part in rewards)
        assert world.recorded_rewards == RecordedRewards.of(rewards)
        world.save(tmp_path / "world")
        assert worldsim.load(tmp_path / "world").recorded_rewards == world.recorded_rewards

    @pytest.mark.parametrize(
        "values",
        [[], 1, "x", {}, {"smallest": 1}, {**PONG.to_dict(), "smallest": math.nan}]
        + [
            {**PONG.to_dict(), key: value}
            for key, value in [("lowest_score", 1), ("other", 0), ("smallest", "1")]
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, values: object, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "world")
        config = json.loads((tmp_path / "world" / "config.json").read_text())
        config["recorded_rewards"] = values
        (tmp_path / "world" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="recorded reward"):
            worldsim.load(tmp_path / "world")

    def test_a_world_that_does_not_say_plays_as_before(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "world")
        world = worldsim.load(tmp_path / "world")
        assert world.recorded_rewards is None
        assert world.reward_floor == 0.0


class TestScores:
    def test_of_equal_steps_a_score_is_beyond_when_it_passes_the_last(self) -> None:
        assert [PONG.are_beyond(score) for score in (-5.2, -6, 5.0, 6.0)] == [
            False,
            True,
            False,
            True,
        ]

    def test_the_range_is_that_of_sums_on_the_way(self) -> None:
        recorded = RecordedRewards.of([np.array([1.0, 1, -1, -1, -1])])
        assert (recorded.lowest_score, recorded.highest_score) == (-1.0, 2.0)
