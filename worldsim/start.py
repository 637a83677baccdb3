"""Where an episode begins: a recorded window, frames of one's own, or any picture or video.

A world knows nothing but its recordings. How far a picture lies from them says beforehand how much
of it will last: what the world has never seen, it turns into what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from worldsim.data.windows import Windows
from worldsim.media import fit_frame
from worldsim.world_model import WorldModel


@dataclass(frozen=True)
class StartWindow:
    """The frames that an episode begins from.

    Attributes:
        frames: ``uint8`` (t h w c), the newest last.
        actions: ``int64`` (t-1), those between them, ``num_actions`` where unknown.
        index: Of the window among the starts; -1 for frames of one's own.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    index: int


def check_starts(starts: Windows | None, world: WorldModel) -> Windows:
    """Return the windows to begin episodes from, by default those that the world brings.

    Raises:
        ValueError: If their frames are not the world's.
    """
    if starts is None:
        return world.starts
    if not isinstance(starts, Windows):
        raise TypeError(f"starts must be Windows of a recording, got {type(starts).__name__}")
    shape = (*world.game.frame_size, world.game.channels)
    if len(starts.frames) == 0 or starts.frames.shape[2:] != shape:
        raise ValueError(
            f"starts must be windows of frames {shape}, as Recording.sample_windows gives for a "
            f"recording of the same game, got frames {starts.frames.shape}"
        )
    return starts


def choose_start(
    world: WorldModel,
    starts: Windows,
    options: Mapping[str, Any] | None,
    rng: np.random.Generator,
) -> StartWindow:
    """Read the options of a reset; without a start, draw one of the windows."""
    check_options(options)
    options = options or {}
    unknown = sorted(set(options) - {"start", "actions"})
    if unknown:
        raise ValueError(f"reset knows the options 'start' and 'actions', got {unknown}")
    start = options.get("start")
    if isinstance(start, np.ndarray) and start.ndim > 0:
        return _own_start(world, start, options.get("actions"))
    if options.get("actions") is not None:
        raise ValueError("The option 'actions' goes with frames in 'start'")
    num_starts = len(starts.frames)
    if start is None:
        index = int(rng.integers(num_starts))
    elif isinstance(start, (int, np.integer)) and not isinstance(start, bool):
        index = int(start)
    else:
        raise TypeError(
            "The option 'start' is the index of a bundled window or an array of uint8 frames "
            f"(t h w c), got {type(start).__name__}"
        )
    if not 0 <= index < num_starts:
        raise ValueError(
            f"There are {num_starts} start windows: start must be 0 .. {num_starts - 1}, "
            f"got {index}"
        )
    return StartWindow(starts.frames[index], starts.actions[index], index)


def _own_start(world: WorldModel, frames: NDArray[Any], actions: Any) -> StartWindow:
    """Check frames of the caller's own and the actions between them."""
    frame_shape = (*world.game.frame_size, world.game.channels)
    if frames.dtype != np.uint8:
        raise TypeError(f"The frames of 'start' must be uint8 in 0..255, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[1:] != frame_shape or len(frames) == 0:
        raise ValueError(
            f"The frames of 'start' must have the shape (t, {', '.join(map(str, frame_shape))}) "
            f"with t at least 1, got {frames.shape}"
        )
    if actions is None:
        actions = np.full(len(frames) - 1, world.game.num_actions)  # the model's word for unknown
    else:
        actions = check_actions(actions, world, len(frames) - 1)
    newest = slice(-min(len(frames), world.window), None)
    return StartWindow(frames[newest].copy(), actions[len(actions) + 1 - len(frames[newest]) :], -1)


def check_actions(actions: Any, world: WorldModel, count: int) -> NDArray[np.int64]:
    """Return actions as ``int64`` (count,), or say what is wrong with them."""
    actions = np.asarray(actions)
    num_actions = world.game.num_actions
    if actions.shape != (count,):
        raise ValueError(f"Expected {count} action(s), shape ({count},), got {actions.shape}")
    if count and not np.issubdtype(actions.dtype, np.integer):
        raise TypeError(f"Actions are integers, got {actions.dtype}")
    wrong = actions[(actions < 0) | (actions >= num_actions)]
    if len(wrong):
        raise ValueError(f"This world's actions are 0 .. {num_actions - 1}, got {wrong[0]}")
    return actions.astype(np.int64)


def check_options(options: Any) -> None:
    """Refuse options of a reset that are no mapping."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"the options of reset are a dict or None, got {options!r}")


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
