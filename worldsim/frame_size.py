"""Frames of one size from frames of another."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def fit_frame(frame: np.ndarray, frame_size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Scale a frame (h w 3 or 1) to cover another size (h, w), and crop; 1 channel is grey."""
    height, width = frame_size
    # Area averages restore the pixels of an enlarged game exactly. Enlarging by them would show
    # tiles, so that is done by interpolation.
    shrinks = frame.shape[0] >= height and frame.shape[1] >= width
    how = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    shown = frame[..., 0] if frame.shape[-1] == 1 else frame
    image = ImageOps.fit(Image.fromarray(shown), (width, height), how)
    return np.array(image) if channels == 3 else np.array(image.convert("L"))[..., None]
