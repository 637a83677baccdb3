"""`worldsim bench`: time the steps of a world on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worldsim.find_world import find_world
from worldsim.system.command_line import parse
from worldsim.system.options import Count, Passes, Precision, Seconds, Threads

if TYPE_CHECKING:
    from worldsim.eval.speed import StepCost


@dataclass(frozen=True)
class BenchConfig:
    """Time the steps of a world: milliseconds, frames per second, share of the machine's rate.

    Examples:
        worldsim bench pong
        worldsim bench runs/pong --batch-sizes 1 32 --passes 1 2
        worldsim bench pong --device cuda --compile
    """

    world: tyro.conf.Positional[str]
    """A bundled world (pong, maze, balls), or the folder of a world or of a run."""
    batch_sizes: tuple[Count, ...] = (1, 8, 32, 128)
    """Numbers of lanes; each is a line of the table."""
    passes: tuple[Passes, ...] = (1, 2, 4)
    """Denoising passes per frame; each number is a line of the table."""
    seconds: Seconds = 2.0
    """Seconds to measure each line, about; two steps at least."""
    threads: Threads = 1
    """Threads of the CPU; for small worlds one is fastest."""
    device: str | None = None
    """Where the world runs, such as cpu or cuda; a GPU if there is one."""
    dtype: Precision = "auto"
    """Type of weights, cache and activations; auto takes bfloat16 for large worlds on a GPU."""
    compile: bool = False
    """Time the compiled network as well; compiling takes about a minute."""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim bench``.

    Returns:
        The exit status.

    Raises:
        ValueError: If the world or an option is invalid.
    """
    bench(parse(BenchConfig, argv, "worldsim bench"))
    return 0


def bench(config: BenchConfig) -> dict[tuple[str, int, int], StepCost]:
    """Time steps and print a table that grows line by line.

    Args:
        config: The settings of the command.

    Returns:
        The cost of a step by kind ("eager" or "compiled"), batch size and passes.

    Raises:
        ValueError: If the world does not exist or an option is out of range.
    """
    find_world(config.world)
    import torch  # takes seconds

    from worldsim.eval.speed import begin, matrix_rate, step_cost
    from worldsim.system.threads import use_threads
    from worldsim.world_folder import load

    use_threads(config.threads)
    world = load(config.world, device=config.device, dtype=config.dtype)
    rate = matrix_rate(world.device, world.dit.dtype)
    precision = str(world.dit.dtype).removeprefix("torch.")
    console = Console()
    height, width = world.game.frame_size
    parameters = sum(parameter.numel() for parameter in world.parameters())
    where = f"{config.threads} thread{'s' * (config.threads > 1)} of the CPU"
    if world.device.type == "cuda":
        where = torch.cuda.get_device_name(world.device)
    console.print(
        f"{config.world}: {parameters / 1e6:.2f} M parameters, {height}x{width}, on {where}, "
        f"which multiplies large matrices at {rate:,.0f} GFLOP/s in {precision}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table(title="A step, reward and end included; share of that rate")
    columns = ("kind", "batch", "passes", "first ms", "p50 ms", "p95 ms", "frames/s", "share", "MB")
    for column in columns:
        table.add_column(column, justify="left" if column == "kind" else "right")
    costs: dict[tuple[str, int, int], StepCost] = {}
    kinds = ("eager", "compiled") if config.compile else ("eager",)
    with Live(table, console=console):
        for kind, size in itertools.product(kinds, config.batch_sizes):
            rollout = begin(world, size, compiled=kind == "compiled")
            table.caption = f"A lane keeps {rollout.bytes_per_lane / 1e6:.2f} MB of past frames."
            for passes in config.passes:
                rollout.num_passes = passes
                cost = costs[kind, size, passes] = step_cost(rollout, config.seconds)
                table.add_row(
                    kind,
                    f"{size:,}",
                    str(passes),
                    f"{cost.first:,.0f}",
                    f"{cost.p50:,.1f}",
                    f"{cost.p95:,.1f}",
                    f"{1000 * size / cost.p50:,.0f}",
                    f"{cost.gflop / (cost.p50 / 1000) / rate:.0%}",
                    f"{cost.peak_mb:,.0f}",
                )
    return costs
