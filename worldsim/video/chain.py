"""Long videos from short windows: each begins from the last frames of the one before.

A callable makes the windows, so diffusers pipelines and worlds chain in the same way. Frames are
yielded as soon as they are final, so memory holds one window for a video of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
MakeWindow = Callable[[Frames | None, int], Frames]


class Chain:
    """Frames of a video made window by window.

    Each window begins from the last frames of the one before. In the overlap the old window fades
    into the new one.

    Args:
        make_window: Maps the frames to begin from (t h w c) and the window's number to a window
            (t h w c). Its first ``overlap`` frames repeat the given ones.
        num_frames: Frames of the video, at least 1.
        overlap: Frames that neighbouring windows share, at least 1.
        context: Frames for the first window to begin from; None by default.

    Attributes:
        seams: For each window after the first, its steps (frame i to i + 1) at which a seam may be
            visible. Filled as frames are read.

    Raises:
        ValueError: If an argument is out of range, or, while frames are read, if a window is not
            longer than the overlap.
    """

    def __init__(
        self,
        make_window: MakeWindow,
        num_frames: int,
        overlap: int,
        context: Frames | None = None,
    ) -> None:
        if num_frames < 1 or overlap < 1:
            raise ValueError(
                f"a chain has at least 1 frame and windows overlap by at least 1, got "
                f"{num_frames} frames and an overlap of {overlap}"
            )
        self.make_window, self.num_frames, self.overlap = make_window, num_frames, overlap
        self.context = context
        self.seams: list[range] = []

    def __iter__(self) -> Iterator[Frames]:
        """Yield the frames, (h w c)."""
        overlap, tail = self.overlap, self.context
        held: Frames | None = None  # end of the previous window, which fades into the next
        given = index = 0
        self.seams = []
        while True:
            window = self.make_window(tail, index)
            if held is not None:
                if len(window) <= overlap:
                    raise ValueError(
                        f"windows must be longer than their overlap, got {len(window)} frames with "
                        f"an overlap of {overlap}: take a longer window or a smaller --overlap"
                    )
                self.seams.append(range(given - 1, given + overlap))
                window = np.concatenate((cross_fade(held, window[:overlap]), window[overlap:]))
            if given + len(window) >= self.num_frames:
                yield from window[: self.num_frames - given]
                return
            yield from window[:-overlap]
            given += len(window) - overlap
            held = tail = window[-overlap:]
            index += 1


def cross_fade(old: Frames, new: Frames) -> Frames:
    """Blend old frames (t h w c) into new ones in equal steps."""
    share = np.arange(1, len(old) + 1).reshape(-1, 1, 1, 1) / (len(old) + 1)
    mixed = (1 - share) * old.astype(np.float32) + share * new.astype(np.float32)
    return np.asarray(mixed.round(), np.uint8)
