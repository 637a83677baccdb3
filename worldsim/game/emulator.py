"""Emulator: the part of ALE's emulator that Atari wrappers need.

`gymnasium.wrappers.AtariPreprocessing` and Stable-Baselines3's ``AtariWrapper`` read the screen
and the lives from ``env.unwrapped.ale``.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray


class Emulator:
    """The screen and the lives of a learned world.

    Args:
        screen: Returns the newest frame in colour, ``uint8`` (h w 3).
    """

    def __init__(self, screen: Callable[[], NDArray[np.uint8]]) -> None:
        self._screen = screen

    def lives(self) -> int:
        """Lives left: always 0, so that none is lost; a world predicts only ends."""
        return 0

    def getScreenRGB(self, output: NDArray[np.uint8]) -> None:  # noqa: N802
        """Write the newest frame into an array (h w 3)."""
        output[...] = self._screen()

    def getScreenGrayscale(self, output: NDArray[np.uint8]) -> None:  # noqa: N802
        """Write the luminance of the newest frame into an array (h w)."""
        cv2.cvtColor(self._screen(), cv2.COLOR_RGB2GRAY, dst=output)
