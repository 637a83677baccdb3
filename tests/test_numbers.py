"""Numbers that the library's own classes are given: one sentence each, before memory is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_worlds import make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

NO_COUNTS = [0, -1, 1.5, 10**12, float("nan"), True, "4", None]


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording")
    write_tiny_recording(folder, steps=12, episodes=3)
    return Recording(folder)


@pytest.mark.parametrize("number", NO_COUNTS)
def test_a_rollout_has_integer_numbers_of_lanes_and_passes(world: WorldModel, number: Any) -> None:
    with pytest.raises(ValueError, match=r"^batch_size must be a whole number from 1 to "):
        Rollout(world, number)
    rollout = Rollout(world, np.int64(1))
    with pytest.raises(
        ValueError, match=r"^num_passes must be a whole number from 1 to 1,000, got"
    ):
        rollout.num_passes = number
    assert rollout.num_passes == world.num_passes
    with pytest.raises(
        ValueError, match=r"^num_passes must be a whole number from 1 to 1,000, got"
    ):
        WorldModel(
            dit=world.dit,
            head=world.head,
            codec=world.codec,
            game=world.game,
            starts=world.starts,
            background=world.background,
            num_passes=number,
        )


@pytest.mark.parametrize("seed", [-1, 1.5, 2**63, float("nan"), "0", None])
def test_a_lane_has_a_seed_that_torch_takes(world: WorldModel, seed: Any) -> None:
    rollout = Rollout(world)
    starts = world.starts
    with pytest.raises(ValueError, match=r"^seeds must be a whole number from 0 to 9,223,"):
        rollout.reset(starts.frames[:1], starts.actions[:1], [seed])
    rollout.reset(starts.frames[:1], starts.actions[:1], [np.uint64(2**63 - 1)])


def test_sessions_that_cannot_fit_are_refused_with_what_they_take(world: WorldModel) -> None:
    sentence = r"too little memory: the cache of 1,000,000,000 lanes takes at least [\d,.]+ GiB"
    with pytest.raises(ValueError, match=sentence):
        Rollout(world, 10**9)


@pytest.mark.parametrize("number", NO_COUNTS)
def test_windows_have_integer_numbers(recording: Recording, number: Any) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"^batch_size must be a whole number from 1 to"):
        recording.sample_windows(rng, number, 4)
    with pytest.raises(ValueError, match=r"^length must be a whole number from 1 to"):
        recording.sample_windows(rng, 2, number)
    with pytest.raises(ValueError, match=r"^length must be a whole number from 1 to"):
        recording.windows([0], [0], number)
    with pytest.raises(ValueError, match=r"^num_frames must be a whole number from 1 to"):
        recording.median_frame(number)
    if number != 0:
        with pytest.raises(ValueError, match=r"^left_padding must be a whole number from 0 to"):
            recording.sample_windows(rng, 2, 4, left_padding=number)


def test_windows_that_cannot_fit_are_refused_with_what_they_take(recording: Recording) -> None:
    rng = np.random.default_rng(0)
    for batch_size, length in ((10**9, 4), (2, 10**9)):
        with pytest.raises(ValueError, match=r"^too little memory: reading .* frames takes"):
            recording.sample_windows(rng, batch_size, length)


@pytest.mark.parametrize("episode", [3, -1, 10**12])
def test_windows_of_no_episode(recording: Recording, episode: int) -> None:
    sentence = rf"^episodes must be 0 … 2, got \[{episode}\]"
    with pytest.raises(ValueError, match=sentence):
        recording.windows([0, episode], [0, 0], 4)
    with pytest.raises(ValueError, match=sentence):
        recording.sample_windows(np.random.default_rng(0), 2, 4, [0, episode])
    with pytest.raises(ValueError, match=sentence):
        recording.median_frame(episodes=[episode])


def test_an_episode_is_written_at_a_number_from_zero_on(tmp_path: Path) -> None:
    recording = write_tiny_recording(tmp_path, steps=3, episodes=1)
    writer = RecordingWriter(tmp_path, recording.game)
    for number in (-1, 1.5, 10**12, True, "0"):
        with pytest.raises(
            ValueError, match=r"^number must be a whole number from 0 to 99,999,999"
        ):
            writer.write_episode(recording.episode(0), number)
