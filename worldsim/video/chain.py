"""Long videos from short windows: each begins from the tail of the one before.

What a window is made by is a callable, so that pipelines of diffusers and worlds of ours chain in
one and the same way. Frames leave as soon as they are final, so memory holds one window, however
long the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
MakeWindow = Callable[[Frames | None, int], Frames]


class Chain:
    """Frames of a video made window by window.

    Each window is given the tail of the one before and begins with it, as its maker sees it; where
    the two overlap, the old one fades into the new one.

    Args:
        make_window: From the frames to begin from (t h w c) and the window's number, a window
            (t h w c) whose first ``overlap`` frames are at the times of those given.
        num_frames: Frames of the video, at least 1.
        overlap: Frames that neighbouring windows share, at least 1.
        context: What the first window begins from; nothing by default.

    Attributes:
        seams: For each window after the first the steps, from frame i to frame i + 1, at which it
            may show that it is another; filled while the frames are taken.

    Raises:
        ValueError: If an argument is out of range, or, while frames are taken, if a window is not
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
        """Give frame after frame, (h w c)."""
        overlap, tail = self.overlap, self.context
        held: Frames | None = None  # the end of the window before, to be faded into the next
        given = index = 0
        self.seams = []
        while True:
            window = self.make_window(tail, index)
            if held is not None:
                if len(window) <= overlap:
                    raise ValueError(
                        f"windows must be longer than what they share, got {len(window)} frames "
                        f"with an overlap of {overlap}; take a longer window or a smaller --overlap"
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
    """Frames (t h w c) that go over from old to new ones in equal steps."""
    share = np.arange(1, len(old) + 1).reshape(-1, 1, 1, 1) / (len(old) + 1)
    mixed = (1 - share) * old.astype(np.float32) + share * new.astype(np.float32)
    return np.asarray(mixed.round(), np.uint8)
