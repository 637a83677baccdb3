"""`worldsim cost`: count the cost of a video as one sequence and in chained windows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from worldsim.system import options
from worldsim.system.command_line import parse
from worldsim.system.files import written_aside

if TYPE_CHECKING:
    from worldsim.video.flops import Denoiser, Forward

COLOURS = {"one sequence": "#2f6fde", "chained": "#e0662f", "ring": "#3c9d5b"}
LINES = {"one sequence": "o-", "chained": "s--", "ring": "^:"}
CHAINED = (
    "Risks of chained windows: each window sees {overlap} of the one before. Identity and colour "
    "drift from window to window. Motion may change at a seam. What left the frame is forgotten."
)
ONE = (
    "Risks of one sequence: attention grows with the square of the duration, memory with the "
    "duration. {tokens:,} tokens are {times:.3g} times the {own:,} of the model's own length; "
    "beyond it, positions and motion may fail."
)
RING = (
    "In play, the ring cache keeps the newest {window} frames: constant cost and memory, no seams. "
    "Older frames are forgotten."
)


@dataclass(frozen=True)
class CostConfig:
    """Count the cost of a video: one sequence of all its tokens, compared with chained windows.

    Counts tokens, FLOPs, memory and time of a diffusers video pipeline or of a world, for a frame
    size and a duration. No weights of a pipeline are read, and none of it is run.

    Examples:
        worldsim cost LTXPipeline --seconds 20
        worldsim cost Lightricks/LTX-Video --frame-size 704 1216 --tflops 990
        worldsim cost pong --seconds 60
        worldsim cost pong --frame-size 256 256 --attention full local strided
    """

    target: Annotated[tyro.conf.Positional[str], options.Heading("the video")]
    """A world (name or folder), a diffusers video pipeline (folder or Hub id; only its configs are
    read) or a pipeline class, such as LTXPipeline."""
    frame_size: tuple[options.Side, options.Side] | None = None
    """Height and width in pixels; the model's own if not given."""
    seconds: options.Seconds | None = None
    """Duration of the one sequence; if not given, all windows have the model's own length."""
    windows: Annotated[int, options.Range(1, 10_000)] = 4
    """Number of chained windows, with as many tokens together as the one sequence."""
    overlap: options.Number = 1
    """Frames that neighbouring windows share."""
    attention: tuple[str, ...] = ()
    """Other attention to compare with a world's own, as for --model.attention of worldsim train.
    Several layers in turn are one value in quotes, such as "space space full"."""
    num_inference_steps: options.Passes | None = None
    """Denoising steps; the model's own number if not given."""
    out: Path = Path("cost.png")
    """The plot: a PNG, or a folder for it."""
    dtype: Annotated[Literal["fp32", "fp16", "bf16"], options.Heading("the device")] = "bf16"
    """Precision of weights and activations of a pipeline; a world has single precision."""
    tflops: options.Positive | None = None
    """Rate of the device in 10^12 operations a second; measured on this machine if not given."""
    utilisation: Annotated[float, options.Range(0, 1, above=True)] = 0.4
    """Share of that rate that is reached."""


class Scheme(NamedTuple):
    """Cost of a video: ``times`` sequences of ``tokens`` tokens, one after another.

    ``attention`` and ``total`` are FLOPs of all steps and windows, ``memory`` is the peak in bytes,
    weights included.
    """

    seconds: float
    tokens: int
    times: int
    attention: float
    total: float
    memory: float


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim cost``.

    Returns:
        The exit status.

    Raises:
        ValueError: If the target or an option is invalid.
    """
    cost(parse(CostConfig, argv, "worldsim cost"))
    return 0


def cost(config: CostConfig) -> dict[str, Scheme]:
    """Count, print the table and the risks, and write the plot.

    Args:
        config: The settings of the command.

    Returns:
        The cost by scheme: "one sequence", "chained", and for a world "ring". Other attention comes
        first in the name of a scheme, as in "full, ring".

    Raises:
        ValueError: If the target does not exist or an option is out of range.
    """
    path = config.out if config.out.suffix == ".png" else config.out / "cost.png"
    options.check_place("--out", path, options.Place("file"))
    denoisers = open_target(config)
    denoiser = denoisers[0]
    frames = config.seconds * denoiser.fps / config.windows if config.seconds else denoiser.window
    latents = denoiser.latent_frames(frames)
    if not 0 <= config.overlap < denoiser.frames(latents):
        raise ValueError(
            "--overlap must be 0 or more and below the frames of a window, "
            f"{denoiser.frames(latents)}, got {config.overlap}"
        )
    # Three lengths suffice for the curves of the plot; the longest is the video.
    console = Console()
    lengths = sorted({1, (1 + config.windows) // 2, config.windows})
    curves: dict[str, list[Scheme]] = {}
    for one in track(denoisers, "counting", console=console, transient=True):
        own = count_schemes(one, latents, lengths, config.overlap)
        prefix = "" if one is denoiser else f"{one.name}, "
        curves |= {prefix + label: schemes for label, schemes in own.items()}
    schemes = {label: of_lengths[-1] for label, of_lengths in curves.items()}
    rate, whose = device_rate(config)
    height, width = denoiser.frame_size
    heading = (
        f"{denoiser.name}: {_figure(denoiser.parameters / 1e6)} M parameters "
        f"({_figure(denoiser.weights / 1e6)} MB), {height}x{width} at {denoiser.fps:g} frames/s; "
        f"{denoiser.steps} steps x {denoiser.forwards} forward(s) x {denoiser.batch} sample(s)"
    )
    _say(console, heading)
    draw_table = scheme_table if len(denoisers) == 1 else comparison_table
    console.print(draw_table(denoiser, schemes, rate * config.utilisation))
    _say(console, f"Time at {config.utilisation:.0%} of {rate:,.4g} TFLOP/s, {whose}.")
    overlap = "1 frame" if config.overlap == 1 else f"{config.overlap} frames"
    _say(console, CHAINED.format(overlap=overlap))
    length = denoiser.tokens(denoiser.latent_frames(denoiser.window))
    tokens = schemes["one sequence"].tokens
    _say(console, ONE.format(tokens=tokens, times=tokens / length, own=length))
    if denoiser.ring:
        _say(console, RING.format(window=denoiser.window))
    draw(path, denoiser.name, curves)
    _say(console, f"Plot: {path}")
    return schemes


def count_schemes(
    denoiser: Denoiser, latents: int, lengths: Sequence[int], overlap: int
) -> dict[str, list[Scheme]]:
    """Count a denoiser: by scheme, the cost of videos of some lengths.

    Args:
        denoiser: The denoiser.
        latents: Latent frames of a window.
        lengths: Windows of each video.
        overlap: Frames that neighbouring windows share.
    """
    forwards = {length: denoiser.forward(length * latents) for length in lengths}
    curves = {
        "one sequence": [plan(denoiser, forwards[k], k * latents, 1, 0) for k in lengths],
        "chained": [plan(denoiser, forwards[lengths[0]], latents, k, overlap) for k in lengths],
    }
    if denoiser.ring:
        player = replace(denoiser, steps=1)  # all passes are in a step of the ring
        steps = [plan(player, denoiser.ring, 1, k * latents, 0) for k in lengths]
        seconds = [one.seconds for one in curves["one sequence"]]
        curves["ring"] = [s._replace(seconds=t) for s, t in zip(steps, seconds, strict=True)]
    return curves


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def open_target(config: CostConfig) -> list[Denoiser]:
    """Return the denoiser of a pipeline class, folder or Hub id, or of a world.

    Those of a world with other attention come after its own, named by the attention.

    Raises:
        ValueError: If the target is none of these, or an option does not fit it.
    """
    from worldsim.video.flops import pipeline_denoiser
    from worldsim.video.world_cost import with_attention, world_denoiser
    from worldsim.world_folder import load

    target, steps = config.target, config.num_inference_steps
    name, configs = target, None
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", target) and not Path(target).exists()
    if hub or (Path(target) / "model_index.json").is_file():
        name, configs = read_configs(target)
    if configs or re.fullmatch(r"\w+Pipeline", target):
        if config.attention:
            raise ValueError(f"--attention is for worlds, and {target} is a pipeline: leave it out")
        size = config.frame_size
        return [pipeline_denoiser(name, configs, frame_size=size, dtype=config.dtype, steps=steps)]
    try:
        world = load(target, device="cpu")
    except ValueError as error:
        also = "or the folder, Hub id or class of a video pipeline, such as LTXPipeline"
        raise ValueError(f"{error}; {also}") from error
    if config.frame_size is not None:
        world = world.at_size(config.frame_size)
    others = {words: with_attention(world, words) for words in config.attention}
    return [world_denoiser(one, words, steps) for words, one in {target: world, **others}.items()]


def read_configs(target: str) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Read only the class of a pipeline and the configs of its parts.

    Args:
        target: Folder written by ``save_pretrained``, or Hub id.

    Raises:
        ValueError: If a config is missing or the pipeline makes no video.
    """
    from huggingface_hub import hf_hub_download

    from worldsim.system.files import one_line
    from worldsim.system.hub import why_not_fetched
    from worldsim.video.families import PIPELINES
    from worldsim.video.hub import read_config

    def read(name: str) -> dict[str, Any]:
        is_here = Path(target).is_dir()
        try:
            path = Path(target) / name if is_here else Path(hf_hub_download(target, name))
            return read_config(path)
        except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors
            damaged = f"{target} has no {name} that can be read: {one_line(error)}"
            raise ValueError(damaged if is_here else why_not_fetched(target, error)) from error

    index = read("model_index.json")
    name = str(index.get("_class_name", "?"))
    if name not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise ValueError(f"{target} is a {name}, no video pipeline known here; take {known}")
    part = "unet" if "unet" in index else "transformer"
    configs = {"denoiser": read(f"{part}/config.json"), "vae": read("vae/config.json")}
    kind, wanted = configs["denoiser"].get("_class_name"), PIPELINES[name].denoiser
    if kind != wanted:
        raise ValueError(f"the {part} of a {name} must be a {wanted}, got {kind}")
    return name, {"pipeline": index, **configs}


def plan(
    denoiser: Denoiser, forward: Forward, latent_frames: int, windows: int, overlap: int
) -> Scheme:
    """Cost of ``windows`` windows of ``latent_frames`` latent frames, from one forward pass."""
    frames = denoiser.frames(latent_frames)
    times = denoiser.steps * denoiser.forwards * windows
    return Scheme(
        seconds=(windows * frames - (windows - 1) * overlap) / denoiser.fps,
        tokens=denoiser.tokens(latent_frames),
        times=windows,
        attention=times * forward.attention,
        total=times * (forward.attention + forward.rest),
        memory=denoiser.weights + forward.activations,
    )


def device_rate(config: CostConfig) -> tuple[float, str]:
    """The rate in 10^12 operations per second, and its source."""
    if config.tflops:
        return config.tflops, "as given"
    import torch

    from worldsim.eval.speed import matrix_rate
    from worldsim.video.hub import DTYPES

    if torch.cuda.is_available():
        rate = matrix_rate(torch.device("cuda"), DTYPES[config.dtype])
        return rate / 1000, f"measured on {torch.cuda.get_device_name()} in {config.dtype}"
    rate = matrix_rate(torch.device("cpu"))
    return rate / 1000, f"measured on this CPU in fp32, threads: {torch.get_num_threads()}"


def scheme_table(denoiser: Denoiser, schemes: Mapping[str, Scheme], tflops: float) -> Table:
    """A table of the total cost, a column per scheme, and the ratio of the first two."""
    table = Table(title="The whole video")
    table.add_column("")
    for name in schemes:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("one / chained", justify="right", no_wrap=True)

    def row(label: str, values: Sequence[float], form: Callable[[float], str]) -> None:
        cells = [form(value) for value in values]
        table.add_row(label, *cells, f"{values[0] / values[1]:.2f}")

    every = list(schemes.values())
    row("seconds", [s.seconds for s in every], "{:,.2f}".format)
    tokens = [f"{s.times:,} x {s.tokens:,}" if s.times > 1 else f"{s.tokens:,}" for s in every]
    table.add_row("tokens", *tokens, f"{every[0].tokens / every[1].tokens:.2f}")
    row("attention, TFLOP", [s.attention / 1e12 for s in every], _figure)
    row("total, TFLOP", [s.total / 1e12 for s in every], _figure)
    row("attention's share", [s.attention / s.total for s in every], "{:.1%}".format)
    row("peak memory, MB", [s.memory / 1e6 for s in every], "{:,.1f}".format)
    row("time", [s.total / 1e12 / tflops for s in every], _duration)
    return table


def comparison_table(denoiser: Denoiser, schemes: Mapping[str, Scheme], tflops: float) -> Table:
    """A table of the total cost, a row per attention and scheme."""
    table = Table(title="The whole video, by attention", box=box.SIMPLE_HEAD)
    columns = ("attention,\nTFLOP", "total,\nTFLOP", "memory,\nMB", "\ntime")
    for name in ("", "", *columns):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for label, s in schemes.items():
        attention, _, scheme = label.rpartition(", ")
        table.add_row(
            (attention or denoiser.name) if scheme == "one sequence" else "",
            scheme,
            _figure(s.attention / 1e12),
            _figure(s.total / 1e12),
            f"{s.memory / 1e6:,.1f}",
            _duration(s.total / 1e12 / tflops),
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


def draw(path: Path, name: str, curves: Mapping[str, Sequence[Scheme]]) -> None:
    """Plot operations and memory against duration, a line for each scheme."""
    import matplotlib

    matplotlib.use("Agg")  # before pyplot, which otherwise looks for a display
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    # A colour for each scheme, or for each attention if there are several.
    kinds = [label.rpartition(", ") for label in curves]
    attentions = list(dict.fromkeys(attention for attention, _, _ in kinds))
    for (attention, _, kind), schemes in zip(kinds, curves.values(), strict=True):
        several = len(attentions) > 1
        colour = f"C{attentions.index(attention)}" if several else COLOURS[kind]
        label = f"{attention or name}, {kind}" if several else kind
        seconds = [scheme.seconds for scheme in schemes]
        totals, peaks = [s.total / 1e12 for s in schemes], [s.memory / 1e6 for s in schemes]
        for axis, values in zip(axes, (totals, peaks), strict=True):
            axis.plot(seconds, values, LINES[kind], color=colour, markersize=4, label=label)
    for axis, title in zip(axes, ("total, TFLOP", "peak memory, MB"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("duration, seconds")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=10 if len(attentions) == 1 else 6)
    figure.suptitle(f"{name}: one sequence or chained windows")
    figure.tight_layout()
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=110, format="png")
    plt.close(figure)
