"""`worldsim bench`: what a step inside a world costs on this machine."""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from worldsim.options import Count, Passes, Seconds, Threads, parse
from worldsim.rollout import Rollout
from worldsim.threads import use_threads
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

WARM_UP = 3  # steps that are not timed


@dataclass(frozen=True)
class BenchConfig:
    """Time the steps of a world: milliseconds, frames a second, share of the machine's rate."""

    world: tyro.conf.Positional[str]
    """A world that ships (pong, maze, balls), or the folder of a world or of a run."""
    batch_sizes: tuple[Count, ...] = (1, 8, 32, 128)
    """Sessions stepped together, each a line of the table."""
    passes: tuple[Passes, ...] = (1, 2, 4)
    """Denoising passes a frame, each a line of the table."""
    seconds: Seconds = 2.0
    """How long each line is measured, about; two steps at least."""
    threads: Threads = 1
    """Threads of the CPU; for small worlds one is fastest."""
    device: str | None = None
    """Where the world runs, such as cpu or cuda; none: a GPU if there is one."""
    compile: bool = False
    """Time the compiled network as well; compiling takes a minute or so."""


class StepCost(NamedTuple):
    """What a step of a batch of sessions costs, reward and end included.

    Attributes:
        p50: Milliseconds, median.
        p95: Milliseconds, 95th percentile.
        gflop: Arithmetic of the network's products and convolutions, in 10^9 operations.
        peak_mb: Most memory in use up to now, in MB: of the process, or on its GPU.
    """

    p50: float
    p95: float
    gflop: float
    peak_mb: float


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: What follows ``worldsim bench``.

    Returns:
        The exit status.

    Raises:
        ValueError: In one sentence, if the world or an option does not serve.
    """
    bench(parse(BenchConfig, argv, "worldsim bench"))
    return 0


def bench(config: BenchConfig) -> dict[tuple[str, int, int], StepCost]:
    """Time steps and print a table that grows as it is measured.

    Args:
        config: What to time.

    Returns:
        What a step costs by kind ("eager" or "compiled"), batch size and passes.

    Raises:
        ValueError: If there is no such world or an option is out of range.
    """
    use_threads(config.threads)
    world = load(config.world, device=config.device)
    rate = matrix_rate(world.device)
    console = Console()
    height, width = world.game.frame_size
    parameters = sum(parameter.numel() for parameter in world.parameters())
    where = f"{config.threads} thread{'s' * (config.threads > 1)} of the CPU"
    if world.device.type == "cuda":
        where = torch.cuda.get_device_name(world.device)
    console.print(
        f"{config.world}: {parameters / 1e6:.2f} M parameters, {height}x{width}, on {where}, "
        f"which multiplies large matrices at {rate:,.0f} GFLOP/s in single precision",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table(title="A step, reward and end included")
    for column in ("kind", "batch", "passes", "p50 ms", "p95 ms", "frames/s", "of the rate", "MB"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    costs: dict[tuple[str, int, int], StepCost] = {}
    kinds = ("eager", "compiled") if config.compile else ("eager",)
    with Live(table, console=console):
        for kind, size in itertools.product(kinds, config.batch_sizes):
            rollout = begin(world, size, compiled=kind == "compiled")
            for passes in config.passes:
                rollout.num_passes = passes
                cost = costs[kind, size, passes] = step_cost(rollout, config.seconds)
                table.add_row(
                    kind,
                    f"{size:,}",
                    str(passes),
                    f"{cost.p50:,.1f}",
                    f"{cost.p95:,.1f}",
                    f"{1000 * size / cost.p50:,.0f}",
                    f"{cost.gflop / (cost.p50 / 1000) / rate:.0%}",
                    f"{cost.peak_mb:,.0f}",
                )
    return costs


def begin(world: WorldModel, batch_size: int, *, compiled: bool = False) -> Rollout:
    """Sessions from the world's starts in turn."""
    rows = np.arange(batch_size) % len(world.starts.frames)
    rollout = Rollout(world, batch_size, compiled=compiled)
    rollout.reset(world.starts.frames[rows], world.starts.actions[rows], range(batch_size))
    return rollout


def step_cost(rollout: Rollout, seconds: float) -> StepCost:
    """Time the steps of sessions under random actions for about so many seconds."""
    world, size = rollout.world, rollout.batch_size
    rng = np.random.default_rng(0)

    def play() -> float:
        actions = rng.integers(world.game.num_actions, size=size)
        begun = time.perf_counter()
        rollout.step(actions)  # ends on the CPU, so a GPU has finished by then
        return 1000 * (time.perf_counter() - begun)

    alone = begin(world, 1)  # eager, since the counter does not see into what is compiled
    alone.num_passes = rollout.num_passes
    with FlopCounterMode(display=False) as counter:
        alone.step(np.zeros(1, np.int64))
    for _ in range(WARM_UP):
        play()
    times: list[float] = []
    while len(times) < 2 or sum(times) < 1000 * seconds:
        times.append(play())
    return StepCost(
        p50=float(np.percentile(times, 50)),
        p95=float(np.percentile(times, 95)),
        gflop=1e-9 * size * counter.get_total_flops(),
        peak_mb=peak_memory(world.device),
    )


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure how fast large matrices are multiplied, in GFLOP per second of the clock."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        begun = clock()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(clock() - begun)
    return 2e-9 * side**3 / float(np.median(times))


def peak_memory(device: torch.device) -> float:
    """Most memory in use up to now, in MB (10^6 bytes): of the process, or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
