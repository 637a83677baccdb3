"""Readers of the scenes of `worldsim probe`: measure quantities in frames.

Each scene has a function that measures quantities in a video and returns their errors. On real
frames this is the error of the reader, on a world's frames that of the world.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .scene_look import (
    BACKGROUND,
    CANDLE_WIDTH,
    COLOURS,
    COUNTED_RADIUS,
    FLAME,
    FLOOR,
    HEIGHT,
    LIQUID,
    PILLAR,
    VESSELS,
    WAX,
    WIDTH,
)

Frames = NDArray[np.uint8]
Truth = dict[str, NDArray[Any]]
Errors = dict[str, float]

GRAVITY = 0.03  # pixels per step squared
SPAN = 4  # steps over which velocities are averaged, so that subpixel jitter cancels
SMALLEST = 4.0  # area in pixels, below which there is no object
HAZE = 0.1  # share of a colour that counts as none where many pixels are summed
GROWS = 0.15  # pixels per step, above which a candle has grown


def cover(frames: Frames, *colours: tuple[int, int, int]) -> NDArray[np.float64]:
    """The share of each colour in each pixel; the rest is background.

    Args:
        frames: ``uint8`` (t h w 3).
        colours: Up to three.

    Returns:
        Shares from 0 to 1, (colours t h w), by least squares.
    """
    ground = np.array(BACKGROUND, np.float64)
    directions = np.array(colours, np.float64) - ground
    mixture = (frames - ground) @ np.linalg.pinv(directions)
    return np.clip(np.moveaxis(mixture, -1, 0), 0.0, 1.0)


def locate(alpha: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (t 2) as (x, y), nan without an object, and area (t) of shares (t h w)."""
    alpha = np.where(alpha < HAZE, 0.0, alpha)  # a tint far from a ball would shift its centre
    area = alpha.sum((-2, -1))
    y, x = np.mgrid[: alpha.shape[-2], : alpha.shape[-1]] + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack([(alpha * axis).sum((-2, -1)) / area for axis in (x, y)], axis=-1)
    return np.where(area[:, None] >= SMALLEST, centre, np.nan), area


def _inside(position: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a ball is completely in the frame, (t)."""
    room = np.array([WIDTH, HEIGHT])
    near, far = position - radius[:, None], position + radius[:, None]
    return np.asarray(((near >= 0) & (far <= room)).all(-1))


def _follow(
    frames: Frames, position: NDArray[np.float64], radius: NDArray[np.float64], colour: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Velocities (t-4 2) of a ball, whether they are known (t-4), and the share of lost frames."""
    centre, area = locate(cover(frames, *COLOURS)[colour])
    whole = _inside(position, radius)
    there = whole & (area > 0.5 * np.pi * radius**2) & (area < 2 * np.pi * radius**2)
    known = there[SPAN:] & there[:-SPAN]
    lost = 1 - there[whole].mean() if whole.any() else float("nan")
    return _velocity(centre), known, float(lost)


def _velocity(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Velocities (t-4 ...) in pixels per step from positions (t ...)."""
    return (position[SPAN:] - position[:-SPAN]) / SPAN


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def read_motion(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Error of a ball's velocity, in pixels per step, while it is one ball."""
    velocity, known, lost = _follow(frames, truth["position"], truth["radius"], 0)
    error = np.linalg.norm(velocity - _velocity(truth["position"]), axis=-1)[known]
    return {"velocity": _mean(error), "lost": lost}


def read_parabola(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Errors of velocity, and of mechanical energy relative to the true kinetic energy."""
    velocity, known, lost = _follow(frames, truth["position"], truth["radius"], 0)
    step = _velocity(truth["position"])
    error = np.linalg.norm(velocity - step, axis=-1)[known]
    centre, _ = locate(cover(frames, *COLOURS)[0])
    height, true_height = (
        (place[SPAN:, 1] + place[:-SPAN, 1]) / 2 for place in (centre, truth["position"])
    )
    kinetic = 0.5 * np.square(step).sum(-1)
    energy = 0.5 * np.square(velocity).sum(-1) - GRAVITY * height
    off = np.abs(energy - (kinetic - GRAVITY * true_height)) / kinetic
    return {"velocity": _mean(error), "energy": _mean(off[known]), "lost": lost}


def read_collision(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Errors of velocity, momentum and energy after two balls have collided.

    The error of momentum is relative to the sum of absolute momenta, that of energy to the true
    energy. Masses are the true ones.
    """
    mass = truth["radius"][0] ** 2
    after = np.abs(np.diff(truth["velocity"][:, 0, 0], prepend=np.nan)) > 0
    first = int(np.argmax(after)) if after.any() else 0
    followed = [
        _follow(frames, truth["position"][:, i], truth["radius"][:, i], i) for i in range(2)
    ]
    known = followed[0][1] & followed[1][1]
    known[:first] = False
    read = np.stack([one[0][:, 0] for one in followed], axis=-1)[known]
    true = _velocity(truth["position"][..., 0])[known]
    momentum = np.abs((read - true) @ mass) / (np.abs(true) @ mass)
    energy = np.abs(np.square(read) @ mass - np.square(true) @ mass) / (np.square(true) @ mass)
    return {
        "velocity": _mean(np.abs(read - true)),
        "momentum": _mean(momentum),
        "energy": _mean(energy),
        "lost": float(np.nanmean([one[2] for one in followed])),
    }


def read_occlusion(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Errors of kind, time and place of a ball that comes out from behind the pillar.

    ``vanished`` and ``other kind`` are 0 or 1, ``time`` is in steps, and ``place`` is the error of
    the height in pixels.
    """
    beyond = slice(PILLAR[1], None) if truth["velocity"][0, 0] > 0 else slice(0, PILLAR[0])
    alpha, real_alpha = (cover(side, *COLOURS) for side in (frames, real))
    for one in (alpha, real_alpha):
        one[one < HAZE] = 0.0  # a tint of all pixels is not a ball
    visible = np.zeros_like(alpha)
    visible[..., beyond] = alpha[..., beyond]
    area = visible.sum((-2, -1))  # (kinds t)
    kind, half = int(truth["kind"][0]), 0.5 * np.pi * truth["radius"][0] ** 2
    out = area.sum(0) >= half
    real_area = real_alpha[kind][..., beyond].sum((-2, -1))
    if not out.any():
        return {"vanished": 1.0, "other kind": np.nan, "time": np.nan, "place": np.nan}
    first, true_first = int(np.argmax(out)), int(np.argmax(real_area >= half))
    centre, _ = locate(visible.sum(0))
    whole = out & _inside(truth["position"], truth["radius"])
    return {
        "vanished": 0.0,
        "other kind": float(area[:, out].sum(1).argmax() != kind),
        "time": float(abs(first - true_first)),
        "place": _mean(np.abs(centre - truth["position"])[whole, 1]),
    }


def read_pour(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Errors of the liquid in each vessel and in total, relative to the total."""
    alpha = cover(frames, LIQUID)[0]
    volume = np.stack(
        [alpha[:, :FLOOR, left:right].sum((-2, -1)) for left, right in VESSELS], axis=-1
    )
    total = truth["volume"][0].sum()
    return {
        "volume": _mean(np.abs(volume - truth["volume"])) / total,
        "total": _mean(np.abs(volume.sum(-1) - total)) / total,
    }


def read_candle(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Error of a candle's height, in pixels, and the share of steps in which it grows."""
    x = truth["x"][0]
    near = slice(max(0, int(x - CANDLE_WIDTH)), int(x + CANDLE_WIDTH) + 1)
    height = cover(frames, WAX, FLAME)[0][:, :FLOOR, near].sum((-2, -1)) / CANDLE_WIDTH
    return {
        "height": _mean(np.abs(height - truth["height"])),
        "grows": _mean((np.diff(height) > GROWS).astype(np.float64)),
    }


def read_counting(frames: Frames, truth: Truth, real: Frames) -> Errors:
    """Shares of frames in which the number of balls, or of any kind, is wrong.

    Only frames in which no ball hides another count.
    """
    kinds = truth["kind"][0]
    true = np.array([(kinds == kind).sum() for kind in range(len(COLOURS))])
    plain = (count(real) == true).all(-1)
    counted = count(frames)[plain]
    return {
        "number": _mean((counted.sum(-1) != true.sum()).astype(np.float64)),
        "kinds": _mean((counted != true).any(-1).astype(np.float64)),
    }


def count(frames: Frames) -> NDArray[np.int64]:
    """The number of balls of each kind, (t kinds), by connected components and their size."""
    size = np.pi * COUNTED_RADIUS**2
    result = np.zeros((len(frames), len(COLOURS)), np.int64)
    for kind, alpha in enumerate(cover(frames, *COLOURS)):
        for t, mask in enumerate((alpha > 0.5).astype(np.uint8)):
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
            areas = stats[1:, cv2.CC_STAT_AREA]
            areas = areas[areas >= 0.4 * size]
            result[t, kind] = np.maximum(np.round(areas / size), 1).sum()
    return result


def speed_of(truth: Truth) -> float:
    """The mean speed of the balls at the start, in pixels per step."""
    return float(np.abs(truth["velocity"][0]).reshape(-1, 2)[:, 0].mean())


def rate_of(truth: Truth) -> float:
    """The rate of pouring or burning, in pixels per step."""
    return float(truth["rate"][0])


def number_of(truth: Truth) -> float:
    """The number of balls."""
    return float((truth["kind"][0] >= 0).sum())
