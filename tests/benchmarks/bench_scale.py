"""What training and serving cost on many GPUs, calculated: the tables of docs/scale.md.

    python tests/benchmarks/bench_scale.py [--help]

Parameters and operations are counted in the real network and objective. Bytes follow from how
`worldsim train` shards a run, times from the rates of a `Hardware`, which are measured or
published. Give those of your own: `--hardware.network 1.5e9`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script sees its own folder only

from tests.benchmarks.scale_counts import SHAPES, Counted, Load
from tests.benchmarks.scale_plan import BFLOAT16, Hardware, Plan, best_plan

Size = Literal["tiny", "small", "base", "large", "xl", "10 B"]
GB = 1e9
COUNTED_HEAD = (
    *("size", "width x depth", "parameters, B", "of Muon", "of a layer, M"),
    *("TFLOP a window", "layers computed again", "Muon, TFLOP a step"),
)
MEMORY_HEAD = ("gathered", "a window", "layers computed again")
SPEED_HEAD = (
    *("size", "GPUs", "parallel", "parts x windows", "GB", "compute, s", "communication, ms"),
    *("waiting, ms", "Muon, ms", "step, s", "efficiency", "frames/s", "GPU-hours"),
)
PLAYERS_HEAD = (
    *("M", "tokens", "rate", "share", "ms a frame", "MB a player", "at 20 Hz", "at 60 Hz"),
)


class Served(NamedTuple):
    """A measured step of lanes of one world, with 2 passes.

    Attributes:
        shape: Width, depth and heads.
        load: Its frames and patches.
        lanes: Players in one batch.
        seconds: Of a step.
        how: The card and the layers.
    """

    shape: dict[str, int]
    load: Load
    lanes: int
    seconds: float
    how: str

    def share(self, model: Counted, hardware: Hardware) -> float:
        """Share of the rate of large matrices that it reached."""
        return self.lanes * model.frame_flops(2) / self.seconds / hardware.matrices


SERVED = [  # LOG.md, "The engine on an H200" and "First runs on a GPU"; bfloat16
    Served(SHAPES["tiny"], Load((64, 64)), 1024, 9.09e-3, "H200, compiled"),
    Served(SHAPES["xl"], Load((64, 64), 4, 16), 8, 47e-3, "H100, not compiled"),
]


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |", flush=True)
    print()


def number(value: float) -> str:
    """A figure with two or three digits."""
    digits = max(0, 2 - max(0, math.floor(math.log10(value)))) if value > 0 else 0
    return f"{value:,.{digits}f}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def shapes_of(models: dict[str, Counted]) -> Iterator[list[str]]:
    """What is counted of each world."""
    for name, model in models.items():
        shape = f"{model.width} x {model.depth}"
        muon = sum(one.flops * one.count for one in model.matrices)
        yield [
            name,
            shape,
            f"{model.parameters / 1e9:.3f}",
            f"{model.by_muon / model.parameters:.1%}",
            number(model.block / 1e6),
            number(model.whole / 1e12),
            number(model.whole_again / 1e12),
            number(muon / 1e12),
        ]


def memory_of(
    models: dict[str, Counted], gpus: Sequence[int], hardware: Hardware
) -> Iterator[list[str]]:
    """Memory of a GPU by sharding, in GB."""
    for name, model in models.items():
        for parallel in ("ddp", "fsdp", "hsdp"):
            plans = [Plan(model, count, parallel, 1, False, hardware) for count in gpus]
            windows = (replace(plans[0], again=again).activations for again in (False, True))
            sizes = [one.state for one in plans]
            sizes += [plans[0].gathered, *windows]
            yield [name, parallel, *(number(size / GB) for size in sizes)]


def speed_of(
    models: dict[str, Counted], gpus: Sequence[int], hardware: Hardware
) -> Iterator[list[str]]:
    """Time and cost of a run by sharding."""
    for name, model in models.items():
        for count in gpus:
            for parallel in ("ddp", "fsdp", "hsdp"):
                plan = best_plan(model, count, parallel, hardware)
                if plan is None:
                    yield [name, str(count), parallel, "does not fit"]
                    continue
                frames = model.load.batch_size * model.load.window
                hours = plan.step * model.load.frames / frames / 3600
                yield [
                    name,
                    str(count),
                    parallel,
                    f"{plan.parts} x {plan.windows}" + " again" * plan.again,
                    number(plan.memory / GB),
                    number(plan.compute),
                    f"{1000 * plan.communication:,.0f}",
                    f"{1000 * plan.waiting:,.0f}",
                    f"{1000 * plan.muon:,.0f}",
                    number(plan.step),
                    f"{plan.efficiency:.0%}",
                    number(frames / plan.step),
                    number(count * hours),
                ]


def players_of(names: Sequence[str], load: Load, hardware: Hardware) -> Iterator[list[str]]:
    """Players of one GPU: of measured worlds, and of others by their operations.

    The share that those reach lies between the measured ones, in logarithms of share and width.
    """
    known = []
    for served in SERVED:
        model = Counted(served.shape, served.load)
        known.append((model.width, served.share(model, hardware)))
        yield players(model, known[-1][1], hardware, f"{served.lanes} lanes, {served.how}")
    (narrow, low), (wide, high) = known
    for name in names:
        model = Counted(SHAPES[name], load)
        slope = math.log(high / low) / math.log(wide / narrow)
        share = low * (min(model.width, wide) / narrow) ** slope
        yield players(model, share, hardware, "calculated")


def players(model: Counted, share: float, hardware: Hardware, how: str) -> list[str]:
    """Time of a frame of a player with 2 passes, and players at 20 and 60 frames a second."""
    h, w = model.load.frame_size
    lane = model.world.dit.new_cache(1, (h, w)).num_bytes / 2  # in bfloat16
    room = hardware.usable * hardware.memory - BFLOAT16 * model.parameters
    seconds = model.frame_flops(2) / hardware.matrices / share
    counts = [f"{math.floor(min(1 / fps / seconds, room / lane)):,}" for fps in (20, 60)]
    tokens = model.tokens // model.load.window
    figures = [number(1000 * seconds), number(lane / 1e6)]
    return [number(model.parameters / 1e6), str(tokens), how, f"{share:.0%}", *figures, *counts]


@dataclass(frozen=True)
class Options:
    """What training and serving cost on many GPUs, calculated."""

    shapes: tuple[Size, ...] = ("xl", "10 B")
    """Worlds that are trained, by their sizes."""
    gpus: tuple[int, ...] = (8, 64, 512)
    """Numbers of GPUs."""
    served: tuple[Size, ...] = ("base", "large", "xl", "10 B")
    """Worlds that are played, by their sizes."""
    load: Load = field(default_factory=Load)
    hardware: Hardware = field(default_factory=Hardware)


def main(options: Options) -> None:
    """Print the tables."""
    hardware = options.hardware
    models = {name: Counted(SHAPES[name], options.load) for name in options.shapes}
    table(COUNTED_HEAD, shapes_of(models))
    states = [f"state, {count} GPUs" for count in options.gpus]
    table(["size", "parallel", *states, *MEMORY_HEAD], memory_of(models, options.gpus, hardware))
    table(SPEED_HEAD, speed_of(models, options.gpus, hardware))
    table(PLAYERS_HEAD, players_of(options.served, options.load, hardware))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
