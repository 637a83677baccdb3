"""Drift: whether long rollouts still look like the game."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from worldsim.eval.bootstrap import Estimate
from worldsim.eval.drift import drift

from .charts import Chart, Series, world_style
from .section import ENOUGH_EPISODES, Grade, Section, Verdict, count, with_band
from .study import Study

ENOUGH_ROLLOUTS = 4  # with fewer, an interval over rollouts means little
RISE = 0.1  # of the held-out distance, over a thousand steps
FAR = 2.0  # times the held-out distance
FEW, MANY = 0.8, 1.25  # objects, over those of the recording
RESTS = 0.5  # motion, over that of the recording


@dataclass(frozen=True)
class DriftSection(Section):
    """Long rollouts, part by part.

    Attributes:
        steps: Last step of each part.
        nearest: Distance to the nearest recorded frame, mean over the rollouts.
        nearest_low: The smallest of the rollouts.
        nearest_high: The largest.
        objects: Pixels unlike the background, over those of the recording.
        objects_at_last: The same in the last part, with a confidence interval over the rollouts.
        motion: Pixels that change in a step, over those of the recording.
        motion_at_last: The same in the last part, with a confidence interval over the rollouts.
        still_db: PSNR of what never moves against the background, in dB.
        held_out_nearest: Distance of held-out frames to the nearest recorded ones.
        slope_per_1000_steps: How much farther each 1,000 steps lead.
        rollouts: How many rollouts were played.
        episodes: How many episodes they are compared with.
        ends: Episodes that the world ended.
    """

    steps: list[int]
    nearest: list[float]
    nearest_low: list[float]
    nearest_high: list[float]
    objects: list[float]
    objects_at_last: Estimate
    motion: list[float]
    motion_at_last: Estimate
    still_db: list[float]
    held_out_nearest: float
    slope_per_1000_steps: Estimate
    rollouts: int
    episodes: int
    ends: int

    key = "stability"
    title = "Drift"
    scale = (
        "good if it does not drift and things do not vanish, multiply or come to rest; fair with "
        f"one of these faults; poor with more, or with frames {FAR:g} times as far from the "
        "recording as real ones"
    )

    @classmethod
    def measure(cls, study: Study) -> DriftSection:
        """Play long rollouts under recorded actions."""
        rollouts, last = study.effort.drift_rollouts, study.effort.drift_bounds[-1]
        with study.stage(f"playing {rollouts} rollouts of {last:,} steps", last) as advance:
            played = drift(
                study.world,
                study.recording,
                study.episodes,
                background=study.background,
                bounds=study.effort.drift_bounds,
                num_lanes=rollouts,
                num_passes=study.num_passes,
                seed=study.seed,
                on_step=advance,
            )
        return cls(
            steps=played.steps,
            nearest=played.nearest.mean(1).tolist(),
            nearest_low=played.nearest.min(1).tolist(),
            nearest_high=played.nearest.max(1).tolist(),
            objects=played.objects.mean(1).tolist(),
            objects_at_last=played.at_last(played.objects),
            motion=played.motion.mean(1).tolist(),
            motion_at_last=played.at_last(played.motion),
            still_db=played.still.tolist(),
            held_out_nearest=played.held_out_nearest,
            slope_per_1000_steps=played.slope,
            rollouts=rollouts,
            episodes=len(study.episodes.unseen),
            ends=played.ends,
        )

    def verdict(self) -> Verdict:
        """Name the faults that the confidence intervals bear out."""
        few = self.rollouts < ENOUGH_ROLLOUTS or self.episodes < ENOUGH_EPISODES
        basis = (
            f"{count(self.rollouts, 'rollout')}{' only' * (self.rollouts < ENOUGH_ROLLOUTS)} "
            f"beside {count(self.episodes, 'episode')}"
            f"{' only' * (self.episodes < ENOUGH_EPISODES)}"
        )
        early = self.steps.index(100) if 100 in self.steps else 0
        figures = (
            f"after {self.steps[-1]:,} steps its frames are {self.nearest[-1]:.1f} from the "
            f"nearest recorded ones ({self.nearest[early]:.1f} at step {self.steps[early]}, real "
            f"frames {self.held_out_nearest:.1f})"
        )
        if few:
            return Verdict(Grade.UNCLEAR, f"Too little play to judge: {figures}.", basis)
        faults, far = self._faults()
        slope = self.slope_per_1000_steps
        if not faults and not slope.high <= RISE * self.held_out_nearest:  # nan: no slope
            return Verdict(Grade.UNCLEAR, f"Too little play to judge: {figures}.", basis)
        start = " and ".join(faults) if faults else "it does not drift"
        grade = (Grade.GOOD, Grade.FAIR, Grade.POOR)[2 if far else min(2, len(faults))]
        return Verdict(grade, f"{start[0].upper()}{start[1:]}: {figures}.", basis)

    def _faults(self) -> tuple[list[str], bool]:
        """What is wrong, and whether the frames are far from those of the game."""
        slope, floor = self.slope_per_1000_steps, self.held_out_nearest
        far = self.nearest[-1] > FAR * floor + 1
        faults = []
        if slope.low > 0 and slope.value > RISE * floor:
            faults.append("it drifts")
        elif far:
            faults.append("its frames are unlike those of the game")
        objects, motion = self.objects_at_last, self.motion_at_last
        if objects.value < FEW and objects.high < 1:
            faults.append(f"things vanish ({objects.value:.2f} of them are left)")
        if MANY < objects.value < math.inf and objects.low > 1:
            faults.append(f"things multiply (to {objects.value:.2f} of them)")
        if motion.value < RESTS and motion.high < 1:
            faults.append(f"it comes to rest ({motion.value:.2f} of the motion is left)")
        return faults, far

    def lines(self) -> list[str]:
        """Slope and objects."""
        slope = self.slope_per_1000_steps
        objects = ", ".join(
            f"{value:.2f} at {step:,}"
            for step, value in zip(self.steps, self.objects, strict=True)
            if math.isfinite(value)
        )
        drifts = f"drift: {with_band(slope)} a thousand steps; "
        return [
            (drifts if math.isfinite(slope.value) else "")
            + f"objects {objects or 'undefined, since the recording shows none'}"
        ]

    @classmethod
    def charts(cls, found: Mapping[str, DriftSection]) -> list[Chart]:
        """Distance, objects and motion by step."""
        floor = next(iter(found.values())).held_out_nearest
        distances, objects, motion = [], [], []
        for i, (name, one) in enumerate(found.items()):
            style = world_style(i)
            near = zip(one.nearest, one.nearest_low, one.nearest_high, strict=True)
            distances.append(Series(name, [Estimate(*ends) for ends in near], style, x=one.steps))
            objects.append(Series(name, one.objects, style, x=one.steps))
            motion.append(Series(name, one.motion, style, x=one.steps))
        along = "steps of a rollout"
        return [
            Chart(
                "distance to the recording",
                distances,
                x_label=along,
                line=(floor, "held-out frames"),
                y_from=0,
            ),
            Chart("objects", objects, x_label=along, line=(1.0, "recorded play"), y_from=0),
            Chart("motion", motion, x_label=along, line=(1.0, "recorded play"), y_from=0),
        ]

    @classmethod
    def notes(cls, found: Mapping[str, DriftSection]) -> list[str]:
        """What is measured."""
        return [
            "Distance to the nearest recorded frame at 16 by 16 pixels, in values of 255; the "
            "shade spans the rollouts. Objects and motion: pixels unlike the background, and "
            "pixels that change in a step, over those of the recording."
        ]
