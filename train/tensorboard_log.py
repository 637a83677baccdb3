"""Log a run's figures and videos as TensorBoard event files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MAX_FRAMES = 600  # of a video, since an event holds all of it


class TensorBoardLog:
    """Event files of one run, in its folder ``tensorboard``.

    Args:
        run_dir: The run's folder. A resumed run replaces events after the step at which it resumes.
        config: The run's settings, shown as text.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._folder = run_dir / "tensorboard"
        self._config = config
        self._writer: SummaryWriter | None = None

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log figures."""
        writer = self._writer_from(step)
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    def log_video(self, key: str, mp4_path: Path, step: int) -> None:
        """Log a video as an animated image, since the writer's own videos need moviepy."""
        import av
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        from worldsim.media import read_frames, write_gif

        with av.open(str(mp4_path)) as video:
            fps = float(video.streams.video[0].average_rate or 10)
        frames = read_frames(mp4_path, last=MAX_FRAMES)
        with tempfile.TemporaryDirectory() as folder:
            gif = write_gif(Path(folder) / "video.gif", frames, fps)
            with Image.open(gif) as opened:
                width, height = opened.size
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=gif.read_bytes()
            )
        writer = self._writer_from(step)
        summary = Summary(value=[Summary.Value(tag=key, image=image)])
        assert writer.file_writer is not None
        writer.file_writer.add_summary(summary, step)
        writer.flush()

    def finish(self, exit_code: int) -> None:
        """Close the files; a second call does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _writer_from(self, step: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            config = json.dumps(self._config, indent=2, default=str)
            self._writer.add_text("config", "    " + config.replace("\n", "\n    "), step)
        return self._writer
