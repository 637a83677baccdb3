"""Memory: whether the world draws again what had been out of sight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worldsim.eval.memory import Remembered, remember

from .charts import Chart, Series, world_style
from .section import ENOUGH_EPISODES, Grade, Section, Verdict, count, plain
from .study import Study, num_batches

STEPS = 64
GAIN = 1.0  # dB: less than that an eye may miss


@dataclass(frozen=True)
class MemorySection(Section):
    """What comes back, by the most steps that it was out of sight.

    Attributes:
        by_age: The figures by steps; empty where nothing comes back.
    """

    by_age: dict[int, Remembered]

    key = "memory"
    title = "Memory"
    scale = (
        f"good if what comes back is {GAIN:g} dB better than without having been seen; else "
        "unclear, since many games ask for no memory"
    )

    @classmethod
    def measure(cls, study: Study) -> MemorySection:
        """Compare with the same world when it was shown only the newest frames."""
        near = study.held_out.first(study.num_windows, STEPS)
        with study.stage("measuring memory", num_batches(near) * near.horizon) as advance:
            return cls(
                remember(
                    study.world,
                    near,
                    study.imagined[:, : near.horizon],
                    study.background,
                    num_passes=study.num_passes,
                    seed=study.seed,
                    on_step=advance,
                )
            )

    def verdict(self) -> Verdict:
        """Find for how long things are remembered."""
        if not self.by_age:
            sentence = "Nothing that had been out of sight comes back here."
            return Verdict(Grade.NOT_MEASURED, sentence, "all windows")
        enough = {age: one for age, one in self.by_age.items() if one.episodes >= ENOUGH_EPISODES}
        if not enough:
            pixels = sum(one.pixels for one in self.by_age.values())
            episodes = max(one.episodes for one in self.by_age.values())
            return Verdict(
                Grade.UNCLEAR,
                "Too little to judge: few things that had been out of sight come back.",
                f"{count(pixels, 'pixel')} in {count(episodes, 'episode')} only",
            )
        gains = {age: one.world.value - one.forgetful.value for age, one in enough.items()}
        kept = [
            age
            for age, one in enough.items()
            if gains[age] > GAIN and one.world.low > one.forgetful.value
        ]
        age = max(kept) if kept else max(gains, key=lambda age: gains[age])
        one = enough[age]
        basis = f"{count(one.pixels, 'pixel')} in {count(one.episodes, 'episode')}"
        if not kept:
            return Verdict(
                Grade.UNCLEAR,
                "What comes back is not measurably better for having been seen before "
                f"({gains[age]:+.1f} dB at most): this game asks for no memory, or the world has "
                "none.",
                basis,
            )
        return Verdict(
            Grade.GOOD,
            f"What was out of sight for up to {age} steps comes back better for having been seen, "
            f"by {gains[age]:.1f} dB.",
            basis,
        )

    def lines(self) -> list[str]:
        """The figures by steps out of sight."""
        return [
            f"out of sight for up to {age} steps: world {one.world.value:.1f} dB, when made to "
            f"forget {one.forgetful.value:.1f}, background {one.median.value:.1f} "
            f"({one.pixels:,} pixels)"
            for age, one in self.by_age.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures by steps out of sight."""
        figures: dict[str, Any] = plain(self.by_age)
        return figures

    @classmethod
    def charts(cls, found: Mapping[str, MemorySection]) -> list[Chart]:
        """PSNR of what comes back, of the world and of the world made to forget."""
        ages = sorted({age for one in found.values() for age in one.by_age})
        if not ages:
            return []
        series = []
        for i, (name, one) in enumerate(found.items()):
            rows = [one.by_age.get(age) for age in ages]
            seen = [row.world if row else math.nan for row in rows]
            forgotten = [row.forgetful if row else math.nan for row in rows]
            series.append(Series(name, seen, world_style(i)))
            series.append(Series(f"{name}, forgetful", forgotten, f"{world_style(i)} pale"))
        groups = [f"≤ {age}" for age in ages]
        title = "PSNR of what comes back, dB"
        return [Chart(title, series, groups, x_label="steps out of sight", y_from=0)]

    @classmethod
    def notes(cls, found: Mapping[str, MemorySection]) -> list[str]:
        """What comes back, and what it is compared with."""
        return [
            "Pixels that show again what they showed before the world was left to itself, by how "
            "long they had been hidden. Pale: the same world, shown only frames in which they "
            "were hidden already."
        ]
