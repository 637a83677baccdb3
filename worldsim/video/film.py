"""Frames as they come, written and measured on their way: the video, and a sheet to look at."""

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
    """What every command that runs a pipeline can be given for it."""

    frame_size: Annotated[tuple[Side, Side] | None, Heading("size and length")] = None
    """Height and width; the model's own if not given, upright for an upright picture."""
    num_frames: Count | None = None
    """Frames of a window; what the model was trained on if not given."""
    num_inference_steps: Annotated[Passes | None, Heading("denoising")] = None
    """Denoising steps of a window; the pipeline's own number if not given."""
    seed: Seed = 0
    """Seed of the noise: the same one makes the same video on the same machine."""
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"], Advanced(), Heading("precision and memory")
    ] = "auto"
    """Precision: fp32, fp16, bf16, or auto: bf16 on a GPU that has it, fp32 on a CPU."""
    offload: Annotated[Literal["auto", "none", "model", "sequential"], Advanced()] = "auto"
    """What waits outside the GPU's memory while it rests: none, each model (little slower), each
    layer (sequential: least memory, slow), or auto: each model where there is a GPU."""
    variant: Annotated[str | None, Advanced()] = None
    """Variant of the weights to fetch or read, such as fp16, where a model has several."""
    tiled: Annotated[bool, Advanced()] = False
    """Encode and decode tile by tile, which needs less memory."""


def load_pipeline(model: str, config: PipelineConfig) -> VideoPipeline:
    """Load a pipeline as a command was told to.

    Raises:
        ModuleNotFoundError: If the extra `video` is not there, before anything is loaded.
        ValueError: If there is no such pipeline, or it does not fit into memory.
    """
    require("transformers", "accelerate")
    from worldsim.video.pipelines import VideoPipeline  # slow to import, and --help does without

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
        steps: What its steps are like.
        num_frames: How many frames it has.
        thumbnails: Frames spread over all of it, small.
    """

    steps: Steps
    num_frames: int
    thumbnails: list[Frames]


def write_film(path: Path, frames: Iterable[Frames], fps: float, num_frames: int) -> Film:
    """Write a video frame by frame, and measure it as it passes.

    Args:
        path: The MP4.
        frames: ``uint8`` (h w c), taken one by one; nothing but thumbnails is kept of them.
        fps: Frames a second.
        num_frames: How many are to come, for the choice of the thumbnails.
    """
    meter = FlickerMeter()
    chosen = set(np.linspace(0, num_frames - 1, SHEET_COLUMNS).round().astype(int).tolist())
    thumbnails: list[Frames] = []
    seen = 0

    def passing() -> Iterator[Frames]:
        nonlocal seen
        for frame in meter.through(frames):
            if seen in chosen:
                thumbnails.append(thumbnail(frame))
            seen += 1
            yield frame

    write_mp4(path, passing(), fps)
    return Film(meter.steps, seen, thumbnails)


def thumbnail(frame: Frames) -> Frames:
    """A small copy of a frame (h w c); small frames are enlarged by whole pixels."""
    picture = Image.fromarray(np.repeat(frame, 3 // frame.shape[-1], axis=-1))
    longer = max(picture.size)
    factor = THUMBNAIL / longer if longer > THUMBNAIL else THUMBNAIL // longer
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    how = Image.Resampling.LANCZOS if longer > THUMBNAIL else Image.Resampling.NEAREST
    return np.asarray(picture.resize(size, how))


def spread(frames: Frames) -> list[Frames]:
    """Thumbnails of frames spread over a clip (t h w c)."""
    chosen = np.linspace(0, len(frames) - 1, min(SHEET_COLUMNS, len(frames))).round().astype(int)
    return [thumbnail(frames[i]) for i in chosen]


def progress_bar() -> Progress:
    """A bar of denoising steps, with the time that is left, on stderr."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,  # in a file a bar is noise between the sentences
    )
