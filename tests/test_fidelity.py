"""Metrics by horizon, against their formulas and with predictions made worse on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_worlds import SIDE, make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.eval.fidelity import (
    fidelity,
    frechet,
    frechet_video_distance,
    load_lpips,
    moving_mask,
    psnr,
    ssim_map,
    with_baselines,
)
from worldsim.eval.flicker import flicker
from worldsim.eval.held_out import HeldOutWindows, choose_windows
from worldsim.eval.inverse_dynamics import (
    InverseDynamics,
    accuracy_by_action,
    recognise,
    train_inverse_dynamics,
)
from worldsim.eval.report.command import main
from worldsim.frames import MOVING_THRESHOLD

pytestmark = pytest.mark.numeric

STEPS = 24


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("recordings") / "square"
    return write_tiny_recording(path, steps=60, episodes=10)


@pytest.fixture(scope="module")
def held_out(recording: Recording) -> HeldOutWindows:
    world = make_tiny_world()
    return choose_windows(world, recording, [8, 9], horizons=(STEPS,), num_windows=12)


@pytest.fixture(scope="module")
def judge(recording: Recording) -> InverseDynamics:
    return train_inverse_dynamics(recording, range(8), steps=150)


def frame(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


class TestMovingMask:
    def test_a_pixel_moves_where_an_object_came_or_went(self) -> None:
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

    def test_equal_frames_are_finite(self) -> None:
        assert psnr(frame(7)[None], frame(7)[None])[0] == pytest.approx(58.92, abs=0.01)


class TestFidelity:
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
        held_out = HeldOutWindows(windows, context=1, horizon=1, places=((0, 0),))
        background = np.zeros((1, 4, 3), np.uint8)
        imagined = np.full((1, 1, 1, 4, 3), 50, np.uint8)
        predictions = with_baselines(imagined, held_out, background)
        row = fidelity(predictions, held_out, background, (1,), with_ssim=False)[1]
        assert row.moving_fraction == 0.5
        assert list(row.by_metric()) == ["psnr", "psnr_moving"]
        for name, error, moving_error in (
            ("world", 50**2, 50**2),
            ("copy_last", 100**2 / 2, 100**2),
            ("median", 100**2 / 4, 100**2 / 2),
        ):
            for scores, expected in ((row.psnr, error), (row.psnr_moving, moving_error)):
                assert scores[name].value == pytest.approx(10 * np.log10(255**2 / expected))

    def test_a_perfect_and_a_lazy_prediction(
        self, recording: Recording, held_out: HeldOutWindows
    ) -> None:
        """Whoever predicts the truth is perfect; whoever copies scores as copy-last does."""
        background = recording.median_frame()
        copied = np.repeat(held_out.last_context[:, None], STEPS, axis=1)
        baselines = with_baselines(copied, held_out, background)
        predictions = {**baselines, "perfect": held_out.real}
        found = fidelity(predictions, held_out, background, (1, 4, 999))
        assert list(found) == [1, 4]
        row = found[4]
        for scores, best in ((row.psnr, 58.92), (row.psnr_moving, 58.92), (row.ssim_moving, 1)):
            assert scores["perfect"].value == pytest.approx(best, abs=0.01)
            assert scores["world"] == scores["copy_last"]
            for name in predictions:
                value, low, high = scores[name]
                assert low <= value <= high
        assert row.psnr_moving["world"].value < row.psnr["world"].value < 58
        assert row.psnr_moving["median"].value < row.psnr["median"].value
        assert 4 * 4 / SIDE**2 <= row.moving_fraction < 2 * 4 * 4 / SIDE**2

    def test_ssim_equals_the_formula_on_flat_frames(self) -> None:
        """Without structure only the luminance term is left."""
        real, shown = (np.full((1, SIDE, SIDE, 3), value, np.uint8) for value in (100, 150))
        a, b = 100 / 255, 150 / 255
        expected = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
        np.testing.assert_allclose(ssim_map(real, shown), expected, rtol=1e-3)

    def test_lpips_is_measured_or_its_absence_explained(
        self, recording: Recording, held_out: HeldOutWindows
    ) -> None:
        lpips, why_not = load_lpips()
        assert (lpips is None) == bool(why_not)
        assert "\n" not in why_not

        def half(real: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
            assert real.shape == shown.shape == (12, 3, SIDE, SIDE)
            return (real - shown).abs().mean((1, 2, 3)) / 2

        median = recording.median_frame()
        found = fidelity(
            {"world": held_out.real, "median": median}, held_out, median, (2,), lpips=half
        )
        assert found[2].lpips["world"].value == 0
        assert found[2].lpips["median"].value > 0


def test_frechet_distance_equals_the_formula() -> None:
    """Between Gaussians of the same shape it is the squared distance of their means."""
    features = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    assert 0 <= frechet(features, features) < 1e-6
    assert np.isnan(frechet(features, features[:1]))  # of one there is no covariance
    assert frechet(features, features + 2) == pytest.approx(8 * 4, rel=1e-4)
    # the same mean, three times the deviation: (3 - 1)^2 times the variance
    wide = features.mean(0) + 3 * (features - features.mean(0))
    assert frechet(features, wide) == pytest.approx(4 * float(features.var(0).sum()), rel=1e-3)


class TinyI3D(torch.nn.Module):
    """Stands for the large network, with its way of being called."""

    def forward(
        self,
        videos: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        assert return_features
        assert videos.shape[1] == 3
        assert videos.shape[3] == 224
        return videos.mean(2)[:, :, ::60, ::60].flatten(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_fvd_is_the_distance_of_the_features_of_a_network_in_a_file(tmp_path: Path) -> None:
    torch.jit.script(TinyI3D()).save(str(tmp_path / "i3d.pt"))
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 128, (20, 35, 8, 8, 3)).astype(np.uint8)
    assert frechet_video_distance(tmp_path / "i3d.pt", clips, clips) == pytest.approx(0, abs=1e-4)
    brighter = frechet_video_distance(tmp_path / "i3d.pt", clips, clips + 51)
    assert brighter == pytest.approx(48 * (51 / 127.5) ** 2, rel=1e-3)  # 48 features, each off
    assert np.isnan(frechet_video_distance(tmp_path / "i3d.pt", clips[:, :9], clips[:, :9]))
    with pytest.raises(ValueError, match=r"no I3D network at .*nothing.pt"):
        frechet_video_distance(tmp_path / "nothing.pt", clips, clips)


class TestInverseDynamics:
    def test_recognises_the_actions_of_real_frames(
        self, judge: InverseDynamics, held_out: HeldOutWindows
    ) -> None:
        frames = held_out.windows.frames[:, held_out.context - 2 :]
        taken = held_out.windows.actions[:, held_out.context - 1 :]
        guessed, features = recognise(judge, frames)
        assert guessed.shape == taken.shape
        assert features.shape == (*taken.shape, 64)
        assert (guessed == taken).mean() > 0.95
        assert (accuracy_by_action(guessed, taken, 3) > 0.9).all()

    def test_an_action_that_was_never_taken_has_no_accuracy(self) -> None:
        found = accuracy_by_action(np.array([[0, 1, 1]]), np.array([[0, 1, 0]]), 3)
        assert found[:2].tolist() == [0.5, 1.0]
        assert np.isnan(found[2])

    def test_same_seed_same_judge(self, recording: Recording) -> None:
        first, again = (train_inverse_dynamics(recording, [0, 1], steps=3) for _ in range(2))
        for a, b in zip(first.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)


class TestWorseOnPurpose:
    """A world that is right but for one fault: the figure that should notice does, others don't."""

    def figures(
        self,
        shown: np.ndarray,
        recording: Recording,
        held_out: HeldOutWindows,
        judge: InverseDynamics,
    ) -> dict[str, float]:
        median = recording.median_frame()
        before = held_out.windows.frames[:, held_out.context - 2 : held_out.context]
        whole, real = (np.concatenate((before, frames), 1) for frames in (shown, held_out.real))
        taken = held_out.windows.actions[:, held_out.context - 1 :]
        guessed, features = recognise(judge, whole)
        _, real_features = recognise(judge, real)
        row = fidelity({"world": shown}, held_out, median, (STEPS,))[STEPS]
        return {
            "psnr_moving": row.psnr_moving["world"].value,
            "recognised": float((guessed == taken).mean()),
            "frechet": frechet(real_features.flatten(0, 1), features.flatten(0, 1)),
            "flicker": flicker(held_out.real[:3], shown[:3], np.arange(3)).ratio,
        }

    @pytest.fixture
    def right(
        self, recording: Recording, held_out: HeldOutWindows, judge: InverseDynamics
    ) -> dict[str, float]:
        return self.figures(held_out.real, recording, held_out, judge)

    def test_noise(
        self, right: dict, recording: Recording, held_out: HeldOutWindows, judge: InverseDynamics
    ) -> None:
        noise = np.random.default_rng(0).normal(0, 12, held_out.real.shape)
        noisy = (held_out.real + noise).clip(0, 255).astype(np.uint8)
        worse = self.figures(noisy, recording, held_out, judge)
        assert worse["flicker"] > 1.5 * right["flicker"]
        assert worse["psnr_moving"] < 35 < right["psnr_moving"]
        assert worse["recognised"] > right["recognised"] - 0.1

    def test_swapped_actions(
        self, right: dict, recording: Recording, held_out: HeldOutWindows, judge: InverseDynamics
    ) -> None:
        """Mirrored, the square goes right where it should go left, as smoothly as ever."""
        worse = self.figures(held_out.real[:, :, :, ::-1], recording, held_out, judge)
        assert worse["recognised"] < right["recognised"] - 0.4
        assert worse["flicker"] == pytest.approx(right["flicker"], rel=0.35)

    def test_frozen_frames(
        self, right: dict, recording: Recording, held_out: HeldOutWindows, judge: InverseDynamics
    ) -> None:
        frozen = np.repeat(held_out.last_context[:, None], STEPS, axis=1)
        worse = self.figures(frozen, recording, held_out, judge)
        assert worse["flicker"] < 0.3 * right["flicker"]
        assert worse["recognised"] < right["recognised"] - 0.4
        assert worse["psnr_moving"] < right["psnr_moving"] - 20

    def test_a_lost_object(
        self, right: dict, recording: Recording, held_out: HeldOutWindows, judge: InverseDynamics
    ) -> None:
        empty = np.broadcast_to(recording.median_frame(), held_out.real.shape).copy()
        empty[:, : STEPS // 2] = held_out.real[:, : STEPS // 2]
        worse = self.figures(empty, recording, held_out, judge)
        assert worse["psnr_moving"] < right["psnr_moving"] - 20
        assert worse["frechet"] > right["frechet"] + 1


def test_the_help_warns_that_the_network_of_fvd_is_a_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "only a file that you trust" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "i3d.pt")
    clips = np.zeros((1, 16, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="not a file"):
        frechet_video_distance(tmp_path / "i3d.pt", clips, clips)
