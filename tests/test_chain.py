"""Windows chained to a long video, and what tells their seams."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from worldsim.eval.flicker import measure_steps
from worldsim.video.chain import Chain, cross_fade
from worldsim.video.seams import find_cuts, measure_seams

Frames = np.ndarray


@pytest.fixture(scope="module")
def texture() -> Frames:
    """A smooth random picture (160 160 3) between 64 and 160."""
    noise = np.random.default_rng(0).random((160, 160, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 64, 160, cv2.NORM_MINMAX).astype(np.uint8)


def sliding(texture: Frames, first: int, count: int) -> Frames:
    """A video that moves by one pixel down and right in each step."""
    return np.stack([texture[i : i + 64, i : i + 64] for i in range(first, first + count)])


def test_frames_of_the_overlap_fade_in_equal_steps() -> None:
    old, new = np.zeros((3, 2, 2, 3), np.uint8), np.full((3, 2, 2, 3), 200, np.uint8)
    assert cross_fade(old, new)[:, 0, 0, 0].tolist() == [50, 100, 150]


@pytest.mark.parametrize("num_frames", [1, 7, 8, 9, 13, 14, 40])
def test_windows_that_agree_chain_to_the_video_that_they_are_cut_from(
    texture: Frames, num_frames: int
) -> None:
    given: list[Frames | None] = []

    def make_window(context: Frames | None, index: int) -> Frames:
        given.append(context)
        return sliding(texture, index * 6, 8)

    chain = Chain(make_window, num_frames, overlap=2)
    made = np.stack(list(chain))
    np.testing.assert_array_equal(made, sliding(texture, 0, num_frames))
    assert len(given) == len(chain.seams) + 1 == 1 + max(0, -(-(num_frames - 8) // 6))
    assert given[0] is None
    for i, context in enumerate(given[1:]):
        np.testing.assert_array_equal(context, sliding(texture, i * 6 + 6, 2))
    assert chain.seams == [range(6 * k - 1, 6 * k + 2) for k in range(1, len(given))]


def test_what_the_first_window_begins_from_is_handed_on() -> None:
    context = np.ones((2, 4, 4, 3), np.uint8)
    given = []

    def make_window(context: Frames | None, index: int) -> Frames:
        given.append(context)
        return np.zeros((4, 4, 4, 3), np.uint8)

    list(Chain(make_window, 3, 1, context))
    assert given[0] is context


def test_memory_is_that_of_one_window_however_long_the_video() -> None:
    def peak(num_frames: int) -> int:
        chain = Chain(lambda *_: np.zeros((16, 64, 64, 3), np.uint8), num_frames, 4)
        tracemalloc.start()
        for _ in chain:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(2000) < 1.2 * peak(60)


def test_windows_that_do_not_fit_show_as_seams_and_nowhere_else(texture: Frames) -> None:
    def measured(shift: int) -> tuple[Frames, list[range]]:
        def make_window(context: Frames | None, index: int) -> Frames:
            return sliding(texture, index * 14, 16) + np.uint8(shift * (index % 2))

        chain = Chain(make_window, 60, overlap=2)
        return np.stack(list(chain)), chain.seams

    frames, seams = measured(0)
    whole = measure_seams(measure_steps(frames), seams)
    assert whole.warping_error == pytest.approx(whole.warping_error_elsewhere, rel=0.3)
    assert whole.cuts == []
    frames, seams = measured(45)  # brighter by 15 in each of three steps
    found = measure_seams(measure_steps(frames), seams)
    assert found.colour_shift == pytest.approx(15, abs=1)
    assert found.colour_shift_elsewhere < 1
    assert found.warping_error > 10 * found.warping_error_elsewhere
    assert found.cuts == [step for seam in seams for step in seam]


def test_a_cut_is_found_where_it_is(texture: Frames) -> None:
    other = texture[::-1, ::-1]
    frames = np.concatenate((sliding(texture, 0, 20), sliding(other, 40, 20)))
    steps = measure_steps(frames)
    assert find_cuts(steps.errors) == [19]
    assert find_cuts(measure_steps(sliding(texture, 0, 30)).errors) == []
    still = measure_seams(measure_steps(texture[None].repeat(9, 0)), [range(3, 5)])
    assert (still.warping_error, still.warping_error_elsewhere, still.cuts) == (0, 0, [])


def test_what_cannot_be_chained_is_refused() -> None:
    short = Chain(lambda *_: np.zeros((2, 4, 4, 3), np.uint8), 9, overlap=2)
    with pytest.raises(ValueError, match="got 2 frames with an overlap of 2"):
        list(short)
    with pytest.raises(ValueError, match="got 9 frames and an overlap of 0"):
        Chain(lambda *_: np.zeros((2, 4, 4, 3), np.uint8), 9, overlap=0)
