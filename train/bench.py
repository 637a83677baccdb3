"""`worldsim bench`: time the steps of a world, or those of training, on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import tyro

from worldsim.data.metadata import read_metadata
from worldsim.find_world import find_world
from worldsim.system.command_line import parse
from worldsim.system.location import Location
from worldsim.system.options import (
    Count,
    Heading,
    Passes,
    Precision,
    Rule,
    Seconds,
    Threads,
    options_of,
)

from .config import Size
from .engine import Engine

if TYPE_CHECKING:
    import torch

    from worldsim.eval.speed import StepCost

    from .speed import TrainStepCost

AtLeastOne = Rule("one or more", bool)
BATCH_SIZES = (1, 8, 32, 128)
TRAIN_BATCH_SIZES = (4, 32)

# Columns and their widths: a line has 80 characters at most.
WORLD_COLUMNS = MappingProxyType(
    {"kind": 8, "batch": 7, "passes": 6, "first ms": 8, "p50 ms": 8, "p95 ms": 8}
    | {"frames/s": 9, "share": 5, "MB": 7}
)
TRAIN_COLUMNS = MappingProxyType(
    {"size": 5, "batch": 5, "M": 5, "data": 5, "forward": 7, "backward": 8, "optimizer": 9}
    | {"step": 6, "frames/s": 8, "share": 5, "MB": 6}
)


@dataclass(frozen=True)
class BenchConfig:
    """Time the steps of a world: milliseconds, frames per second, share of the machine's rate.

    With --train, time the steps of training on a recording, and the phases of a step: reading
    windows, forward, backward, optimizer.

    Examples:
        worldsim bench pong
        worldsim bench runs/pong --batch-sizes 1 32 --passes 1 2
        worldsim bench pong --device cuda --compile
        worldsim bench --train recordings/pong --sizes tiny small --batch-sizes 4 32
    """

    world: tyro.conf.Positional[str | None] = None
    """A bundled world (pong, maze, balls), or the folder of a world or of a run."""
    train: Annotated[Location | None, tyro.conf.arg(metavar="RECORDING")] = None
    """Instead of a world: folder or URL of a recording, to time training on it."""
    batch_sizes: tuple[Count, ...] | None = None
    """Numbers of lanes, or of windows in a training step; each is a line of the table. Not given:
    1 8 32 128, and 4 32 with --train."""
    seconds: Seconds = 2.0
    """Seconds to measure each line, about; a slow line takes a few steps."""
    threads: Threads | None = None
    """Threads of the CPU. Not given: 1, and with --train as many as `worldsim train` takes."""
    device: str | None = None
    """Where the world runs or trains, such as cpu or cuda; a GPU if there is one."""
    passes: Annotated[tuple[Passes, ...], Heading("of a world only")] = (1, 2, 4)
    """Denoising passes per frame; each number is a line of the table."""
    dtype: Precision = "auto"
    """Type of weights, cache and activations; auto takes bfloat16 for large worlds on a GPU."""
    compile: bool = False
    """Time the compiled network as well; compiling takes up to a minute."""
    sizes: Annotated[tuple[Size, ...], AtLeastOne, Heading("of training only")] = ("tiny", "small")
    """Sizes of the model; each is a line for each batch size."""
    engine: Engine = field(default_factory=Engine)


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim bench``.

    Returns:
        The exit status.

    Raises:
        ValueError: If the world, the recording or an option is invalid.
    """
    config = parse(BenchConfig, argv, "worldsim bench")
    if config.train is None:
        bench(config)
    else:
        bench_training(config)
    return 0


def bench(config: BenchConfig) -> dict[tuple[str, int, int], StepCost]:
    """Time steps of a world and print a table line by line.

    Args:
        config: The settings of the command.

    Returns:
        The cost of a step by kind ("eager" or "compiled"), batch size and passes.

    Raises:
        ValueError: If the world does not exist or an option is out of range.
    """
    if config.world is None:
        raise ValueError("worldsim bench needs a world, such as pong, or --train RECORDING")
    refuse(config, ("sizes", "engine"), "give --train RECORDING as well, or leave it out")
    find_world(config.world)
    from worldsim.eval.speed import begin, matrix_rate, step_cost  # torch takes seconds
    from worldsim.system.threads import use_threads
    from worldsim.world_folder import load

    use_threads(config.threads or 1)
    world = load(config.world, device=config.device, dtype=config.dtype)
    rate = matrix_rate(world.device, world.dit.dtype)
    height, width = world.game.frame_size
    parameters = sum(parameter.numel() for parameter in world.parameters())
    print(
        f"{config.world}: {parameters / 1e6:.2f} M parameters, {height}x{width}, "
        f"{describe_rate(world.device, world.dit.dtype, rate)}"
        "Each step includes reward and end. MB: peak memory.\n"
    )
    print_line(WORLD_COLUMNS, WORLD_COLUMNS)
    costs: dict[tuple[str, int, int], StepCost] = {}
    kinds = ("eager", "compiled") if config.compile else ("eager",)
    for kind, size in itertools.product(kinds, config.batch_sizes or BATCH_SIZES):
        rollout = begin(world, size, compiled=kind == "compiled")
        for passes in config.passes:
            rollout.num_passes = passes
            cost = costs[kind, size, passes] = step_cost(rollout, config.seconds)
            cells = (
                kind,
                f"{size:,}",
                str(passes),
                f"{cost.first:,.0f}",
                f"{cost.p50:,.1f}",
                f"{cost.p95:,.1f}",
                f"{1000 * size * world.patch_frames / cost.p50:,.0f}",
                f"{cost.gflop / (cost.p50 / 1000) / rate:.0%}",
                f"{cost.peak_mb:,.0f}",
            )
            print_line(WORLD_COLUMNS, cells)
    print(f"\nA lane keeps {rollout.bytes_per_lane / 1e6:.2f} MB of past frames.")
    return costs


def bench_training(config: BenchConfig) -> dict[tuple[Size, int], TrainStepCost]:
    """Time steps of training and print a table line by line.

    Args:
        config: The settings of the command.

    Returns:
        The cost of a step by size and batch size, without those that memory does not suffice for.

    Raises:
        ValueError: If the recording is unusable or an option is out of range.
    """
    if config.train is None:
        raise ValueError("training is timed on a recording: give --train RECORDING")
    if config.world is not None:
        raise ValueError(f"give a world ({config.world}) or --train {config.train}, not both")
    refuse(config, ("passes", "dtype"), "leave it out with --train")
    refuse(config, ("compile",), "give --engine.compile on or off with --train")
    batch_sizes, parts = config.batch_sizes or TRAIN_BATCH_SIZES, config.engine.accumulate or 1
    if uneven := [size for size in batch_sizes if size % parts]:
        raise ValueError(
            f"--engine.accumulate must divide --batch-sizes, got {parts} and {uneven[0]}"
        )
    read_metadata(config.train)
    import torch  # takes seconds

    from worldsim.eval.speed import matrix_rate
    from worldsim.system.devices import is_out_of_memory, pick_device
    from worldsim.system.threads import use_threads

    from .optimizers import has_fast_bfloat16
    from .speed import begin_run, train_step_cost

    if config.threads is not None:
        use_threads(config.threads)
    device = pick_device(config.device)
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    rate = matrix_rate(device, dtype)
    engine = "compiled layers" if config.engine.compiles_on(device.type) else "eager layers"
    engine += f", {parts} parts a step" * (parts > 1)
    engine += ", activation checkpointing" * config.engine.activation_checkpointing
    print(
        f"Training on {config.train}, {engine}, {describe_rate(device, dtype, rate)}"
        "Milliseconds of a step: each phase alone, and the whole, where phases overlap.\n"
        "M: millions of parameters. MB: peak memory.\n"
    )
    print_line(TRAIN_COLUMNS, TRAIN_COLUMNS)
    costs: dict[tuple[Size, int], TrainStepCost] = {}
    for size, batch_size in itertools.product(config.sizes, batch_sizes):
        try:
            cost = train_step_cost(
                begin_run(config.train, size, batch_size, device, config.engine), config.seconds
            )
        except (MemoryError, RuntimeError, ValueError) as error:
            if not is_out_of_memory(error):
                raise
            print_line(TRAIN_COLUMNS, (size, f"{batch_size:,}", "too little memory"))
            continue
        costs[size, batch_size] = cost
        cells = (
            size,
            f"{batch_size:,}",
            f"{cost.parameters / 1e6:,.1f}",
            *map(in_ms, cost.phases.values()),
            in_ms(cost.whole),
            f"{1000 * cost.frames / cost.whole:,.0f}",
            f"{cost.gflop / (cost.whole / 1000) / rate:.1%}",
            f"{cost.peak_mb:,.0f}",
        )
        print_line(TRAIN_COLUMNS, cells)
        if cost.not_compiled is not None:
            print(f"      ({cost.not_compiled})", flush=True)
    return costs


def describe_rate(device: torch.device, dtype: torch.dtype, rate: float) -> str:
    """The end of a sentence that names the device, and one about its rate."""
    import torch

    threads = torch.get_num_threads()
    name = f"{threads} thread{'s' * (threads > 1)} of the CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    precision = str(dtype).removeprefix("torch.")
    return (
        f"on {name}.\n"
        f"Large matrices in {precision}: {rate:,.0f} GFLOP/s; share is that of this rate.\n"
    )


def in_ms(ms: float) -> str:
    """Milliseconds in at most six characters, up to a hundred seconds."""
    return f"{ms:,.1f}" if ms < 1000 else f"{ms:,.0f}"


def print_line(columns: Mapping[str, int], cells: Iterable[str]) -> None:
    """Print the cells of a line under their columns, at once also where nobody looks."""
    pairs = zip(columns.values(), cells, strict=False)
    print(" ".join(f"{cell:>{width}}" for width, cell in pairs), flush=True)


def refuse(config: BenchConfig, names: Sequence[str], remedy: str) -> None:
    """Refuse options that have no effect.

    Raises:
        ValueError: If one of them was given.
    """
    pairs = zip(options_of(BenchConfig, config), options_of(BenchConfig), strict=True)
    for given, default in pairs:
        if given.path[0] in names and given.value != default.value:
            raise ValueError(f"{given.flag} has no effect here: {remedy}")
