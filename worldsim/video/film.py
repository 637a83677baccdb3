"""Write a video frame by frame, measure it, and keep thumbnails for a sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from worldsim.eval.flicker import FlickerMeter, Steps
from worldsim.media import write_mp4
from worldsim.system.extras import require
from worldsim.system.options import (
    Advanced,
    Count,
    Heading,
    Passes,
    Seed,
    Side,
)

if TYPE_CHECKING:
    from worldsim.video.pipelines import VideoPipeline

SHEET_COLUMNS = 6
THUMBNAIL = 192  # pixels of the longer side
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class PipelineConfig:
    """Options of every command that runs a video pipeline."""

    frame_size: Annotated[tuple[Side, Side] | None, Heading("size and length")] = None
    """Height and width; the model's own if not given, upright for an upright image."""
    num_frames: Count | None = None
    """Frames of a window; the length that the model was trained on if not given."""
    num_inference_steps: Annotated[Passes | None, Heading("denoising")] = None
    """Denoising steps of a window; the pipeline's own number if not given."""
    seed: Seed = 0
    """Seed of the noise: the same one makes the same video on the same machine."""
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"], Advanced(), Heading("precision and memory")
    ] = "auto"
    """Precision: fp32, fp16, bf16, or auto: bf16 on a GPU that has it, fp32 on a CPU."""
    offload: Annotated[Literal["auto", "none", "model", "sequential"], Advanced()] = "auto"
    """What leaves the GPU's memory while idle: none, model (slightly slower), sequential (each
    layer: least memory, slow), or auto (model on a GPU)."""
    variant: Annotated[str | None, Advanced()] = None
    """Variant of the weights, such as fp16, if a model has several."""
    tiled: Annotated[bool, Advanced()] = False
    """Encode and decode tile by tile, which needs less memory."""


def load_pipeline(model: str, config: PipelineConfig) -> VideoPipeline:
    """Load a pipeline with the options of a command.

    Raises:
        ModuleNotFoundError: If the extra `video` is missing, before anything is loaded.
        ValueError: If the pipeline does not exist or does not fit into memory.
    """
    require("transformers", "accelerate")
    from worldsim.video.pipelines import VideoPipeline  # slow to import, not needed for --help

    return VideoPipeline(
        model,
        dtype=config.dtype,
        offload=config.offload,
        variant=config.variant,
        tiled=config.tiled,
    )


@dataclass
class Film:
    """A video that was written.

    Attributes:
        steps: Flicker and motion of its steps.
        num_frames: Number of frames.
        thumbnails: Small copies of frames spread over the video.
    """

    steps: Steps
    num_frames: int
    thumbnails: list[Frames]


def write_film(path: Path, frames: Iterable[Frames], fps: float, num_frames: int) -> Film:
    """Write a video frame by frame, and measure it at the same time.

    Args:
        path: The MP4.
        frames: ``uint8`` (h w c), read one by one; only thumbnails are kept.
        fps: Frames per second.
        num_frames: Expected number of frames, for the choice of the thumbnails.
    """
    meter = FlickerMeter()
    chosen = set(np.linspace(0, num_frames - 1, SHEET_COLUMNS).round().astype(int).tolist())
    thumbnails: list[Frames] = []
    count = 0

    def passing() -> Iterator[Frames]:
        nonlocal count
        for frame in meter.through(frames):
            if count in chosen:
                thumbnails.append(thumbnail(frame))
            count += 1
            yield frame

    write_mp4(path, passing(), fps)
    return Film(meter.steps, count, thumbnails)


def thumbnail(frame: Frames) -> Frames:
    """A small copy of a frame (h w c); small frames are enlarged by an integer factor."""
    image = Image.fromarray(np.repeat(frame, 3 // frame.shape[-1], axis=-1))
    longer = max(image.size)
    factor = THUMBNAIL / longer if longer > THUMBNAIL else THUMBNAIL // longer
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    filter_ = Image.Resampling.LANCZOS if longer > THUMBNAIL else Image.Resampling.NEAREST
    return np.asarray(image.resize(size, filter_))


def spread(frames: Frames) -> list[Frames]:
    """Thumbnails of frames spread over a clip (t h w c)."""
    chosen = np.linspace(0, len(frames) - 1, min(SHEET_COLUMNS, len(frames))).round().astype(int)
    return [thumbnail(frames[i]) for i in chosen]


def progress_bar() -> Progress:
    """A progress bar of denoising steps, with the remaining time, on stderr."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,  # a bar would clutter a log file
    )
