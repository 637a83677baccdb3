"""Windows: stretches of episodes, of one length, in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

from worldsim.data.episode import STEP_TYPES

Rows: TypeAlias = slice | Sequence[int] | np.ndarray


@dataclass
class Windows:
    """A batch of stretches of episodes, padded where a stretch reaches past its episode.

    Before its first frame an episode's first frame is repeated, after its last frame the last one;
    there, actions are the game's noop, rewards 0, terminations and truncations False.

    ``windows[rows]`` are some of them, ``windows[rows, first:last]`` the same frames of each with
    the steps between these.
    """

    frames: np.ndarray
    """``uint8`` of shape (b t h w c)."""
    actions: np.ndarray
    """``int64`` of shape (b t-1)."""
    rewards: np.ndarray
    """``float32`` of shape (b t-1)."""
    terminations: np.ndarray
    """``bool`` of shape (b t-1)."""
    truncations: np.ndarray
    """``bool`` of shape (b t-1)."""
    valid: np.ndarray
    """``bool`` of shape (b t): False where a frame is padding."""

    def __getitem__(self, key: Rows | tuple[Rows, slice]) -> Windows:
        """Return some of the windows, and of each the frames of a slice without a stride."""
        rows, frames = key if isinstance(key, tuple) else (key, slice(None))
        first, last, _ = frames.indices(self.frames.shape[1])
        spans = {
            name: slice(first, last - 1 if name in STEP_TYPES else last) for name in self.arrays
        }
        return Windows(**{name: values[rows, spans[name]] for name, values in self.arrays.items()})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All fields by their names."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

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
