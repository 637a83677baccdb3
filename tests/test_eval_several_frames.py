"""Evaluation of a world that predicts two frames in a step: all figures count frames."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny_worlds import make_tiny_video_codec, make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.data.split import Measurable
from worldsim.eval import events
from worldsim.eval.control import action_shuffle_ratio
from worldsim.eval.drift import drift
from worldsim.eval.held_out import choose_windows, roll_out
from worldsim.eval.memory import remember
from worldsim.eval.report.speed import SpeedSection, StepTimes
from worldsim.rollout import Rollout
from worldsim.rollout_output import Outcome
from worldsim.video.world_pipeline import WorldPipeline
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world(codec=make_tiny_video_codec())


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The actions of each step of a rollout."""
    steps: list[np.ndarray] = []
    advance = Rollout.advance

    def noted(rollout: Rollout, actions: np.ndarray) -> Outcome:
        steps.append(actions)
        return advance(rollout, actions)

    monkeypatch.setattr(Rollout, "advance", noted)
    return steps


def test_long_rollouts_take_the_recorded_action_of_each_frame(
    world: WorldModel, recording: Recording, taken: list[np.ndarray]
) -> None:
    walked: list[int] = []
    found = drift(
        world,
        recording,
        Measurable(unseen=[4], reference=[0, 1], sentences=[]),
        bounds=(3, 10),
        num_lanes=2,
        on_step=lambda: walked.append(1),
    )
    assert (found.steps, len(walked), len(taken)) == ([3, 10], 10, 5)
    played = np.concatenate(taken, axis=1)  # (lanes frames)
    recorded = np.tile(recording.episode(4).actions, 2)
    for lane in played:
        begins = [i for i in range(41) if np.array_equal(recorded[i : i + 10], lane)]
        assert begins


def test_the_forgetful_world_gets_whole_times(
    world: WorldModel, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = choose_windows(world, recording, [0, 1], horizons=(8,), num_windows=4)
    given: list[int] = []
    reset = Rollout.reset
    monkeypatch.setattr(
        Rollout,
        "reset",
        lambda self, frames, *args, **more: (
            given.append(frames.shape[1]),
            reset(self, frames, *args, **more),
        ),
    )
    remember(world, held_out, roll_out(world, held_out), np.zeros_like(world.background))
    assert given == [world.context_frames, 1 + 2 * (world.num_history - 1)]


def test_events_and_control_are_measured(world: WorldModel, recording: Recording) -> None:
    predicted = events.predict(world, recording, [0, 1], num_stretches=10)
    assert len(predicted.rewards) == 2 * 40 / 2  # all steps, of two frames each
    assert predicted.rewards.sum() == predicted.terminations.sum() == 2
    assert np.isfinite(predicted.predicted_rewards).all()
    assert (predicted.predicted_rewards != 0).mean() > 0.9
    ratio = action_shuffle_ratio(world, recording, [0, 1], num_batches=1, batch_size=4).overall
    assert ratio > 0
    assert ratio != 1


def test_speed_is_that_of_frames() -> None:
    times = StepTimes.of(np.full(10, 50.0))
    one, two = (SpeedSection({10: times}, 900.0, "cpu", 1, 30.0, n).verdict() for n in (1, 2))
    assert one.sentence.startswith("A step takes 50.0 ms on cpu, 20 frames a second")
    assert two.sentence.startswith("A step of 2 frames takes 50.0 ms on cpu, 40 frames a second")
    assert one.grade != two.grade


def test_a_video_of_a_world_has_four_windows_of_frames(world: WorldModel) -> None:
    (video,) = WorldPipeline(world)(num_inference_steps=1).frames
    assert len(video) == 4 * 2 * world.window
