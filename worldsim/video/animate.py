"""``worldsim animate``: clips of a photo at several strengths of motion, and a choice of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from worldsim.eval.flicker import measure_steps
from worldsim.frame_size import fit_frame
from worldsim.media import filmstrip, read_frames, write_mp4
from worldsim.system.command_line import parse
from worldsim.system.files import write_json, written_aside
from worldsim.system.options import (
    Advanced,
    Count,
    Heading,
    InFile,
    NotNegative,
    OutVideo,
    Range,
    Rule,
)
from worldsim.video.families import find_family
from worldsim.video.film import PipelineConfig, load_pipeline, progress_bar, spread

FPS = int(find_family("StableVideoDiffusionPipeline").fps)
MotionBuckets = Annotated[
    tuple[Annotated[int, Range(0, 255)], ...],
    Rule("different numbers", lambda numbers: len(set(numbers)) == len(numbers)),
]


@dataclass(frozen=True)
class AnimateConfig(PipelineConfig):
    """Make a clip of a photo with StableVideoDiffusion, once for each strength of motion.

    Prints and plots the flow warping error of each clip (its flicker) and its mean flow (its
    motion). Keeps the clip with the most motion whose warping error is at most --flicker-limit, or
    else the clip with the smallest error. Also writes OUT_sheet.png, OUT_trade_off.png and
    OUT.json. For longer videos and other models see `worldsim imagine --image PHOTO`.

    Examples:
        worldsim animate photo.jpg --out clip.mp4
        worldsim animate photo.jpg --motion-bucket-ids 20 60 120 --flicker-limit 3
    """

    photo: Annotated[InFile, tyro.conf.Positional, Heading("what to make")] = tyro.MISSING
    """The photo; it is cropped to the shape of the frames."""
    out: Annotated[OutVideo, Heading("what to make")] = Path("out.mp4")
    """The video to write."""
    model: str = "stabilityai/stable-video-diffusion-img2vid-xt"
    """Id on the Hub, or the folder, of a StableVideoDiffusionPipeline."""
    motion_bucket_ids: Annotated[MotionBuckets, Heading("motion and flicker")] = (50, 127, 200)
    """Strengths of motion to try, from 0 to 255."""
    noise_aug_strength: NotNegative = 0.02
    """Noise on the photo: more noise gives more motion and less likeness."""
    flicker_limit: NotNegative = 4.0
    """Largest warping error, in values of 255, of a clip that is chosen for its motion."""
    max_warping_error: NotNegative | None = None
    """For a nightly check: exit with status 1 if the chosen clip has a larger warping error."""
    fps: Annotated[int, Range(1, 1000), Heading("size and length")] = FPS
    """Frames per second of the clip; also given to the model."""
    decode_chunk_size: Annotated[Count, Advanced(), Heading("precision and memory")] = 4
    """Frames decoded at once: fewer need less memory, more flicker less."""


class Clip(NamedTuple):
    """A clip at one strength of motion.

    Attributes:
        motion_bucket_id: Requested strength of motion.
        frames: ``uint8`` (t h w c).
        warping_error: Flow warping error, mean over its steps, in values of 255.
        flow: Mean length of the flow, in pixels per step.
    """

    motion_bucket_id: int
    frames: NDArray[np.uint8]
    warping_error: float
    flow: float


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim animate``.

    Returns:
        The exit status: 1 if the clip flickers more than ``--max-warping-error``.

    Raises:
        ValueError: If the photo, the model or an option is invalid.
    """
    config = parse(AnimateConfig, argv, "worldsim animate")
    check(config)
    photo = read_frames(config.photo)
    clips = make_clips(config, photo)
    chosen = choose(clips, config.flicker_limit)
    for line in write_results(config, photo[0], clips, chosen):
        print(line)
    limit = config.max_warping_error
    if limit is not None and not chosen.warping_error <= limit:
        print(f"not stable: warping error {chosen.warping_error:.2f} is above {limit:g}")
        return 1
    return 0


def check(config: AnimateConfig) -> None:
    """Raise ValueError for invalid options, before a model is loaded."""
    if config.num_frames == 1:
        raise ValueError("a clip has at least 2 frames, got --num-frames 1")


def make_clips(config: AnimateConfig, photo: NDArray[np.uint8]) -> list[Clip]:
    """Generate and measure a clip for each strength of motion.

    Raises:
        ValueError: If the model is not StableVideoDiffusion, or does not fit into memory.
    """
    pipeline = load_pipeline(config.model, config)
    if not pipeline.takes("motion_bucket_id"):
        raise ValueError(
            f"{config.model} is a {pipeline.name}, which has no motion_bucket_id; "
            f"use `worldsim imagine --model {config.model} --image {config.photo}`"
        )
    requested: dict[str, Any] = {
        "num_frames": config.num_frames or pipeline.num_frames,
        "frame_size": config.frame_size or pipeline.frame_size_for(photo),
        "num_inference_steps": config.num_inference_steps
        or pipeline.default("num_inference_steps"),
        "noise_aug_strength": config.noise_aug_strength,
        "fps": config.fps,
        "decode_chunk_size": config.decode_chunk_size,
        "seed": config.seed,
    }
    clips: list[Clip] = []
    with progress_bar() as bar, suppress(KeyboardInterrupt):  # Ctrl-C keeps the clips made by then
        total = len(config.motion_bucket_ids) * requested["num_inference_steps"]
        task = bar.add_task("", total=total)
        for bucket in config.motion_bucket_ids:
            bar.update(task, description=f"motion {bucket}")
            frames = pipeline.generate(
                photo, motion_bucket_id=bucket, on_step=lambda: bar.advance(task), **requested
            )
            steps = measure_steps(frames)
            error = float(np.nanmean(steps.errors))
            clips.append(Clip(bucket, frames, error, float(steps.magnitudes.mean())))
    if not clips:
        raise KeyboardInterrupt
    return clips


def choose(clips: Sequence[Clip], flicker_limit: float) -> Clip:
    """Choose the clip with the most motion within the limit, or else the one with least flicker."""
    steady = [clip for clip in clips if clip.warping_error <= flicker_limit]
    if steady:
        return max(steady, key=lambda clip: clip.flow)
    return min(clips, key=lambda clip: clip.warping_error)


def write_results(
    config: AnimateConfig, photo: NDArray[np.uint8], clips: Sequence[Clip], chosen: Clip
) -> list[str]:
    """Print the table, and write the chosen clip, the sheet, the plot and the figures.

    Returns:
        Lines for the user: the choice with its reason, and the paths.
    """
    table = Table()
    for name in ("motion_bucket_id", "warping error, of 255", "mean flow, pixels per step", ""):
        table.add_column(name, justify="right")
    for clip in clips:
        cells = (str(clip.motion_bucket_id), f"{clip.warping_error:.2f}", f"{clip.flow:.2f}")
        table.add_row(*cells, "chosen" if clip is chosen else "")
    Console().print(table)

    # The sheet has the photo in its first row, and a row for each clip.
    out = config.out
    write_mp4(out, chosen.frames, config.fps)
    sheet, plot, figures = (
        out.with_name(out.stem + end) for end in ("_sheet.png", "_trade_off.png", ".json")
    )
    rows = [spread(clip.frames) for clip in clips]
    height, width = rows[0][0].shape[:2]
    rows.insert(0, [fit_frame(photo, (height, width))])
    labels = ["photo"]
    labels += [
        f"{c.motion_bucket_id}: error {c.warping_error:.2f}, flow {c.flow:.2f}"
        + (", chosen" if c is chosen else "")
        for c in clips
    ]
    filmstrip([np.stack(row) for row in rows], sheet, scale=1, labels=labels)
    draw_trade_off(clips, chosen, config.flicker_limit, plot)
    write_json(
        figures,
        {
            "model": config.model,
            "photo": str(config.photo),
            "flicker_limit": config.flicker_limit,
            "chosen": chosen.motion_bucket_id,
            "clips": [
                {
                    "motion_bucket_id": clip.motion_bucket_id,
                    "warping_error": clip.warping_error,
                    "flow": clip.flow,
                }
                for clip in clips
            ],
        },
    )
    if chosen.warping_error <= config.flicker_limit:
        why = f"the most motion with a warping error of at most {config.flicker_limit:g}"
    else:
        why = f"the least flicker, since none has an error of at most {config.flicker_limit:g}"
    return [
        f"chosen: motion_bucket_id {chosen.motion_bucket_id} ({why})",
        f"wrote {out}, {sheet} (all clips), {plot} and {figures}",
    ]


def draw_trade_off(clips: Sequence[Clip], chosen: Clip, flicker_limit: float, path: Path) -> None:
    """Draw motion against warping error, a point for each clip, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 4.0))
    axis.plot([c.flow for c in clips], [c.warping_error for c in clips], color="#999999", zorder=1)
    for clip in clips:
        colour = "#2f6fde" if clip is chosen else "#222222"
        axis.scatter(clip.flow, clip.warping_error, color=colour, s=60, zorder=2)
        label = f" {clip.motion_bucket_id}" + (" (chosen)" if clip is chosen else "")
        axis.annotate(label, (clip.flow, clip.warping_error), color=colour, va="bottom")
    axis.axhline(flicker_limit, color="#c23b62", linestyle="--", label="flicker limit")
    axis.set_xlabel("motion: mean flow, pixels per step")
    axis.set_ylabel("flicker: warping error, values of 255")
    axis.margins(x=0.2)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    figure.tight_layout()
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
    plt.close(figure)
