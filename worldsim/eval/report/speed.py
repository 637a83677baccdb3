"""Speed: how long a step takes, early and late in a rollout, and in how much memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.eval.speed import peak_memory, step_latency

from .charts import Chart, Series, world_style
from .section import UNSAVED, Grade, Section, Verdict, count
from .study import Study

SLOWER = 1.25  # times as long: a step that late
STYLES = ("", " dashed", " dotted")
BINS = 24


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of the steps that were timed at one place of a rollout.

    Attributes:
        steps: How many they are.
        p50: Median.
        p95: 95th percentile.
        ms: Each of them.
    """

    steps: int
    p50: float
    p95: float
    ms: NDArray[np.float64] = field(metadata=UNSAVED)

    @classmethod
    def of(cls, ms: NDArray[np.float64]) -> StepTimes:
        """Summarize times."""
        return cls(len(ms), float(np.percentile(ms, 50)), float(np.percentile(ms, 95)), ms)


@dataclass(frozen=True)
class SpeedSection(Section):
    """Times and memory of a step of a single lane.

    Attributes:
        step_ms: Times by steps after the reset.
        peak_mb: Most memory in use, in MB: of the process, or on its GPU.
        device: Where the world runs.
        threads: Threads of the CPU.
        game_fps: Frames a second of the game.
        frames: Those that a step predicts.
    """

    step_ms: dict[int, StepTimes]
    peak_mb: float
    device: str = field(metadata=UNSAVED)
    threads: int = field(metadata=UNSAVED)
    game_fps: float = field(metadata=UNSAVED)
    frames: int = field(metadata=UNSAVED)

    key = "speed"
    title = "Speed"
    scale = (
        f"good if it is as fast as the game, and late steps take less than {SLOWER:g} times as "
        "long as early ones; poor if it is less than half as fast as the game; else fair"
    )

    @classmethod
    def measure(cls, study: Study) -> SpeedSection:
        """Time steps early and late."""
        at = study.effort.latency_steps
        with study.stage("timing steps", max(at) + 1) as advance:
            times = step_latency(study.world, at, num_passes=study.num_passes, on_step=advance)
        return cls(
            step_ms={step: StepTimes.of(ms) for step, ms in times.items()},
            peak_mb=peak_memory(study.world.device),
            device=str(study.world.device),
            threads=torch.get_num_threads(),
            game_fps=study.world.game.fps,
            frames=study.world.patch_frames,
        )

    def verdict(self) -> Verdict:
        """Compare with the pace of the game, and late steps with early ones."""
        first, last = min(self.step_ms), max(self.step_ms)
        early, late = self.step_ms[first].p50, self.step_ms[last].p50
        fps = 1000 * self.frames / max(early, late)
        kind = "step" if self.frames == 1 else f"step of {self.frames} frames"
        grade = Grade.FAIR
        if fps >= self.game_fps and late < SLOWER * early:
            grade = Grade.GOOD
        elif fps < self.game_fps / 2:
            grade = Grade.POOR
        return Verdict(
            grade,
            f"A {kind} takes {early:.1f} ms on {self.device}, "
            f"{1000 * self.frames / early:.0f} frames a second "
            f"(the game has {self.game_fps:g}); at step {last:,} {late / early:.2f} times what it "
            f"takes at {first}.",
            f"medians of {count(self.step_ms[first].steps, 'step')}",
        )

    def lines(self) -> list[str]:
        """Times by place in the rollout, and memory."""
        lines = [
            f"step {step:>5,}: {times.p50:.1f} ms p50, {times.p95:.1f} ms p95 "
            f"({1000 * self.frames / times.p50:.0f} frames per second, {self.device}, "
            f"{self.threads} threads)"
            for step, times in self.step_ms.items()
        ]
        return [*lines, f"most memory in use: {self.peak_mb:,.0f} MB"]

    @classmethod
    def charts(cls, found: Mapping[str, SpeedSection]) -> list[Chart]:
        """How often a step takes how long."""
        timed = [times.ms for one in found.values() for times in one.step_ms.values()]
        every = np.concatenate(timed)
        edges = np.histogram_bin_edges(every[every <= np.percentile(every, 99)], BINS)
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        series = []
        for i, (name, one) in enumerate(found.items()):
            for k, (step, times) in enumerate(one.step_ms.items()):
                counts, _ = np.histogram(times.ms, edges)
                style = world_style(i) + STYLES[k % len(STYLES)]
                label = f"{name}, step {step:,}"
                series.append(Series(label, counts.tolist(), style, x=middles, marks=False))
        return [Chart("steps by their time", series, x_label="ms a step", y_from=0)]
