"""What one layer of attention costs by its pattern, from 256 to 65,536 patches.

python tests/benchmarks/bench_patterns.py [--out FOLDER] [--device cuda]

Time and space grow by turns: 4 frames of 8x8 patches, 16 of 8x8, 16 of 16x16, 64 of 16x16, 64 of
32x32, with 4 special tokens a frame. The window is the whole sequence. Each figure is of the whole
layer: norm, projections, rotations and attention, on one thread. Time is the best of three runs,
on a CPU that of the thread. Writes patterns.md, patterns.json and patterns.svg. On CUDA, patterns
are FlexAttention.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.memory import allocated_peak
from worldsim.model.dit import Block
from worldsim.model.dit_config import DiTConfig
from worldsim.model.layers import Places, space_rotation, spacetime_rotation, time_rotation
from worldsim.model.layout import Layout
from worldsim.video.flops import count

PATTERNS = ("full", "full:near=4", "space", "time", "space+time", "local", "strided")
LAYOUTS = [Layout(t, side, side, 4) for t, side in ((4, 8), (16, 8), (16, 16), (64, 16), (64, 32))]
QUANTITIES = {
    "attention": "attention, GFLOP",
    "total": "layer, GFLOP",
    "forward_ms": "forward, ms",
    "forward_mb": "forward, MB",
    "backward_ms": "forward and backward, ms",
    "backward_mb": "forward and backward, MB",
}


class Cost(NamedTuple):
    """Cost of a layer for a sequence; None was not run."""

    pattern: str
    patches: int
    attention: float
    total: float
    forward_ms: float | None = None
    forward_mb: float | None = None
    backward_ms: float | None = None
    backward_mb: float | None = None


class Layer(nn.Module):
    """The attention of a block, for one sequence (1 t n d)."""

    def __init__(self, pattern: str, width: int, layout: Layout) -> None:
        super().__init__()
        config = DiTConfig(
            num_actions=1, width=width, depth=1, window=layout.times, attention=(pattern,)
        )
        block, self.layout, self.dim = Block(config, pattern), layout, width // config.num_heads
        self.parts = nn.ModuleList(part for part in (block.space, block.time) if part is not None)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add the residuals of attention."""
        positions = torch.arange(self.layout.times, device=tokens.device)
        distance = positions[:, None] - positions

        def rotations(dim: int) -> tuple[torch.Tensor, torch.Tensor]:
            special = self.layout.num_special
            sizes = self.layout.rows, self.layout.columns, special, dim
            return space_rotation(tokens.device, *sizes), time_rotation(positions[None], dim)

        both = spacetime_rotation(*rotations(self.dim // 2))
        places = Places(self.layout, *rotations(self.dim), distance >= 0, both)
        for part in self.parts:
            (residual,) = part([tokens], [places])
            tokens = tokens + residual
        return tokens


def measure(pattern: str, layout: Layout, width: int, device: str, max_flop: float) -> Cost:
    """Count a layer, and run it where it takes no more than ``max_flop`` operations."""
    torch.manual_seed(0)
    layer = Layer(pattern, width, layout).to(device)
    shape = 1, layout.times, layout.tokens_per_time, width

    def run(backward: bool) -> None:
        tokens = torch.zeros(shape, device=device, requires_grad=backward)
        out = layer(tokens)
        if backward:
            out.sum().backward()
        if device != "cpu":
            torch.cuda.synchronize()

    cpu_layer = Layer(pattern, width, layout)  # its tables are made before they are counted
    small = layout._replace(times=1)
    with torch.no_grad():
        Layer(pattern, width, small)(torch.zeros(1, 1, layout.tokens_per_time, width))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        counted = count(lambda: cpu_layer(torch.zeros(shape)), fake, batched_is_attention=True)
    total = counted.attention + counted.rest
    cost = Cost(pattern, layout.times * layout.num_patches, counted.attention, total)
    figures: dict[str, float] = {}
    for name, backward in (("forward", False), ("backward", True)):
        if total * (3 if backward else 1) <= max_flop:
            call = functools.partial(run, backward)
            with torch.set_grad_enabled(backward):
                figures[f"{name}_ms"] = 1e3 * best_time(call, device)
            figures[f"{name}_mb"] = peak(call, backward, device) / 1e6
    return cost._replace(**figures)


def best_time(call: Callable[[], None], device: str) -> float:
    """Seconds of the best of three runs, of one if it takes more than three."""
    # Time of the one thread, since other work on the machine is not the layer's.
    clock = time.process_time if device == "cpu" else time.perf_counter
    call()
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 3:
        begin = clock()
        call()
        seconds.append(clock() - begin)
    return min(seconds)


def peak(call: Callable[[], None], with_gradients: bool, device: str) -> int:
    """The most bytes that are allocated at once, without the weights."""
    if device == "cpu":
        return allocated_peak(call, with_gradients)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.set_grad_enabled(with_gradients):
        call()
    return torch.cuda.max_memory_allocated() - before


def table(costs: list[Cost]) -> str:
    """Markdown: a table for each quantity, a row per pattern, a column per number of patches."""
    sizes = sorted({cost.patches for cost in costs})
    lines = []
    for field, title in QUANTITIES.items():
        lines += [f"| {title} | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
        lines += ["|---" * (1 + len(sizes)) + "|"]
        for pattern in PATTERNS:
            of_size = {c.patches: getattr(c, field) for c in costs if c.pattern == pattern}
            cells = [shown(of_size.get(size), field in ("attention", "total")) for size in sizes]
            lines += [f"| {pattern} | " + " | ".join(cells) + " |"]
        lines += [""]
    return "\n".join(lines)


def shown(value: float | None, is_flop: bool) -> str:
    """A figure of three digits."""
    if value is None:
        return "not run"
    value = value / 1e9 if is_flop else value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(costs: list[Cost], path: Path) -> None:
    """Draw FLOPs, time and memory over the number of patches, with lines of N and of N squared."""
    import matplotlib

    matplotlib.use("Agg")  # before pyplot, which otherwise looks for a display
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "worldsim"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    for axis, field, scale in zip(
        axes, ("attention", "forward_ms", "forward_mb"), (1e-9, 1, 1), strict=True
    ):
        for pattern in PATTERNS:
            own = [c for c in costs if c.pattern == pattern and getattr(c, field) is not None]
            values = [scale * getattr(c, field) for c in own]
            axis.plot([c.patches for c in own], values, "o-", markersize=3.5, label=pattern)
        sizes = sorted({cost.patches for cost in costs})
        # Through the last point of full and of local attention.
        for power, style, pattern in ((1, ":", "local"), (2, "--", "full")):
            last = [c for c in costs if c.pattern == pattern and getattr(c, field) is not None][-1]
            factor = scale * getattr(last, field)
            line = [factor * (size / last.patches) ** power for size in sizes]
            label = ("N", "N²")[power - 1]
            axis.plot(sizes, line, style, color="grey", linewidth=1, label=label, zorder=0)
        axis.set(xscale="log", yscale="log", xticks=sizes, xlabel="patches (N)")
        axis.set_xticks([], minor=True)
        axis.set_xticklabels([f"{size:,}" for size in sizes], fontsize=8)
        axis.set_title(QUANTITIES[field], fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(out: Path = Path(), device: str = "cpu", width: int = 128, max_flop: float = 2e12) -> None:
    """Measure all patterns.

    Args:
        out: A folder for the table, the figures and the picture.
        device: cpu or cuda.
        width: Channels of a token, in heads of a quarter.
        max_flop: Operations of a run above which it is not run.
    """
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    costs: list[Cost] = []
    for layout in LAYOUTS:
        for pattern in PATTERNS:
            costs.append(measure(pattern, layout, width, device, max_flop))
            print(costs[-1], f"load {os.getloadavg()[0]:.1f}", flush=True)
        (out / "patterns.json").write_text(json.dumps([c._asdict() for c in costs], indent=1))
        (out / "patterns.md").write_text(table(costs))
    draw(costs, out / "patterns.svg")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
