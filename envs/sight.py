"""What players see: things by their colour, as games draw them and learned worlds nearly do."""

from __future__ import annotations

import numpy as np


def is_colour(frames: np.ndarray, colour: tuple[int, int, int], near: int = 60) -> np.ndarray:
    """Return where frames have a colour.

    Args:
        frames: ``uint8`` (... h w 3).
        colour: Red, green and blue.
        near: How far each of them may be off, of 255: the frames of a learned world are not exact.

    Returns:
        Bool (... h w).
    """
    return np.abs(frames.astype(np.int16) - colour).max(-1) < near
