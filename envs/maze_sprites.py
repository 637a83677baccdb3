"""Sprites of the maze: cells of eight by eight pixels with thin walls, and objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CELL = 8  # pixels; the outermost ones on each side are walls
DARK = (6, 6, 12)
FLOOR = (52, 46, 64)
FLOOR_SPECK = (66, 58, 82)
DAY_FLOOR = (150, 144, 160)
DAY_FLOOR_SPECK = (164, 158, 176)
WALL_COLOURS = ((96, 144, 248), (232, 96, 176), (72, 200, 160), (240, 168, 80))
"""Walls of the upper left, upper right, lower left and lower right quarter."""

_COLOURS = {
    "y": (255, 208, 64),  # gold
    "o": (200, 140, 32),  # gold in the shade
    "c": (96, 232, 255),  # the key
    "b": (136, 84, 44),  # wood
    "B": (92, 54, 28),  # wood in the shade
    "g": (72, 224, 96),  # the way out
    "G": (32, 120, 56),
    "r": (232, 64, 72),  # the player's coat
    "s": (255, 220, 184),  # face
    "k": (20, 16, 24),  # eyes
}

COAT = _COLOURS["r"]  # only the player has this colour


def _parse(*rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask (h w) bool and colours (h w 3) uint8 of a drawing; '.' is see-through."""
    mask = np.array([[letter != "." for letter in row] for row in rows])
    colours = [[_COLOURS.get(letter, DARK) for letter in row] for row in rows]
    return mask, np.array(colours, np.uint8)


COIN = _parse(
    ".yyyo.",
    "yyyyyo",
    "yyoyyo",
    "yyoyyo",
    "yyyyyo",
    ".yooo.",
)
KEY = _parse(
    "......",
    "ccc...",
    "c.cccc",
    "ccc.cc",
    "......",
    "......",
)
DOOR = _parse(
    "BBBBBB",
    "BbbbbB",
    "BbbbbB",
    "BbbbcB",
    "BbbbbB",
    "BBBBBB",
)
OPEN_DOOR = _parse(
    "GGGGGG",
    "GggggG",
    "GgGGgG",
    "GgGGgG",
    "GggggG",
    "GGGGGG",
)
PLAYER = _parse(
    ".rrrr.",
    "ssssss",
    "skssks",
    "ssssss",
    "rrrrrr",
    "rr..rr",
)
PLAYER_WITH_KEY = _parse(
    ".rrrr.",
    "ssssss",
    "skssks",
    "ssssss",
    "ccrrrr",
    "cc..rr",
)


def draw_sprite(
    canvas: np.ndarray, sprite: tuple[np.ndarray, np.ndarray], cell: tuple[int, int]
) -> None:
    """Draw a sprite (6 6) onto a cell (row, column) of a canvas (h w 3), in place."""
    mask, colours = sprite
    y, x = CELL * cell[0] + 1, CELL * cell[1] + 1
    target = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    target[mask] = colours[mask]


def draw_maze(
    open_ways: np.ndarray,
    walls: Sequence[tuple[int, int, int]] = WALL_COLOURS,
    *,
    night: bool = True,
) -> np.ndarray:
    """Draw walls and floor.

    Args:
        open_ways: Bool array of shape (rows columns 2): whether the way down, and to the right, of
            a cell is open.
        walls: Colours of the quarters' walls, as `WALL_COLOURS`.
        night: Whether the floor is dark.

    Returns:
        ``uint8`` canvas of shape (8 * rows, 8 * columns, 3).
    """
    rows, columns = open_ways.shape[:2]
    floor, speck = (FLOOR, FLOOR_SPECK) if night else (DAY_FLOOR, DAY_FLOOR_SPECK)
    canvas = np.empty((CELL * rows, CELL * columns, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            cell = canvas[CELL * r : CELL * (r + 1), CELL * c : CELL * (c + 1)]
            cell[:] = walls[2 * (r >= rows // 2) + (c >= columns // 2)]
            cell[1:-1, 1:-1] = floor
            cell[2, 2] = cell[5, 4] = speck
            if r and open_ways[r - 1, c, 0]:
                cell[0, 1:-1] = floor
            if open_ways[r, c, 0]:
                cell[-1, 1:-1] = floor
            if c and open_ways[r, c - 1, 1]:
                cell[1:-1, 0] = floor
            if open_ways[r, c, 1]:
                cell[1:-1, -1] = floor
    return canvas
