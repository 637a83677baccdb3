"""Seams of a video that was chained from windows: do they show?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.eval.flicker import Steps


class Seams(NamedTuple):
    """What a video is like at the seams of its windows and elsewhere.

    Attributes:
        warping_error: Mean flow warping error of the steps at seams, in values of 255.
        warping_error_elsewhere: Of all other steps.
        colour_shift: Mean change of the mean colour, in values of 255, at seams.
        colour_shift_elsewhere: The same of all other steps.
        cuts: Steps that stand out as a cut, wherever they are.
    """

    warping_error: float
    warping_error_elsewhere: float
    colour_shift: float
    colour_shift_elsewhere: float
    cuts: list[int]


def measure_seams(steps: Steps, seams: list[range]) -> Seams:
    """Compare the steps at the seams with the others.

    Args:
        steps: Of the whole video.
        seams: As `Chain` leaves them.

    Returns:
        What was found; nan where there is no such step.
    """
    at_seam = np.zeros(len(steps.errors), bool)
    for seam in seams:
        at_seam[seam.start : seam.stop] = True

    def mean(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
        return float(np.nanmean(values[chosen])) if chosen.any() else float("nan")

    return Seams(
        warping_error=mean(steps.errors, at_seam),
        warping_error_elsewhere=mean(steps.errors, ~at_seam),
        colour_shift=mean(steps.colour_shifts, at_seam),
        colour_shift_elsewhere=mean(steps.colour_shifts, ~at_seam),
        cuts=find_cuts(steps.errors),
    )


def find_cuts(errors: NDArray[np.float64]) -> list[int]:
    """Steps whose warping error stands out from that of all, as that of a cut does.

    They are those above the median by ten times the median distance from it, and by more than
    the 2 values of 255 that the coding of a video may come to.
    """
    if not len(errors):
        return []
    middle = np.nanmedian(errors)
    spread = np.nanmedian(np.abs(errors - middle))
    return [int(i) for i in np.flatnonzero(errors > middle + max(10 * spread, 2.0))]
