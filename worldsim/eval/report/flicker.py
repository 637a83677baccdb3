"""Flicker: whether imagined videos flicker or blur where they move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldsim.eval.bootstrap import Estimate
from worldsim.eval.flicker import Flicker, flicker
from worldsim.eval.held_out import HeldOutWindows

from .charts import Chart, Series, world_style
from .section import ENOUGH_EPISODES, Grade, Section, Verdict, count, plain, with_band
from .study import Advance, Frames, Study

STEPS = 32
TOO_MUCH = 1.25  # times the real warping error
FAR_TOO_MUCH = 2.0
SEEN = 0.2  # of 255 over a frame: less flicker than that is not seen


@dataclass(frozen=True)
class FlickerSection(Section):
    """Flow warping errors of real and imagined videos.

    Attributes:
        found: The figures.
    """

    found: Flicker

    key = "flicker"
    title = "Flicker"
    scale = (
        "good if an eye cannot see more warping error than the game has; poor if there is "
        f"{FAR_TOO_MUCH:g} times as much or more; else fair"
    )

    @classmethod
    def measure(cls, study: Study) -> FlickerSection:
        """Follow the flow of the first windows."""
        some = study.held_out.first(study.effort.flicker_windows, STEPS)
        with study.stage("measuring flicker", 2 * len(some.real)) as advance:
            return cls.of(some, study.imagined, advance)

    @classmethod
    def of(
        cls, some: HeldOutWindows, imagined: Frames, on_video: Advance | None = None
    ) -> FlickerSection:
        """Measure windows and the beginning of what was imagined for them (b t h w c)."""
        shown = imagined[: len(some.real), : some.horizon]
        return cls(
            flicker(
                some.with_context(some.real, 1),
                some.with_context(shown, 1),
                some.episodes,
                on_video,
            )
        )

    def verdict(self) -> Verdict:
        """Compare the warping errors."""
        real, ours = self.found.warping_error_real.value, self.found.warping_error_world
        ratio, episodes = self.found.ratio, self.found.episodes
        few = episodes < ENOUGH_EPISODES
        basis = f"videos of {count(episodes, 'episode')}{' only' * few}"
        if not math.isfinite(ratio):
            return Verdict(Grade.NOT_MEASURED, "Nothing moves in these videos.", basis)
        figures = f"its warping error is {ours.value:.2f} of 255, the game's {real:.2f}"
        if few:
            return Verdict(Grade.UNCLEAR, f"Too few episodes to judge: {figures}.", basis)
        if ratio > TOO_MUCH and ours.value - real > SEEN and ours.low > real:
            grade = Grade.POOR if ratio >= FAR_TOO_MUCH else Grade.FAIR
            return Verdict(grade, f"It flickers or blurs where it moves: {figures}.", basis)
        if ratio < 1 / TOO_MUCH and ours.high < real:
            sentence = f"It is calmer than the game, so something may be missing: {figures}."
            return Verdict(Grade.FAIR, sentence, basis)
        return Verdict(Grade.GOOD, f"No more flicker than an eye can see: {figures}.", basis)

    def lines(self) -> list[str]:
        """The warping errors."""
        return [
            f"flow warping error: world {with_band(self.found.warping_error_world)}, game "
            f"{with_band(self.found.warping_error_real)} of 255"
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures themselves."""
        figures: dict[str, Any] = plain(self.found)
        return figures

    @classmethod
    def charts(cls, found: Mapping[str, FlickerSection]) -> list[Chart]:
        """Warping error and flow, real and imagined."""
        first = next(iter(found.values())).found

        def bars(title: str, real: Estimate, ours: Sequence[Estimate]) -> Chart:
            series = [Series("real", [real], "real")]
            series += [
                Series(name, [value], world_style(i))
                for i, (name, value) in enumerate(zip(found, ours, strict=True))
            ]
            return Chart(title, series, groups=[""], y_from=0)

        every = [one.found for one in found.values()]
        return [
            bars(
                "flow warping error, values of 255",
                first.warping_error_real,
                [one.warping_error_world for one in every],
            ),
            bars("mean flow, pixels a step", first.flow_real, [one.flow_world for one in every]),
        ]

    @classmethod
    def notes(cls, found: Mapping[str, FlickerSection]) -> list[str]:
        """What the error is."""
        return [
            "Flow warping error (Lai et al. 2018): mean difference between a frame and the one "
            "before it, moved along the optical flow, in values of 255."
        ]
