"""Seams of a chained video: flicker and colour shifts, compared with its other steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.eval.flicker import Steps


class Seams(NamedTuple):
    """Flicker and colour shifts of a video at the seams of its windows and elsewhere.

    Attributes:
        warping_error: Mean flow warping error of the steps at seams, in values of 255.
        warping_error_elsewhere: The same of all other steps.
        colour_shift: Mean change of the mean colour at seams, in values of 255.
        colour_shift_elsewhere: The same of all other steps.
        cuts: Steps that look like a cut, at seams and elsewhere.
    """

    warping_error: float
    warping_error_elsewhere: float
    colour_shift: float
    colour_shift_elsewhere: float
    cuts: list[int]


def measure_seams(steps: Steps, seams: list[range]) -> Seams:
    """Compare the steps at the seams with the others.

    Args:
        steps: The steps of the complete video.
        seams: See `Chain`.

    Returns:
        The comparison; nan where there is no step to measure.
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
    """Find the steps that look like a cut.

    Their warping error exceeds the median by ten median absolute deviations and by 2 of 255, the
    error of video coding.
    """
    if not len(errors):
        return []
    middle = np.nanmedian(errors)
    spread = np.nanmedian(np.abs(errors - middle))
    return [int(i) for i in np.flatnonzero(errors > middle + max(10 * spread, 2.0))]
