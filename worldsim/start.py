"""A start of one's own: any picture or video as the frames that a world begins from.

A world knows nothing but its recordings. How far a picture lies from them says beforehand how much
of it will last: what the world has never seen, it turns into what it has.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from worldsim.video import fit_frame
from worldsim.world_model import WorldModel


class Start(NamedTuple):
    """Frames that a world can begin from.

    Attributes:
        frames: ``uint8`` (t h w c), as the world's own.
        distance: Of the last one from the nearest frame that the world ships with: root of the
            mean squared difference, in values of 255.
        usual_distance: The median of that between each of the world's starts and those of the
            others.
    """

    frames: NDArray[np.uint8]
    distance: float
    usual_distance: float

    @property
    def note(self) -> str:
        """What the world will make of it, in a sentence."""
        far = (
            f"it lies {self.distance:.0f} of 255 from the nearest recorded frame that comes with "
            f"the world, and those lie {self.usual_distance:.0f} from one another"
        )
        if self.distance <= 2 * self.usual_distance:
            return (
                f"the start looks like the world's recordings ({far}): play goes on from it, and "
                "what in it is not of this game vanishes"
            )
        return (
            f"the start is unlike the world's recordings ({far}): the world has never seen such "
            "frames, and turns them within some steps into what it knows"
        )


def start_from(frames: NDArray[np.uint8], world: WorldModel) -> Start:
    """Make frames that a world can begin from of any others.

    They are scaled to fill the world's frame and cut at the sides where they are too long; a world
    of greys gets greys.

    Args:
        frames: ``uint8`` (t h w 3), of any size; the last ``world.window`` of them are taken.
        world: The world.
    """
    fitted = [fit_frame(frame, world.game.frame_size) for frame in frames[-world.window :]]
    if world.game.channels == 1:
        fitted = [np.asarray(Image.fromarray(frame).convert("L"))[..., None] for frame in fitted]
    small = np.stack(fitted)
    known = rearrange(world.starts.frames, "b t h w c -> b t (h w c)")
    usual = [_nearest(known[i, -1], np.delete(known, i, axis=0)) for i in range(len(known))]
    return Start(small, _nearest(small[-1].ravel(), known), float(np.median(usual)))


def _nearest(frame: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Distance of a flat frame from the nearest of others (b t d)."""
    squares = [
        float(np.square(other.astype(np.float32) - frame).mean(-1).min()) for other in others
    ]
    return min(squares, default=np.inf) ** 0.5
