"""What the maze looks like: eight by eight pixel tiles, drawn as text."""

from __future__ import annotations

import numpy as np

TILE = 8
DARK = (6, 6, 12)
FLOOR = (44, 42, 54)
FLOOR_SPECK = (52, 50, 64)
WALL_COLOURS = ((64, 96, 168), (152, 72, 120), (56, 136, 112), (168, 112, 56))
"""Walls of the upper left, upper right, lower left and lower right quarter."""

_COLOURS = {
    "y": (255, 208, 64),  # gold
    "o": (200, 140, 32),  # gold in the shade
    "c": (96, 232, 255),  # the key
    "b": (136, 84, 44),  # wood
    "B": (92, 54, 28),  # wood in the shade
    "g": (72, 224, 96),  # the exit
    "G": (32, 120, 56),
    "r": (232, 64, 72),  # the player's coat
    "s": (255, 220, 184),  # face
    "k": (20, 16, 24),  # eyes
}


def _parse(*rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask (h w) bool and colours (h w 3) uint8 of a drawing; '.' is see-through."""
    mask = np.array([[letter != "." for letter in row] for row in rows])
    colours = [[_COLOURS.get(letter, DARK) for letter in row] for row in rows]
    return mask, np.array(colours, np.uint8)


COIN = _parse(
    "........",
    "..yyyo..",
    ".yyyyyo.",
    ".yyoyyo.",
    ".yyoyyo.",
    ".yyyyyo.",
    "..yooo..",
    "........",
)
KEY = _parse(
    "........",
    "........",
    ".ccc....",
    ".c.ccccc",
    ".ccc.c.c",
    "........",
    "........",
    "........",
)
DOOR = _parse(
    "BBBBBBBB",
    "BbbBbbbB",
    "BbbBbbbB",
    "BbbBbbbB",
    "BbbBbcbB",
    "BbbBbbbB",
    "BbbBbbbB",
    "BBBBBBBB",
)
EXIT = _parse(
    "GGGGGGGG",
    "GggggggG",
    "GgGGGGgG",
    "GgGggGgG",
    "GgGggGgG",
    "GgGGGGgG",
    "GggggggG",
    "GGGGGGGG",
)
PLAYER = _parse(
    "..rrrr..",
    ".rrrrrr.",
    ".ssssss.",
    ".skssks.",
    ".ssssss.",
    ".rrrrrr.",
    ".rrrrrr.",
    ".rr..rr.",
)


def draw_sprite(canvas: np.ndarray, sprite: tuple[np.ndarray, np.ndarray], y: int, x: int) -> None:
    """Draw a sprite onto a canvas (h w 3), in place, with its upper left corner at (y, x)."""
    mask, colours = sprite
    target = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    target[mask] = colours[mask]


def draw_tiles(walls: np.ndarray, margin: int) -> np.ndarray:
    """Draw walls and floor.

    Args:
        walls: Bool array of shape (rows columns).
        margin: Dark pixels on each side.

    Returns:
        ``uint8`` canvas of shape (rows * 8 + 2 * margin, columns * 8 + 2 * margin, 3).
    """
    rows, columns = walls.shape
    canvas = np.full((rows * TILE + 2 * margin, columns * TILE + 2 * margin, 3), DARK, np.uint8)
    for r in range(rows):
        for c in range(columns):
            y, x = r * TILE + margin, c * TILE + margin
            tile = canvas[y : y + TILE, x : x + TILE]
            if not walls[r, c]:
                tile[:] = FLOOR
                tile[2:4, 2:4] = tile[6:8, 5:7] = FLOOR_SPECK
                continue
            colour = np.array(WALL_COLOURS[2 * (r > rows // 2) + (c > columns // 2)])
            tile[:] = colour * 3 // 4
            tile[0:3, 0:7] = tile[4:7, 0:3] = tile[4:7, 4:8] = colour
            tile[3] = tile[7] = colour // 2
    return canvas
