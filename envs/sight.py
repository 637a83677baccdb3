"""Find objects by their colour, in the frames of games and of learned worlds."""

from __future__ import annotations

import numpy as np


def is_colour(frames: np.ndarray, colour: tuple[int, int, int], near: int = 60) -> np.ndarray:
    """Return where frames have a colour.

    Args:
        frames: ``uint8`` (... h w 3).
        colour: Red, green and blue.
        near: Tolerance of each channel, of 255: the frames of a learned world are not exact.

    Returns:
        Bool (... h w).
    """
    return np.abs(frames.astype(np.int16) - colour).max(-1) < near
