from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_worlds import (
    SIDE,
    WINDOW,
    losses_of,
    make_tiny_game,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.windows import Windows
from worldsim.frames import MOVING_THRESHOLD
from worldsim.held_out import HeldOutWindows, check_match, choose_windows, roll_out
from worldsim.metrics import (
    action_shuffle_ratio,
    compare,
    moving_mask,
    psnr,
    step_latency,
)
from worldsim.recording import Recording
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


def frame(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


class TestMovingMask:
    def test_a_pixel_moves_where_something_came_or_went(self) -> None:
        median, real, last = frame(100), frame(100), frame(100)
        real[0, 0, 1] = 200  # something is there now, in one channel
        last[1, 1] = 0  # something was there
        assert moving_mask(real, last, median).tolist() == [[True, False], [False, True]]

    def test_differences_are_signed_and_thresholded(self) -> None:
        median, still = frame(128), frame(128 + MOVING_THRESHOLD)
        assert not moving_mask(still, frame(128 - MOVING_THRESHOLD), median).any()
        assert moving_mask(frame(128), frame(127 - MOVING_THRESHOLD), median).all()
        assert moving_mask(frame(255), frame(0), frame(0)).all()  # no overflow of uint8

    def test_is_batched(self) -> None:
        real = np.stack([frame(0), frame(90)])
        mask = moving_mask(real, np.stack([frame(0), frame(0)]), frame(0))
        assert mask.shape == (2, 2, 2)
        assert mask.any(axis=(1, 2)).tolist() == [False, True]


class TestPsnr:
    def test_equals_the_formula(self) -> None:
        real, predicted = np.stack([frame(10)] * 2), np.stack([frame(15), frame(110)])
        expected = [20 * np.log10(255 / 5), 20 * np.log10(255 / 100)]
        np.testing.assert_allclose(psnr(real, predicted), expected)

    def test_pools_the_error_over_the_mask(self) -> None:
        real, predicted = np.stack([frame(0)] * 2), np.stack([frame(10), frame(40)])
        mask = np.zeros((2, 2, 2), bool)
        mask[0, 0, 0] = mask[1, :, 1] = True  # one pixel of the first, two of the second
        error = (10**2 + 2 * 40**2) / 3
        assert psnr(real, predicted, mask) == pytest.approx(10 * np.log10(255**2 / error))
        assert np.isnan(psnr(real, predicted, np.zeros((2, 2, 2), bool)))

    def test_equal_pictures_are_finite(self) -> None:
        assert psnr(frame(7)[None], frame(7)[None])[0] == pytest.approx(58.92, abs=0.01)


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
            choose_windows(world, recording, [0, 1, 2], num_windows=4, seed=seed).windows.frames
            for seed in (0, 0, 1)
        ]
        assert np.array_equal(draw[0], draw[1])
        assert not np.array_equal(draw[0], draw[2])

    def test_short_episodes_shorten_the_horizon_and_then_the_context(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        short = write_tiny_recording(tmp_path / "short", steps=17, episodes=3)
        held_out = choose_windows(world, short, [0])
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
    def test_a_recording_of_something_else_is_refused(
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
        monkeypatch.setattr("worldsim.held_out._BATCH", 2)
        steps: list[int] = []
        parts = roll_out(world, held_out, on_step=lambda: steps.append(1))
        assert np.abs(whole.astype(int) - parts).max() <= 1
        assert len(steps) == 6

    def test_a_perfect_and_a_lazy_prediction(self, world: WorldModel, recording: Recording) -> None:
        """Whoever predicts the truth is perfect; whoever copies scores as copy-last does."""
        held_out = choose_windows(world, recording, [3], horizons=(1, 4))
        median = recording.median_frame()
        perfect = compare(held_out.real, held_out, median, horizons=(1, 4, 8))
        assert list(perfect) == [1, 4]
        assert perfect[4]["psnr_world"] == pytest.approx(58.92, abs=0.01)
        assert perfect[4]["psnr_moving_world"] == pytest.approx(58.92, abs=0.01)
        assert perfect[4]["psnr_moving_copy_last"] < perfect[4]["psnr_copy_last"] < 58
        assert perfect[4]["psnr_moving_median"] < perfect[4]["psnr_median"]
        assert 4 * 4 / SIDE**2 <= perfect[4]["moving_fraction"] < 2 * 4 * 4 / SIDE**2
        lazy = compare(
            np.repeat(held_out.last_context[:, None], 4, axis=1), held_out, median, horizons=(4,)
        )
        for kind in ("psnr", "psnr_moving"):
            assert lazy[4][f"{kind}_world"] == lazy[4][f"{kind}_copy_last"]
            assert lazy[4][f"{kind}_copy_last"] == perfect[4][f"{kind}_copy_last"]

    def test_figures_by_hand(self) -> None:
        """One window of one moved pixel: 100 at the left, then at the right."""
        frames = np.zeros((1, 2, 1, 4, 3), np.uint8)
        frames[0, 0, 0, 0] = frames[0, 1, 0, 3] = 100
        windows = Windows(
            frames=frames,
            actions=np.zeros((1, 1), np.int64),
            rewards=np.zeros((1, 1), np.float32),
            terminations=np.zeros((1, 1), bool),
            truncations=np.zeros((1, 1), bool),
            valid=np.ones((1, 2), bool),
        )
        held_out = HeldOutWindows(windows, context=1, horizon=1)
        median = np.zeros((1, 4, 3), np.uint8)
        row = compare(np.full((1, 1, 1, 4, 3), 50, np.uint8), held_out, median)[1]
        assert row["moving_fraction"] == 0.5
        assert row["psnr_world"] == pytest.approx(20 * np.log10(255 / 50))
        assert row["psnr_moving_world"] == pytest.approx(20 * np.log10(255 / 50))
        assert row["psnr_copy_last"] == pytest.approx(10 * np.log10(255**2 / (100**2 / 2)))
        assert row["psnr_moving_copy_last"] == pytest.approx(20 * np.log10(255 / 100))
        assert row["psnr_median"] == pytest.approx(10 * np.log10(255**2 / (100**2 / 4)))
        assert row["psnr_moving_median"] == pytest.approx(10 * np.log10(255**2 / (100**2 / 2)))

    def test_figures_of_a_rollout_repeat(self, world: WorldModel, recording: Recording) -> None:
        held_out = choose_windows(world, recording, [0, 5], horizons=(1, 3), num_windows=8)
        first, again, more_passes = (
            compare(
                roll_out(world, held_out, num_passes=passes), held_out, world.background, (1, 3)
            )
            for passes in (1, 1, 4)
        )
        assert first == again
        assert first[3]["psnr_world"] != more_passes[3]["psnr_world"]
        assert first[3]["psnr_median"] == more_passes[3]["psnr_median"]


class TestActionShuffleRatio:
    def test_is_one_for_a_world_that_does_not_listen(
        self, world: WorldModel, recording: Recording
    ) -> None:
        deaf = make_tiny_world()
        torch.nn.init.zeros_(deaf.dit.action_embedding.weight)
        ratio = action_shuffle_ratio(deaf, recording, [0, 1], num_batches=2)
        assert ratio.overall == 1.0
        assert set(ratio.by_action.values()) == {1.0}
        assert action_shuffle_ratio(world, recording, [0, 1], num_batches=2).overall != 1.0

    def test_rises_for_a_world_that_learned_to_listen(self, recording: Recording) -> None:
        world = make_tiny_world()
        torch.nn.init.zeros_(world.dit.detail.head[-1].weight)
        optimizer = torch.optim.AdamW(world.parameters(), lr=4e-3)
        generator = torch.Generator().manual_seed(0)
        rng = np.random.default_rng(0)
        for _ in range(240):
            windows = recording.sample_windows(rng, 8, WINDOW + world.num_history, [0, 1, 2, 3])
            losses = losses_of(world, windows, generator)
            optimizer.zero_grad()
            losses.mean(losses.frame).backward()
            optimizer.step()
        ratio = action_shuffle_ratio(world, recording, [4, 5])
        assert ratio.overall > 1.5
        # told the action that was taken a world is right whatever else was to choose
        assert list(ratio.by_action) == list(world.game.action_meanings)
        assert min(ratio.by_action.values()) > 1.2
        assert ratio == action_shuffle_ratio(world, recording, [4, 5])

    def test_is_undefined_when_the_player_never_chose(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        idle = write_tiny_recording(tmp_path / "idle", still=True)
        ratio = action_shuffle_ratio(world, idle, [0, 1], num_batches=2)
        assert np.isnan([ratio.overall, *ratio.by_action.values()]).all()

    def test_of_episodes_shorter_than_a_window(self, world: WorldModel, tmp_path: Path) -> None:
        short = write_tiny_recording(tmp_path, steps=2, episodes=4)
        assert np.isfinite(action_shuffle_ratio(world, short, [0, 1, 2, 3]).overall)


class TestStepLatency:
    def test_times_steps_early_and_late(self, world: WorldModel) -> None:
        walked: list[int] = []
        latency = step_latency(world, (3, 12), rounds=2, on_step=lambda: walked.append(1))
        assert list(latency) == [3, 12]
        assert len(walked) == 13
        for times in latency.values():
            assert times.shape == (20,)
            assert ((times > 0) & (times < 10_000)).all()

    def test_more_passes_take_longer(self, world: WorldModel) -> None:
        one, many = (
            np.median(step_latency(world, (2,), num_passes=n, rounds=2)[2]) for n in (1, 16)
        )
        assert many > 2 * one
