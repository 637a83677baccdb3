"""Drawing of the scenes of `worldsim probe`: sizes, colours, and a function for each scene.

The readers of the scenes use the same sizes and colours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

HEIGHT, WIDTH = 32, 64  # pixels of a frame
BACKGROUND = (18, 20, 30)
COLOURS = ((235, 70, 70), (70, 215, 90), (80, 130, 245))  # one for each kind of ball
PILLAR, PILLAR_COLOUR = (26, 38), (110, 110, 118)  # columns from, to
FLOOR = 28  # row on which vessels and candles stand
VESSELS = ((14, 24), (40, 50))  # columns from, to, inside
GLASS, LIQUID = (150, 150, 165), (70, 160, 235)
WAX, FLAME, CANDLE_WIDTH = (232, 220, 190), (255, 150, 30), 6.0
COUNTED_RADIUS = 3.0

_X, _Y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)


def _blend(canvas: np.ndarray, alpha: np.ndarray, colour: tuple[int, int, int]) -> None:
    canvas += alpha[..., None] * (np.array(colour) - canvas)


def _disc(
    canvas: np.ndarray, position: np.ndarray, radius: float, colour: tuple[int, int, int]
) -> None:
    distance = np.hypot(_X - position[0], _Y - position[1])
    _blend(canvas, np.clip(radius + 0.5 - distance, 0.0, 1.0), colour)


def _column(
    canvas: np.ndarray,
    sides: tuple[float, float],
    height: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw a column on the floor, with sides and top at a fraction of a pixel."""
    across = np.clip(np.minimum(_X + 0.5, sides[1]) - np.maximum(_X - 0.5, sides[0]), 0, 1)
    up = np.clip(height - (FLOOR - _Y - 0.5), 0, 1) * (FLOOR > _Y)
    _blend(canvas, across * up, colour)


def paint_ball(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw one ball."""
    _disc(canvas, state["position"], state["radius"], COLOURS[0])


def paint_two(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw two balls of different colours."""
    for position, radius, colour in zip(state["position"], state["radius"], COLOURS, strict=False):
        _disc(canvas, position, radius, colour)


def paint_occlusion(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw a ball behind a pillar."""
    _disc(canvas, state["position"], state["radius"], COLOURS[state["kind"]])
    canvas[:, PILLAR[0] : PILLAR[1]] = PILLAR_COLOUR


def paint_pour(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw two vessels and the liquid in them."""
    for (left, right), volume in zip(VESSELS, state["volume"], strict=True):
        for wall in (left - 1, right):
            canvas[FLOOR - 24 : FLOOR, wall] = GLASS
        canvas[FLOOR, left - 1 : right + 1] = GLASS
        _column(canvas, (left, right), volume / (right - left), LIQUID)


def paint_candle(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw a candle with its flame, on the floor."""
    x, height = state["x"], state["height"]
    _column(canvas, (x - CANDLE_WIDTH / 2, x + CANDLE_WIDTH / 2), height, WAX)
    canvas[FLOOR:] = PILLAR_COLOUR
    _disc(canvas, np.array([x, FLOOR - height - 3]), 1.5, FLAME)


def paint_counting(canvas: np.ndarray, state: dict[str, Any]) -> None:
    """Draw the balls, the first one last."""
    for position, kind in zip(state["position"][::-1], state["kind"][::-1], strict=True):
        if kind >= 0:
            _disc(canvas, position, COUNTED_RADIUS, COLOURS[kind])
