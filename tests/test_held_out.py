from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_worlds import (
    SIDE,
    WINDOW,
    make_tiny_game,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.recording import Recording
from worldsim.eval.held_out import check_match, choose_windows, roll_out
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


class TestWindows:
    def test_all_frames_to_predict_are_recorded_and_no_window_comes_twice(
        self, world: WorldModel, recording: Recording
    ) -> None:
        held_out = choose_windows(world, recording, [1, 4], horizons=(1, 30, 8), num_windows=100)
        assert held_out.horizon == 30
        assert held_out.windows.valid.all()
        # episodes of 41 frames: windows of 4 + 30 frames begin at 0 .. 7
        assert len(held_out.real) == 16
        assert len(np.unique(held_out.windows.frames, axis=0)) == 16
        assert held_out.real.shape == (16, 30, SIDE, SIDE, 3)
        assert np.array_equal(held_out.last_context, held_out.windows.frames[:, WINDOW - 1])

    def test_the_first_are_of_as_many_episodes_as_can_be(
        self, world: WorldModel, recording: Recording
    ) -> None:
        places = choose_windows(world, recording, range(6), horizons=(8,), num_windows=40).places
        assert len({episode for episode, _ in places[:6]}) == 6

    def test_seed_decides(self, world: WorldModel, recording: Recording) -> None:
        draw = [
            choose_windows(
                world, recording, [0, 1, 2], horizons=(16,), num_windows=4, seed=seed
            ).windows.frames
            for seed in (0, 0, 1)
        ]
        assert np.array_equal(draw[0], draw[1])
        assert not np.array_equal(draw[0], draw[2])

    def test_short_episodes_shorten_the_horizon_and_then_the_context(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        short = write_tiny_recording(tmp_path / "short", steps=17, episodes=3)
        held_out = choose_windows(world, short, [0], horizons=(1, 16, 32, 64))
        assert held_out.horizon == 16  # 64 and 32 are out of reach; 16 only from the first frames
        by_padding = held_out.windows.valid[np.argsort(held_out.windows.valid.sum(axis=1))]
        assert by_padding.tolist() == [[False] * 3 + [True] * 17, [False] * 2 + [True] * 18]
        assert choose_windows(world, short, [0], horizons=(1, 2)).windows.valid.all()
        with pytest.raises(ValueError, match=r"18 step\(s\): the longest has 17"):
            choose_windows(world, short, [0], horizons=(18, 30))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"frame_size": (32, 32)}, "32x32x3 frames .* has 16x16x3"),
            ({"channels": 1}, "16x16x1 frames .* has 16x16x3"),
            ({"action_meanings": ("A", "B")}, "2 actions .* has 3"),
        ],
    )
    def test_a_recording_of_another_game_is_refused(
        self, recording: Recording, changes: dict, words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            check_match(make_tiny_world(make_tiny_game(**changes)), recording)

    def test_what_was_given_stands_before_what_followed(
        self, world: WorldModel, recording: Recording
    ) -> None:
        held_out = choose_windows(world, recording, [1, 4], horizons=(6,), num_windows=5)
        whole = held_out.windows.frames
        assert np.array_equal(held_out.with_context(held_out.real, 2), whole[:, WINDOW - 2 :])
        more = held_out.with_context(held_out.real, WINDOW + 1)  # the first frame is repeated
        assert np.array_equal(more, np.concatenate((whole[:, :1], whole), axis=1))
        few = held_out.first(3, 2)
        assert np.array_equal(few.real, held_out.real[:3, :2])
        assert few.windows.actions.shape == (3, WINDOW + 1)
        assert few.places == held_out.places[:3]


class TestRollout:
    def test_recorded_actions_drive_the_world_from_the_context(
        self, world: WorldModel, recording: Recording
    ) -> None:
        """Off-by-one guard: action [context - 1] leads to the first predicted frame."""
        held_out = choose_windows(world, recording, [2], horizons=(6,), num_windows=3)
        imagined = roll_out(world, held_out, seed=4)
        assert imagined.shape == held_out.real.shape
        lane_seeds = np.random.default_rng(4).integers(2**62, size=3)
        windows = held_out.windows
        rollout = Rollout(world, 3)
        rollout.reset(
            windows.frames[:, :WINDOW],
            windows.actions[:, : WINDOW - 1],
            [int(seed) for seed in lane_seeds],
        )
        for step, actions in enumerate(windows.actions.T[WINDOW - 1 :]):
            assert np.array_equal(rollout.step(actions).frames, imagined[:, step])
        assert step == 5

    def test_batches_do_not_change_the_result(
        self, world: WorldModel, recording: Recording, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held_out = choose_windows(world, recording, [2], horizons=(2,), num_windows=5)
        whole = roll_out(world, held_out)
        monkeypatch.setattr("worldsim.eval.shared_world._BATCH", 2)
        steps: list[int] = []
        parts = roll_out(world, held_out, on_step=lambda: steps.append(1))
        assert np.abs(whole.astype(int) - parts).max() <= 1
        assert len(steps) == 6
