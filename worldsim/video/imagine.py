"""``worldsim imagine``: a video from text, from an image, or from a world without actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from worldsim.find_world import BUNDLED
from worldsim.media import filmstrip, read_frames
from worldsim.system.command_line import parse
from worldsim.system.files import write_json
from worldsim.system.options import (
    Advanced,
    Count,
    FramesPerSecond,
    Heading,
    InFile,
    NotNegative,
    OutVideo,
    Seconds,
)
from worldsim.video.chain import Chain, MakeWindow
from worldsim.video.film import Film, PipelineConfig, load_pipeline, progress_bar, write_film
from worldsim.video.seams import Seams, find_cuts, measure_seams

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class ImagineConfig(PipelineConfig):
    """Make a video from text, an image or both, with any video pipeline of diffusers.

    Among them are CogVideoX, LTX-Video, Wan, HunyuanVideo, Mochi and StableVideoDiffusion. With
    --seconds beyond one window, windows are chained: each begins from the last frames of the one
    before and fades into it. Memory stays that of one window. A world (pong, or a world's folder)
    continues without actions from its memory, which has no seams; with --overlap it is chained too.
    A world with text begins from words alone. Also writes OUT_sheet.png and OUT.json, with the
    video's flicker at the seams of its windows and elsewhere.

    Examples:
        worldsim imagine "a boat in the fog" --out boat.mp4
        worldsim imagine --image photo.jpg --model Wan-AI/Wan2.1-I2V-14B-480P-Diffusers
        worldsim imagine --model pong --seconds 30
        worldsim imagine "two red balls" --model runs/balls --guidance-scale 3
    """

    prompt: Annotated[str | None, tyro.conf.Positional, Heading("what to make")] = None
    """Prompt: what the video shows."""
    model: Annotated[str, Heading("what to make")] = "Lightricks/LTX-Video"
    """A video pipeline (id on the Hub, or folder) or a world."""
    image: InFile | None = None
    """An image to begin from, or a video to continue."""
    out: OutVideo = Path("out.mp4")
    """The video to write."""
    negative_prompt: Annotated[str | None, Advanced()] = None
    """Negative prompt: what the video must not show."""
    continue_with: Annotated[str | None, Advanced()] = None
    """Pipeline (id or folder) for the windows after the first. Needed if the model takes text only
    and none of its variants takes an image."""
    seconds: Annotated[Seconds | None, Heading("size and length")] = None
    """Length of the video; one window if not given."""
    fps: FramesPerSecond | None = None
    """Frames per second; those that the model was trained on if not given."""
    overlap: Count | None = None
    """Frames that neighbouring windows share. If not given: 1 for pipelines that take an image, 9
    for those that take a video, and a world is not chained."""
    guidance_scale: Annotated[NotNegative | None, Heading("denoising")] = None
    """How closely to follow the prompt; the pipeline's own scale if not given, of a world 1."""
    text_encoder: Annotated[str | None, Advanced()] = None
    """Folder or Hub id of the text encoder that a world was trained with, for a new prompt. It is
    loaded only if you name it here."""
    decode_chunk_size: Annotated[Count | None, Advanced(), Heading("precision and memory")] = None
    """Frames decoded at once, where the pipeline has this (StableVideoDiffusion)."""


@dataclass
class Plan:
    """How the windows of a video are made.

    Attributes:
        make_window: See `Chain`.
        window: Frames of a window, or of a video whose length is not given.
        overlap: Frames that neighbouring windows share.
        fps: Frames per second.
        context: Frames for the first window to begin from, or None.
        steps: Steps of the progress bar per window.
        play: Number of frames -> frames of a world, one by one; None for a chain of windows.
    """

    make_window: MakeWindow
    window: int
    overlap: int
    fps: float
    context: Frames | None
    steps: int
    play: Callable[[int], Iterator[Frames]] | None = None


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim imagine``.

    Returns:
        The exit status: 130 if interrupted; the frames made by then are kept.

    Raises:
        ValueError: If the model, the image or an option is invalid.
    """
    config = parse(ImagineConfig, argv, "worldsim imagine")
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        plan = make_plan(config, lambda: bar.advance(task))
        wanted = plan.window if config.seconds is None else round(config.seconds * plan.fps)
        wanted = max(1, wanted)
        windows = 1 if plan.play else count_windows(wanted, plan.window, plan.overlap)
        bar.update(task, total=wanted if plan.play else windows * plan.steps)

        def make_window(context: Frames | None, index: int) -> Frames:
            bar.update(task, description=f"window {index + 1} of {windows}")
            return plan.make_window(context, index)

        chain = Chain(make_window, wanted, plan.overlap, plan.context)
        interrupted: list[bool] = []
        frames = plan.play(wanted) if plan.play else chain
        film = write_film(config.out, until_interrupted(frames, interrupted), plan.fps, wanted)
    for line in write_results(config, film, chain, plan):
        print(line)
    return 130 if interrupted else 0


def make_plan(config: ImagineConfig, on_step: Callable[[], None]) -> Plan:
    """Plan the windows of a world or of a pipeline.

    Raises:
        ValueError: If the model does not exist or does not take an option.
    """
    context = None
    if config.image is not None:
        context = read_frames(config.image, last=config.overlap or 64)
    if is_world(config.model):
        return plan_world(config, context, on_step)
    return plan_pipeline(config, context, on_step)


def is_world(model: str) -> bool:
    """Whether a model is a world and not a pipeline."""
    folder = Path(model)
    if folder.is_dir():
        return not (folder / "model_index.json").is_file()
    return (BUNDLED / model).is_dir()


def plan_world(config: ImagineConfig, context: Frames | None, on_step: Callable[[], None]) -> Plan:
    """A world that continues with unknown actions: from its memory, or in windows if asked for."""
    from worldsim.first_frame import first_frames
    from worldsim.rollout_input import check_guidance
    from worldsim.start import start_from
    from worldsim.video.world_pipeline import WorldPipeline

    for name in ("negative_prompt", "continue_with"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"{config.model} is a world, which takes no {name.replace('_', ' ')}: leave it out"
            )
    pipeline = WorldPipeline.from_pretrained(config.model, text_encoder=config.text_encoder)
    world, prompt = pipeline.world, config.prompt
    scale = 1.0 if config.guidance_scale is None else config.guidance_scale
    check_guidance(scale, world)
    if prompt is not None:
        world.encode_text([prompt])  # a wrong word is an error before the first window
    remembered = world.patch_frames * world.window
    window = config.num_frames or 4 * remembered
    overlap = config.overlap or max(1, remembered // 2)
    if context is not None:
        start = start_from(context, world)
        print(start.note)
        context = start.frames
    elif prompt is not None:
        context = first_frames(world, [prompt], [config.seed], guidance_scale=scale)[0]
    else:
        starts, (prompt,) = pipeline.starts([config.seed])
        context = starts[0]

    def continued(given: Frames, num_frames: int, seed: int) -> Iterator[Frames]:
        for frames in pipeline.frames_from(
            given[None],
            [prompt],
            [seed],
            num_frames=num_frames,
            num_passes=config.num_inference_steps,
            guidance_scale=scale,
        ):
            yield frames[0]

    def play(num_frames: int) -> Iterator[Frames]:
        for frame in continued(context[-num_frames:], num_frames, config.seed):
            on_step()
            yield frame

    def make_window(given: Frames | None, index: int) -> Frames:
        assert given is not None
        frames: list[Frames] = []
        for frame in continued(given, window, config.seed + index):
            frames.append(frame)
            if len(frames) > overlap:  # the first window may have less context
                on_step()
        return np.stack(frames)

    fps = config.fps or world.game.fps
    is_chained = config.overlap is not None or bool(config.num_frames and config.seconds)
    own = None if is_chained else play
    return Plan(make_window, window, overlap, fps, context[-overlap:], window - overlap, own)


def plan_pipeline(
    config: ImagineConfig, context: Frames | None, on_step: Callable[[], None]
) -> Plan:
    """Windows of a pipeline of diffusers."""
    # Check everything before the first window, which may take minutes.
    pipeline = load_pipeline(config.model, config)
    check_words(config, pipeline)
    if context is not None and not pipeline.takes_image and pipeline.sibling:
        pipeline.become_sibling()
    if context is None and pipeline.needs_image:
        raise ValueError(f"{pipeline.name} begins from an image: give one with --image")
    window = config.num_frames or pipeline.num_frames
    pipeline.check_num_frames(window)
    fps = config.fps or pipeline.fps
    steps = config.num_inference_steps or pipeline.default("num_inference_steps")
    is_long = config.seconds is not None and round(config.seconds * fps) > window
    if is_long and not (pipeline.can_continue() or config.continue_with):
        raise ValueError(
            f"{pipeline.name} takes text only and cannot continue a window: name a model that "
            "takes an image with --continue-with, or leave out --seconds"
        )
    # A video pipeline continues one latent frame more than an image.
    takes_video = pipeline.continues_video
    overlap = config.overlap or (pipeline.stride + 1 if takes_video else 1)
    frame_size = config.frame_size or pipeline.frame_size_for(context)
    if context is not None:
        context = context[-overlap:] if takes_video else context[-1:]

    def make_window(given: Frames | None, index: int) -> Frames:
        nonlocal pipeline
        if index == 1 and config.continue_with is not None:
            pipeline = load_pipeline(config.continue_with, config)
        elif given is not None and not pipeline.takes_image:
            pipeline.become_sibling()
        options: dict[str, Any] = {
            "prompt": config.prompt,
            "negative_prompt": config.negative_prompt,
            "guidance_scale": config.guidance_scale,
            "decode_chunk_size": config.decode_chunk_size,
        }
        if pipeline.takes("frame_rate"):
            options["frame_rate"] = round(fps)
        elif pipeline.takes("fps"):
            options["fps"] = round(fps)
        if not pipeline.takes("prompt"):  # the prompt was for the first window's pipeline
            options["prompt"] = options["negative_prompt"] = options["guidance_scale"] = None
        return pipeline.generate(
            given,
            num_frames=window,
            frame_size=frame_size,
            num_inference_steps=steps,
            seed=config.seed + index,
            on_step=on_step,
            **options,
        )

    return Plan(make_window, window, overlap, fps, context, steps)


def check_words(config: ImagineConfig, pipeline: Any) -> None:
    """Raise ValueError for a missing prompt, or text options that the pipeline does not take."""
    if pipeline.takes("prompt") and config.prompt is None:
        raise ValueError(
            f'{pipeline.name} needs a prompt, as in worldsim imagine "a ball that rolls over the '
            f'grass" --model {config.model}'
        )
    for name in ("prompt", "negative_prompt", "guidance_scale"):
        if getattr(config, name) is not None and not pipeline.takes(name):
            raise ValueError(f"{pipeline.name} takes no {name.replace('_', ' ')}: leave it out")


def count_windows(num_frames: int, window: int, overlap: int) -> int:
    """The number of windows of a video."""
    if num_frames <= window:
        return 1
    if window <= overlap:
        raise ValueError(
            f"windows must be longer than their overlap, got {window} frames with an overlap of "
            f"{overlap}: take more --num-frames or a smaller --overlap"
        )
    return 1 + math.ceil((num_frames - window) / (window - overlap))


def until_interrupted(frames: Iterable[Frames], interrupted: list[bool]) -> Iterator[Frames]:
    """Yield frames until Ctrl-C, so that those made by then are written."""
    given = 0
    try:
        for frame in frames:
            yield frame
            given += 1
    except KeyboardInterrupt:
        if not given:
            raise
        interrupted.append(True)


def write_results(config: ImagineConfig, film: Film, chain: Chain, plan: Plan) -> list[str]:
    """Write the sheet and the figures.

    Returns:
        Lines for the user: the figures and the paths.
    """
    out = config.out
    sheet, figures = (out.with_name(out.stem + end) for end in ("_sheet.png", ".json"))
    filmstrip([np.stack(film.thumbnails)], sheet, scale=1)
    found: dict[str, Any] = {
        "model": config.model,
        "prompt": config.prompt,
        "seed": config.seed,
        "num_frames": film.num_frames,
        "fps": plan.fps,
        "windows": len(chain.seams) + 1,
        "overlap": 0 if plan.play else plan.overlap,
    }
    lines = []
    if film.num_frames > 1:
        found["warping_error"] = float(np.nanmean(film.steps.errors))
        found["flow"] = float(film.steps.magnitudes.mean())
        found["colour_shift"] = float(film.steps.colour_shifts.mean())
        found["cuts"] = find_cuts(film.steps.errors)
        lines.append(
            f"warping error {found['warping_error']:.2f} of 255, mean flow {found['flow']:.2f} "
            "pixels per step"
        )
    if chain.seams:
        seams = measure_seams(film.steps, chain.seams)
        found["seams"] = seams._asdict()
        lines.extend(describe_seams(seams, chain.seams, plan.fps))
    write_json(figures, found)
    seconds = film.num_frames / plan.fps
    lines.append(f"wrote {out} ({film.num_frames} frames, {seconds:.1f} s), {sheet} and {figures}")
    return lines


def describe_seams(seams: Seams, places: list[range], fps: float) -> Iterator[str]:
    """Sentences that compare the seams of a video with the rest of it."""
    plural = "s" if len(places) > 1 else ""
    yield (
        f"at the {len(places)} seam{plural} of its windows: warping error "
        f"{seams.warping_error:.2f} "
        f"(elsewhere {seams.warping_error_elsewhere:.2f}), shift of the mean colour "
        f"{seams.colour_shift:.2f} (elsewhere {seams.colour_shift_elsewhere:.2f})"
    )
    if seams.cuts:
        at = sum(any(cut in place for place in places) for cut in seams.cuts)
        seconds = ", ".join(f"{(cut + 1) / fps:.1f}" for cut in seams.cuts[:8])
        more = ", …" if len(seams.cuts) > 8 else ""
        yield f"{len(seams.cuts)} steps look like cuts, {at} of them at seams: at {seconds}{more} s"
    else:
        yield "no step looks like a cut"
