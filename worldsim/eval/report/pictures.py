"""Pictures of a world for its report: filmstrips and clips beside the real game, as data URIs."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldsim.eval.control import Counterfactuals
from worldsim.media import filmstrip, write_mp4

from .study import Frames, Study

CLIPS = 3
CLIP_STEPS = 64
CLIP_PIXELS = 256  # height of an enlarged frame of a clip, at the least
STRIP_STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
STRIP_COLUMNS = 7  # beside the frame given: as many as a page is wide
STRIP_WINDOWS = 3
STRIP_PIXELS = 128  # height of an enlarged frame of a strip, at the most
GAP, GREY = 2, 96  # pixels of the game between the panes of a clip, and their value
BRIGHTER, DARKER = (255, 140, 60), (70, 150, 255)  # the colours of a difference
MOST_FACTOR = 8


class Clips(NamedTuple):
    """Looping videos of the first windows: real, imagined, and how they differ.

    Attributes:
        videos: A data URI for each window.
        width: Of each, in pixels.
        factor: By how much the differences are amplified.
    """

    videos: list[str]
    width: int
    factor: int


def clips_of(study: Study) -> Clips:
    """Make clips that any browser shows."""
    length = min(CLIP_STEPS, study.held_out.horizon)
    real = study.held_out.real[:CLIPS, :length]
    ours = study.imagined[:CLIPS, :length]
    signed = strongest_channel(real, ours)
    factor = amplification(signed)
    differences = colour_differences(signed, factor)
    scale = _clip_scale(real.shape[2])
    videos = []
    for panes in zip(real, ours, differences, strict=True):
        coloured = [np.broadcast_to(pane, (*pane.shape[:-1], 3)) for pane in panes]
        gap = np.full((length, real.shape[2], GAP, 3), GREY, np.uint8)
        film = np.concatenate([coloured[0], gap, coloured[1], gap, coloured[2]], axis=2)
        large = film.repeat(scale, axis=1).repeat(scale, axis=2)
        with tempfile.TemporaryDirectory() as folder:
            path = write_mp4(Path(folder) / "clip.mp4", large, study.world.game.fps)
            videos.append(_data(path, "video/mp4"))
    return Clips(videos, scale * (3 * real.shape[3] + 2 * GAP), factor)


def strongest_channel(real: Frames, imagined: Frames) -> np.ndarray:
    """The difference of each pixel in the channel in which it is largest, int16 (... h w)."""
    difference = imagined.astype(np.int16) - real
    largest = np.abs(difference).argmax(-1)[..., None]
    return np.take_along_axis(difference, largest, -1)[..., 0]


def amplification(signed: np.ndarray) -> int:
    """A whole factor from 1 to 8 that makes most differences (int16) visible."""
    sizes = np.abs(signed[signed != 0])
    if not sizes.size:
        return 1
    return int(np.clip(128 // max(1.0, float(np.percentile(sizes, 75))), 1, MOST_FACTOR))


def colour_differences(signed: np.ndarray, factor: int) -> Frames:
    """Orange where the world is brighter than the game and blue where it is darker, on black.

    Args:
        signed: Differences (... h w), int16.
        factor: What they are multiplied by.

    Returns:
        ``uint8`` (... h w 3).
    """
    strength = np.minimum(255, factor * np.abs(signed))[..., None] / 255
    colours = np.where((signed > 0)[..., None], BRIGHTER, DARKER)
    return (strength * colours).round().astype(np.uint8)


def strip_of(study: Study, path: Path | None = None) -> str:
    """Real frames above, the world's below, the same actions; the frame given comes first."""
    steps = _strip_steps(study.held_out.horizon)
    columns = [step - 1 for step in steps]
    rows, labels = [], []
    for window in range(min(STRIP_WINDOWS, len(study.imagined))):
        given = study.held_out.last_context[window][None]
        for label, frames in (("real", study.held_out.real), ("world", study.imagined)):
            rows.append(np.concatenate([given, frames[window, columns]]))
            labels.append(label)
    return _strip(rows, labels, steps, path)


def strip_of_actions(study: Study, counterfactuals: Counterfactuals) -> str:
    """One moment, every action held: the game above, the world below."""
    steps = _strip_steps(counterfactuals.imagined.shape[2])
    columns = [step - 1 for step in steps]
    given = study.held_out.last_context[0][None]
    rows, labels = [], []
    for action, name in enumerate(study.world.game.action_meanings):
        for label, frames in (("real", counterfactuals.real), (name, counterfactuals.imagined)):
            if frames is not None:
                rows.append(np.concatenate([given, frames[0, action, columns]]))
                labels.append(label)
    return _strip(rows, labels, steps)


def _clip_scale(height: int) -> int:
    """An even enlargement, since videos keep the colours of two by two pixels."""
    return 1 if height >= CLIP_PIXELS else 2 * -(-CLIP_PIXELS // (2 * height))


def _strip_steps(horizon: int) -> list[int]:
    """The steps to show, from the first to the last."""
    steps = [step for step in STRIP_STEPS if step <= horizon]
    picks = np.linspace(0, len(steps) - 1, min(STRIP_COLUMNS, len(steps))).round().astype(int)
    return [steps[pick] for pick in picks]


def _strip(
    rows: Sequence[Frames], labels: Sequence[str], steps: Sequence[int], path: Path | None = None
) -> str:
    columns = ["given", *(f"+{step}" for step in steps)]
    scale = max(1, STRIP_PIXELS // rows[0].shape[1])
    with tempfile.TemporaryDirectory() as folder:
        return _data(filmstrip(rows, path or Path(folder) / "strip.png", scale, labels, columns))


def _data(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
