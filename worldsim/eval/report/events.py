"""Events: how rewards and ends are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worldsim.eval.events import STRETCH, EventSummary, Found, num_batches, predict, summarize

from .charts import Chart, Series, world_style
from .section import ENOUGH_EVENTS, Grade, Section, Verdict, count, plain
from .study import Study

GOOD, FAIR = 0.8, 0.5  # F1


@dataclass(frozen=True)
class EventsSection(Section):
    """Rewards and ends, predicted a few steps ahead.

    Attributes:
        found: The figures.
    """

    found: EventSummary

    key = "events"
    title = "Rewards and ends"
    scale = (
        f"good if F1 is {GOOD:g} or more, for the kind of event that is predicted worst; poor if "
        f"it is below {FAIR:g}; else fair"
    )

    @classmethod
    def measure(cls, study: Study) -> EventsSection:
        """Predict stretches of unseen play."""
        stretches = study.effort.event_stretches
        with study.stage("predicting events", num_batches(stretches)) as advance:
            return cls(
                summarize(
                    predict(
                        study.world,
                        study.recording,
                        study.episodes.unseen,
                        num_stretches=stretches,
                        num_passes=study.num_passes,
                        seed=study.seed,
                        on_step=advance,
                    )
                )
            )

    def kinds(self) -> dict[str, Found]:
        """The figures by kind of event."""
        return {
            "gains": self.found.reward_positive,
            "losses": self.found.reward_negative,
            "ends": self.found.termination,
        }

    def verdict(self) -> Verdict:
        """Judge F1 where there are enough events."""
        words, enough = [], []
        for name, one in self.kinds().items():
            if one.number >= ENOUGH_EVENTS:
                enough.append(one.f1)
                words.append(
                    f"{name} {one.f1:.2f} ({one.low:.2f} to {one.high:.2f}, of {one.number:,})"
                )
            elif one.number:
                words.append(f"{name} too few to judge ({one.number} only)")
            elif one.predicted:
                words.append(f"{name} that never came ({one.predicted:,} predicted)")
        number = sum(one.number for one in self.kinds().values())
        few = " only" * (number < ENOUGH_EVENTS)
        basis = f"{count(number, 'event')}{few} in {count(self.found.steps, 'step')}"
        if not words:
            sentence = "There are no rewards and no ends, and none are predicted."
            return Verdict(Grade.NOT_MEASURED, sentence, basis)
        grade = Grade.UNCLEAR
        if enough:
            worst = min(enough)
            grade = Grade.GOOD if worst >= GOOD else Grade.FAIR if worst >= FAIR else Grade.POOR
        sentence = f"Predicted up to {STRETCH} steps ahead, F1: {', '.join(words)}."
        return Verdict(grade, sentence, basis)

    def lines(self) -> list[str]:
        """Counts, precision and recall, rewards and calibration."""
        found = self.found
        return [
            f"rewards and ends predicted up to {STRETCH} steps ahead, {found.steps:,} steps: "
            + "; ".join(_line(name, one) for name, one in self.kinds().items()),
            f"mean reward a step {found.predicted_reward_mean:.4f} (recorded "
            f"{found.reward_mean:.4f}); probability of an end off by "
            f"{found.termination_calibration_error:.4f} on the average, Brier score "
            f"{found.termination_brier:.4f} (of the mean rate "
            f"{found.termination_brier_of_mean:.4f})",
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures themselves."""
        figures: dict[str, Any] = plain(self.found)
        return figures

    @classmethod
    def charts(cls, found: Mapping[str, EventsSection]) -> list[Chart]:
        """F1 by kind, and how often ends come by their predicted probability."""
        scores, curves = [], []
        for i, (name, one) in enumerate(found.items()):
            style, bins = world_style(i), one.found.termination_reliability
            scores.append(Series(name, [kind.f1 for kind in one.kinds().values()], style))
            happened = [point.happened for point in bins]
            curves.append(Series(name, happened, style, x=[point.predicted for point in bins]))
        kinds = list(next(iter(found.values())).kinds())
        return [
            Chart(f"F1, up to {STRETCH} steps ahead", scores, kinds, y_from=0, y_to=1),
            Chart(
                "ends: frequency by predicted probability",
                curves,
                x_label="predicted probability",
                y_from=0,
                y_to=1,
                diagonal=True,
            ),
        ]


def _line(name: str, found: Found) -> str:
    if not found.number:
        return f"{name}: none, {found.predicted:,} predicted"
    if not found.predicted:
        return f"{name}: {found.number:,}, none predicted"
    return (
        f"{name}: {found.number:,}, precision {found.precision:.2f}, recall "
        f"{found.recall:.2f}, F1 {found.f1:.2f} ({found.low:.2f} to {found.high:.2f})"
    )
