"""Flicker: how far a video is from its own past, moved along its optical flow.

The flow warping error of Lai et al. (2018), "Learning blind video temporal consistency", with the
flow of OpenCV's DIS (Kroeger et al. 2016), which needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.eval.bootstrap import Estimate, estimate

SMALLEST = 128  # pixels: DIS looks at patches of 8 on a pyramid, so smaller frames are enlarged


class Steps(NamedTuple):
    """What each step of a video is like, (t - 1).

    Attributes:
        errors: Flow warping error: mean absolute difference between a frame and the one before it
            moved along the flow, in values of 255, over what is seen in both; nan where nothing is.
        magnitudes: Mean length of the flow, in pixels.
        colour_shifts: Change of the mean colour, in values of 255, the mean over the channels.
    """

    errors: NDArray[np.float64]
    magnitudes: NDArray[np.float64]
    colour_shifts: NDArray[np.float64]


class Watch:
    """Measures the steps of a video frame by frame, in memory for one frame.

    A still video has no warping error and one that is merely shifted next to none; brightness that
    flickers by x values of 255 adds about x.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: NDArray[np.uint8] | None = None
        self._steps: list[tuple[float, float, float]] = []

    def through(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Pass frames (h w c) on, c of 1 or 3, and measure them on their way."""
        for frame in frames:
            self.add(frame)
            yield frame

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Measure the step to the next frame (h w c), c of 1 or 3."""
        before, self._before = self._before, frame
        if before is not None:
            self._steps.append(self._measure(before, frame))

    @property
    def steps(self) -> Steps:
        """Of the frames until now."""
        return Steps(*np.array(self._steps, np.float64).reshape(-1, 3).T)

    def _measure(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8]
    ) -> tuple[float, float, float]:
        if np.array_equal(before, after):
            return 0.0, 0.0, 0.0
        shift = np.abs(after.mean((0, 1)) - before.mean((0, 1))).mean()
        scale = -(-SMALLEST // min(before.shape[:2]))
        size = (before.shape[1] * scale, before.shape[0] * scale)
        before, after = (_enlarge(frame, size) for frame in (before, after))
        grey_before, grey_after = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (before, after))
        back = _flow(self._dis, grey_after, grey_before)  # where each pixel was
        forth = _flow(self._dis, grey_before, grey_after)
        moved = _warp(before, back)
        seen = ~_occluded(back, _warp(forth, back))
        difference = np.abs(moved.astype(np.float64) - after).mean(-1)
        error = float(difference[seen].mean()) if seen.any() else float("nan")
        return error, float(np.linalg.norm(back, axis=-1).mean()) / scale, float(shift)


def measure_steps(frames: Iterable[NDArray[np.uint8]]) -> Steps:
    """Measure the steps of a video, as `Watch` does.

    Args:
        frames: At least two of ``uint8`` (h w c), c of 1 or 3.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    watch = Watch()
    seen = sum(1 for _ in watch.through(frames))
    if seen < 2:
        raise ValueError(f"the flow warping error needs at least two frames, got {seen}")
    return watch.steps


def _enlarge(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame of three channels at another size (w, h)."""
    picture = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    if picture.ndim == 3:
        return picture
    return np.repeat(picture[..., None], 3, axis=-1)  # OpenCV drops the axis of a single one


class Flicker(NamedTuple):
    """Real and imagined videos of the same moments.

    Attributes:
        warping_error_real: Of the real ones, in values of 255.
        warping_error_world: Of the imagined ones.
        flow_real: Mean length of the flow, in pixels a step.
        flow_world: The same.
        ratio: Imagined warping error over the real one; nan where the real videos are still.
        episodes: How many episodes the videos are of.
    """

    warping_error_real: Estimate
    warping_error_world: Estimate
    flow_real: Estimate
    flow_world: Estimate
    ratio: float
    episodes: int


def flicker(
    real: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    episodes: NDArray[np.integer],
    on_video: Callable[[], None] | None = None,
) -> Flicker:
    """Measure the warping error of videos of the same moments.

    Args:
        real: ``uint8`` (b t h w c).
        imagined: The same.
        episodes: The episode that each is from (b).
        on_video: Called after each of the 2b videos, for a progress bar.
    """
    found: dict[str, Estimate] = {}
    for name, videos in (("real", real), ("world", imagined)):
        errors, magnitudes = [], []
        for video in videos:
            steps = measure_steps(video)
            errors.append(np.nanmean(steps.errors))
            magnitudes.append(steps.magnitudes.mean())
            if on_video is not None:
                on_video()
        ones = np.ones(len(videos))
        found[f"warping_error_{name}"] = estimate(errors, ones, episodes)
        found[f"flow_{name}"] = estimate(magnitudes, ones, episodes)
    real_error = found["warping_error_real"].value
    ratio = found["warping_error_world"].value / real_error if real_error else float("nan")
    return Flicker(**found, ratio=ratio, episodes=len(np.unique(episodes)))


def _flow(dis: cv2.DISOpticalFlow, here: Any, there: Any) -> NDArray[np.float32]:
    """For each pixel of one picture, how far away it is in the other, (h w 2) as (x, y)."""
    return np.asarray(dis.calc(here, there, np.zeros((*here.shape, 2), np.float32)), np.float32)


def _warp(picture: NDArray, flow: NDArray[np.float32]) -> NDArray:
    """The picture as it looks when each pixel is fetched from where the flow points."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32), indexing="xy"
    )
    return cv2.remap(
        picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
    )


def _occluded(back: NDArray, forth_there: NDArray) -> NDArray[np.bool_]:
    """Pixels whose flow there and back does not come home (Sundaram et al. 2010)."""
    gap = np.square(back + forth_there).sum(-1)
    size = np.square(back).sum(-1) + np.square(forth_there).sum(-1)
    return gap > 0.01 * size + 0.5
