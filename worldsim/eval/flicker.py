"""Flicker: the difference between a frame and the previous one warped by the optical flow.

This is the flow warping error of Lai et al. (2018), "Learning blind video temporal consistency".
The flow is OpenCV's DIS (Kroeger et al. 2016), which needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.eval.bootstrap import Estimate, estimate

SMALLEST = 128  # pixels: DIS matches patches of 8 on a pyramid, so smaller frames are enlarged


class Steps(NamedTuple):
    """Flicker and motion of each step of a video, (t - 1).

    Attributes:
        errors: Flow warping error: mean absolute difference, in values of 255, between a frame and
            the previous one warped by the flow. Only pixels visible in both count; nan if there
            are none.
        magnitudes: Mean length of the flow, in pixels.
        colour_shifts: Change of the mean colour, in values of 255, mean over the channels.
    """

    errors: NDArray[np.float64]
    magnitudes: NDArray[np.float64]
    colour_shifts: NDArray[np.float64]


class FlickerMeter:
    """Measures the steps of a video frame by frame, with memory for one frame.

    A still or shifted video has almost no warping error. Brightness that flickers by x values adds
    about x.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: NDArray[np.uint8] | None = None
        self._steps: list[tuple[float, float, float]] = []

    def through(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames (h w c), c of 1 or 3, and measure each."""
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
        """The steps measured so far."""
        return Steps(*np.array(self._steps, np.float64).reshape(-1, 3).T)

    def _measure(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8]
    ) -> tuple[float, float, float]:
        if np.array_equal(before, after):
            return 0.0, 0.0, 0.0
        # The colour shift is measured on the original frames, the flow on enlarged ones.
        shift = np.abs(after.mean((0, 1)) - before.mean((0, 1))).mean()
        scale = -(-SMALLEST // min(before.shape[:2]))
        size = (before.shape[1] * scale, before.shape[0] * scale)
        before, after = (_enlarge(frame, size) for frame in (before, after))
        grey_before, grey_after = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (before, after))
        # The backward flow warps the previous frame; the forward flow finds the occluded pixels.
        back = _flow(self._dis, grey_after, grey_before)
        forth = _flow(self._dis, grey_before, grey_after)
        warped = _warp(before, back)
        visible = ~_occluded(back, _warp(forth, back))
        difference = np.abs(warped.astype(np.float64) - after).mean(-1)
        error = float(difference[visible].mean()) if visible.any() else float("nan")
        return error, float(np.linalg.norm(back, axis=-1).mean()) / scale, float(shift)


def measure_steps(frames: Iterable[NDArray[np.uint8]]) -> Steps:
    """Measure the steps of a video, as `FlickerMeter` does.

    Args:
        frames: At least two of ``uint8`` (h w c), c of 1 or 3.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    meter = FlickerMeter()
    count = sum(1 for _ in meter.through(frames))
    if count < 2:
        raise ValueError(f"the flow warping error needs at least two frames, got {count}")
    return meter.steps


def _enlarge(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame of three channels at another size (w, h)."""
    image = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    if image.ndim == 3:
        return image
    return np.repeat(image[..., None], 3, axis=-1)  # OpenCV drops the axis of a single channel


class Flicker(NamedTuple):
    """Flicker of real and imagined videos of the same moments.

    Attributes:
        warping_error_real: Flow warping error of the real videos, in values of 255.
        warping_error_world: The same of the imagined videos.
        flow_real: Mean length of the flow in the real videos, in pixels per step.
        flow_world: The same in the imagined videos.
        ratio: Imagined warping error divided by the real one; nan if the real videos are still.
        episodes: Number of episodes that the videos are from.
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
        real: Real videos, ``uint8`` (b t h w c).
        imagined: Imagined videos, of the same shape.
        episodes: The episode of each video (b).
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
    """Optical flow from one grey image to another, (h w 2) as (x, y) in pixels."""
    return np.asarray(dis.calc(here, there, np.zeros((*here.shape, 2), np.float32)), np.float32)


def _warp(image: NDArray, flow: NDArray[np.float32]) -> NDArray:
    """Warp an image along the flow: each pixel is read where its flow points."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32), indexing="xy"
    )
    return cv2.remap(
        image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
    )


def _occluded(back: NDArray, forth_there: NDArray) -> NDArray[np.bool_]:
    """Pixels that fail the forward-backward consistency check (Sundaram et al. 2010)."""
    gap = np.square(back + forth_there).sum(-1)
    size = np.square(back).sum(-1) + np.square(forth_there).sum(-1)
    return gap > 0.01 * size + 0.5
