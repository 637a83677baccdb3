"""What wrappers made for the Arcade Learning Environment ask of its emulator.

`gymnasium.wrappers.AtariPreprocessing` and Stable-Baselines3's ``AtariWrapper`` look at
``env.unwrapped.ale`` for the screen and for the lives that are left.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray


class Emulator:
    """A learned world as these wrappers see it.

    Args:
        screen: Gives the newest frame in colour, ``uint8`` (h w 3).
    """

    def __init__(self, screen: Callable[[], NDArray[np.uint8]]) -> None:
        self._screen = screen

    def lives(self) -> int:
        """Lives left: 0, since a world predicts ends and knows no lives; so none is ever lost."""
        return 0

    def getScreenRGB(self, output: NDArray[np.uint8]) -> None:  # noqa: N802
        """Write the newest frame into an array (h w 3)."""
        output[...] = self._screen()

    def getScreenGrayscale(self, output: NDArray[np.uint8]) -> None:  # noqa: N802
        """Write the luminance of the newest frame into an array (h w)."""
        cv2.cvtColor(self._screen(), cv2.COLOR_RGB2GRAY, dst=output)
