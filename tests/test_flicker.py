"""The flow warping error on videos with known answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from worldsim.eval.flicker import flicker, measure_steps


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth random texture (80 80 3) between 64 and 192."""
    noise = np.random.default_rng(0).random((80, 80, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 64, 192, cv2.NORM_MINMAX).astype(np.uint8)


def shifted(picture: np.ndarray, steps: int = 5) -> np.ndarray:
    """A video (t 64 64 3) that moves two pixels down and one to the right in each step."""
    return np.stack([picture[2 * i : 64 + 2 * i, i : 64 + i] for i in range(steps)])


def test_a_still_video_has_none(picture: np.ndarray) -> None:
    found = measure_steps(np.stack([picture] * 4))
    for values in found:
        assert values.tolist() == [0, 0, 0]


def test_a_translation_has_next_to_none_and_the_right_flow(picture: np.ndarray) -> None:
    video = shifted(picture)
    found = measure_steps(video)
    plain = np.abs(np.diff(video.astype(int), axis=0)).mean()
    assert plain > 5  # what a comparison without flow would call flicker
    assert found.errors.max() < 0.1 * plain
    np.testing.assert_allclose(found.magnitudes, 5**0.5, atol=0.1)


@pytest.mark.parametrize("moving", [False, True])
def test_flicker_raises_it_in_proportion(picture: np.ndarray, moving: bool) -> None:
    video = shifted(picture) if moving else np.stack([picture] * 5)
    errors, shifts = [], []
    for amplitude in (0, 8, 16, 32):
        bright = video.astype(int)
        bright[1::2] += amplitude
        found = measure_steps(bright.astype(np.uint8))
        errors.append(found.errors.mean())
        shifts.append(found.colour_shifts.mean())
    np.testing.assert_allclose(np.diff(errors), [8, 8, 16], rtol=0.15)
    np.testing.assert_allclose(np.diff(shifts), [8, 8, 16], atol=1)


def test_greys_and_small_frames_are_measured_alike(picture: np.ndarray) -> None:
    grey = shifted(picture).mean(-1, keepdims=True).astype(np.uint8)
    colour = measure_steps(np.repeat(grey, 3, axis=-1)).errors
    np.testing.assert_allclose(measure_steps(grey).errors, colour, atol=0.02)
    small = np.stack(
        [cv2.resize(f, (16, 16), interpolation=cv2.INTER_AREA) for f in shifted(picture)]
    )
    assert np.isfinite(measure_steps(small).errors).all()


def test_a_real_video_compared_with_a_noisy_one(picture: np.ndarray) -> None:
    real = np.stack([shifted(picture), shifted(picture[::-1])])
    noise = np.random.default_rng(0).normal(0, 10, real.shape)
    noisy = (real + noise).clip(0, 255).astype(np.uint8)
    seen: list[int] = []
    same = flicker(real, real, np.arange(2), lambda: seen.append(1))
    assert same.ratio == 1
    assert len(seen) == 4
    assert flicker(real, noisy, np.arange(2)).ratio > 3
    assert np.isnan(flicker(real[:, :1].repeat(3, 1), noisy[:, :3], np.arange(2)).ratio)


def test_one_frame_is_no_video(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        measure_steps(picture[None])
