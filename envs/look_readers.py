"""Readers of looks: measure in frames alone what captions of the bundled games tell.

They are made for the frames of learned worlds, which may be blurred and have wrong colours: each
pixel counts as the nearest of the game's colours, and small spots do not count. A reader takes one
frame, ``uint8`` (h w 3), or several of an episode (t h w 3), of which the most frequent answer
counts. Frames of other sizes than the game's are resized.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import cv2
import numpy as np

from . import balls, maze, pong
from .looks import COLOURS, DAY, PLAIN, Colour, Looks
from .maze_sprites import DARK, DAY_FLOOR, DAY_FLOOR_SPECK, FLOOR, FLOOR_SPECK

SIZE = 64  # pixels a side of each of the games
BRIGHT = 90  # mean of a pixel's channels, between the grounds by night and by day
DEPTH = 2.2  # pixels from the edge to the middle of a ball, at least
YELLOW_DEPTH = 3.0  # more than in the yellow target, a square of 6 pixels
NEAR = np.ones((9, 9), np.uint8)  # pixels around the middle of a ball where no other has its own
CORE_AREA = 2  # pixels of cores, below which there is no ball
WALL_SHARE = 0.65  # of a wall's colour in its pixels, if the frame is blurred
PONG_AREA = 6  # pixels of the ball's 16, below which it is not visible
WALL_AREA = 30  # pixels, below which no wall is visible

Answer = TypeVar("Answer")


def is_night(frames: np.ndarray) -> bool:
    """Return whether the ground is dark, in any of the games."""
    return bool(_most_frequent(lambda frame: np.median(frame.mean(-1)) < BRIGHT, frames))


def count_balls(frames: np.ndarray) -> int:
    """Return the number of balls in Balls; those that touch count one by one."""
    return int(_most_frequent(lambda frame: _cores(frame)[1], frames) or 0)


def read_player_colour(frames: np.ndarray) -> str | None:
    """Return the colour of the player's ball in Balls, the only one of a named colour; or None."""
    return _most_frequent(_player_colour, frames)


def read_pong_colour(frames: np.ndarray) -> str | None:
    """Return the colour of the ball in Pong; None if no ball of a named colour is visible."""
    return _most_frequent(_pong_colour, frames)


def read_wall_colour(frames: np.ndarray) -> str | None:
    """Return the colour of most walls in Maze; None if no wall of a named colour is visible."""
    return _most_frequent(_wall_colour, frames)


GAMES: dict[str, Looks] = {
    "worldsim/Balls-v0": balls.LOOKS,
    "worldsim/Pong-v0": pong.LOOKS,
    "worldsim/Maze-v0": maze.LOOKS,
}
"""The looks of each game, which also give the look of a caption."""

READERS: dict[str, Mapping[str, Callable[[np.ndarray], object]]] = {
    "worldsim/Balls-v0": {
        "num_balls": count_balls,
        "ball_colour": read_player_colour,
        "night": is_night,
    },
    "worldsim/Pong-v0": {"ball_colour": read_pong_colour, "night": is_night},
    "worldsim/Maze-v0": {"wall_colour": read_wall_colour, "night": is_night},
}
"""The reader of each property of a game's looks."""


def _most_frequent(read: Callable[[np.ndarray], Answer], frames: np.ndarray) -> Answer | None:
    """The most frequent answer that is not None, if there is one."""
    answers = [read(_at_own_size(frame)) for frame in (frames if frames.ndim == 4 else [frames])]
    counted = Counter(answer for answer in answers if answer is not None).most_common(1)
    return counted[0][0] if counted else None


def _at_own_size(frame: np.ndarray) -> np.ndarray:
    if frame.shape[:2] == (SIZE, SIZE):
        return frame
    return np.asarray(cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def _nearest(frame: np.ndarray, others: Sequence[Colour | np.ndarray]) -> np.ndarray:
    """The index (h w) of the nearest colour: of the named ones, and then of ``others``."""
    palette = np.array([*COLOURS.values(), *others], np.float32)
    distances = np.square(frame[:, :, None].astype(np.float32) - palette).sum(-1)
    return np.asarray(distances.argmin(-1))


def _most(kinds: np.ndarray, at_least: int) -> str | None:
    """The named colour of most pixels; None if it has too few."""
    counts = np.bincount(kinds.ravel(), minlength=len(COLOURS))[: len(COLOURS)]
    best = int(counts.argmax())
    return list(COLOURS)[best] if counts[best] >= at_least else None


def _cores(frame: np.ndarray) -> tuple[np.ndarray, int]:
    """The nearest colours (pixels) around the middles of balls, and the number of balls."""
    inside = frame[balls.WALL_WIDTH : -balls.WALL_WIDTH, balls.WALL_WIDTH : -balls.WALL_WIDTH]
    kinds = _nearest(inside, [PLAIN, balls.BACKGROUND if is_night(frame) else DAY])
    is_yellow = kinds == [*COLOURS].index("yellow")
    is_other = (kinds <= len(COLOURS)) & ~is_yellow  # of another named colour, or plain
    is_any, num = np.zeros(kinds.shape, bool), 0
    # Yellow apart: the target may touch two balls, and is no ball itself.
    for is_object, least in ((is_other, DEPTH), (is_yellow, YELLOW_DEPTH)):
        mask = cv2.medianBlur(np.pad(is_object, 2).astype(np.uint8), 3)  # without single pixels
        depth = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (3, 3), 0)[2:-2, 2:-2]
        # The middle of a ball is farthest from all edges, also where balls touch.
        is_middle = (depth > least) & (depth >= cv2.dilate(depth, NEAR))
        is_core = cv2.dilate(is_middle.astype(np.uint8), np.ones((3, 3), np.uint8))
        num += cv2.connectedComponents(is_core, connectivity=8)[0] - 1
        is_any |= is_core.astype(bool) & is_object
    return kinds[is_any], num


def _player_colour(frame: np.ndarray) -> str | None:
    return _most(_cores(frame)[0], CORE_AREA)


def _pong_colour(frame: np.ndarray) -> str | None:
    court = frame[pong.COURT_TOP : pong.COURT_BOTTOM]
    ground = (pong.BACKGROUND, pong.NET) if is_night(frame) else (DAY, pong.DAY_NET)
    return _most(_nearest(court, [PLAIN, *ground]), PONG_AREA)


def _wall_colour(frame: np.ndarray) -> str | None:
    floors = (DARK, FLOOR, FLOOR_SPECK) if is_night(frame) else (DAY_FLOOR, DAY_FLOOR_SPECK)
    # Walls are thin: in a blurred frame they are mixed with the floor.
    ground = np.array(floors[-2])
    mixed = [ground + WALL_SHARE * (colour - ground) for colour in np.array([*COLOURS.values()])]
    kinds = _nearest(frame, [*mixed, *floors])
    return _most(kinds[kinds < 2 * len(COLOURS)] % len(COLOURS), WALL_AREA)
