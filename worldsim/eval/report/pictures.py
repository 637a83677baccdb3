"""Pictures of a world for its report: filmstrips and clips beside the real game, as data URIs."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldsim.control import Counterfactuals
from worldsim.video import filmstrip, write_mp4

from .study import Frames, Study

CLIPS = 3
CLIP_STEPS = 64
STRIP_STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
HELD_STEPS = (1, 2, 4, 6, 8, 12, 16)
STRIP_WINDOWS = 3
PIXELS = 128  # height of an enlarged frame, about


def strip_of(study: Study, path: Path | None = None) -> str:
    """Real frames above, the world's below, the same actions; the frame given comes first."""
    steps = [step for step in STRIP_STEPS if step <= study.held_out.horizon]
    columns = [step - 1 for step in steps]
    rows, labels = [], []
    for window in range(min(STRIP_WINDOWS, len(study.imagined))):
        given = study.held_out.last_context[window][None]
        for label, frames in (("real", study.held_out.real), ("world", study.imagined)):
            rows.append(np.concatenate([given, frames[window, columns]]))
            labels.append(label)
    return _strip(rows, _enlargement(study), labels, ["given", *(f"+{s}" for s in steps)], path)


def strip_of_actions(study: Study, tried: Counterfactuals) -> str:
    """One moment, every action held: the game above, the world below."""
    steps = [step for step in HELD_STEPS if step <= tried.imagined.shape[2]]
    columns = [step - 1 for step in steps]
    given = study.held_out.last_context[0][None]
    rows, labels = [], []
    for action, name in enumerate(study.world.game.action_meanings):
        for label, frames in (("real", tried.real), (name, tried.imagined)):
            if frames is not None:
                rows.append(np.concatenate([given, frames[0, action, columns]]))
                labels.append(label)
    return _strip(rows, _enlargement(study), labels, ["given", *(f"+{s}" for s in steps)])


def clips_of(study: Study) -> list[str]:
    """Looping videos of the first windows: real, imagined, and how they differ."""
    clips = []
    length = min(CLIP_STEPS, study.held_out.horizon)
    for window in range(min(CLIPS, len(study.imagined))):
        real, ours = study.held_out.real[window, :length], study.imagined[window, :length]
        difference = np.abs(real.astype(np.int16) - ours).astype(np.uint8)
        gap = np.full((length, real.shape[1], 2, real.shape[3]), 255, np.uint8)
        video = np.concatenate([real, gap, ours, gap, difference], axis=2)
        scale = max(4, _enlargement(study) // 2 * 2)  # what every browser can show
        with tempfile.TemporaryDirectory() as folder:
            path = write_mp4(Path(folder) / "clip.mp4", video, study.world.game.fps, scale)
            clips.append(_data(path, "video/mp4"))
    return clips


def _enlargement(study: Study) -> int:
    return max(1, PIXELS // study.imagined.shape[2])


def _strip(
    rows: Sequence[Frames],
    scale: int,
    labels: Sequence[str],
    columns: Sequence[str],
    path: Path | None = None,
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _data(filmstrip(rows, path or Path(folder) / "strip.png", scale, labels, columns))


def _data(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
