"""Windows: parts of episodes of one length, in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

from worldsim.data.episode import STEP_TYPES

Rows: TypeAlias = slice | Sequence[int] | np.ndarray


@dataclass
class Windows:
    """A batch of parts of episodes, padded if a window reaches beyond its episode.

    Padding repeats the episode's first or last frame. Its actions are the game's noop, its rewards
    0, its terminations and truncations False. Before a picture, see `Pictures`, it is grey.

    ``windows[rows]`` selects windows, ``windows[rows, first:last]`` also the frames first … last-1
    of each, with the steps between them.
    """

    frames: np.ndarray
    """``uint8`` of shape (b t h w c); c is 0 where latents stand in for them."""
    actions: np.ndarray
    """``int64`` of shape (b t-1)."""
    rewards: np.ndarray
    """``float32`` of shape (b t-1)."""
    terminations: np.ndarray
    """``bool`` of shape (b t-1)."""
    truncations: np.ndarray
    """``bool`` of shape (b t-1)."""
    valid: np.ndarray
    """``bool`` of shape (b t): False for padding."""
    captions: tuple[str | None, ...] = ()
    """What the episode of each window shows, in words (b); empty if no window has a caption."""
    latents: np.ndarray | None = None
    """``float16`` of shape (b t' c h w): what the codec made of the frames, see `Codec`."""
    moving: np.ndarray | None = None
    """Which pixels of the frames move, where there are latents, ``uint8`` (b t h w/8): bits."""

    def __getitem__(self, key: Rows | tuple[Rows, slice]) -> Windows:
        """Select windows, and frames of each by a slice without a stride."""
        rows, frames = key if isinstance(key, tuple) else (key, slice(None))
        assert frames == slice(None) or self.latents is None, "latents are cut as whole windows"
        first, last, _ = frames.indices(self.frames.shape[1])
        spans = {
            name: slice(first, last - 1 if name in STEP_TYPES else last) for name in self.arrays
        }
        if self.latents is not None:
            spans["latents"] = slice(None)  # which may have other times than frames
        parts = {name: values[rows, spans[name]] for name, values in self.arrays.items()}
        captions = np.array(self.captions, object)[rows].tolist() if self.captions else ()
        return Windows(**parts, captions=tuple(captions))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All fields that are arrays, by name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: one for name, one in values.items() if isinstance(one, np.ndarray)}

    @staticmethod
    def layout(
        num_windows: int, length: int, frame_shape: Sequence[int]
    ) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """Return the type and the shape of each field.

        Args:
            num_windows: Windows (b).
            length: Frames of each (t).
            frame_shape: (h w c).
        """
        per_frame = (num_windows, length)
        steps = {name: (kind, (num_windows, length - 1)) for name, kind in STEP_TYPES.items()}
        return {
            "frames": (np.uint8, (*per_frame, *frame_shape)),
            **steps,
            "valid": (np.bool_, per_frame),
        }
