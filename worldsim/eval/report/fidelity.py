"""Fidelity: how close predictions are to the real frames, beside baselines and the real game."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldsim.eval.fidelity import (
    HorizonScores,
    fidelity,
    frechet,
    frechet_video_distance,
    load_lpips,
    with_baselines,
)
from worldsim.eval.inverse_dynamics import FRAMES, recognise
from worldsim.eval.real_game import CannotReplayError, replay

from .charts import Chart, Series, world_style
from .section import ENOUGH_EPISODES, UNSAVED, Grade, Section, Verdict, basis_of, plain
from .study import Frames, Study

AS_GOOD = 1.0  # dB: a difference in PSNR that an eye may miss
CLEAR = 3.0  # dB: half the squared error
SOON = 16  # steps: the horizon of the headline, or the nearest to it
PERFECT = 58.0  # dB: equal but for rounding

BASELINES = {
    "game_again": ("real game again", "real"),
    "copy_last": ("last frame copied", "baseline dashed"),
    "median": ("background", "baseline dotted"),
}
METRICS = {
    "psnr_moving": "PSNR on moving pixels, dB",
    "ssim_moving": "SSIM on moving pixels",
    "psnr": "PSNR on all pixels, dB",
    "ssim": "SSIM on all pixels",
    "lpips": "LPIPS (lower is better)",
}


@dataclass(frozen=True)
class Frechet:
    """Distances to recorded play over features of triples of frames: neither FID nor FVD."""

    held_out: float
    world: float
    copy_last: float


@dataclass(frozen=True)
class Lead:
    """How much closer a world is than the better baseline, on moving pixels after some steps.

    Attributes:
        horizon: The steps.
        world: PSNR of the world, in dB.
        baseline: PSNR of the better baseline, in dB.
        sure: Whether the whole confidence interval of the world lies above the baseline.
    """

    horizon: int
    world: float
    baseline: float
    sure: bool

    @property
    def value(self) -> float:
        """The lead, in dB."""
        return self.world - self.baseline


@dataclass(frozen=True)
class FidelitySection(Section):
    """Figures by horizon.

    Attributes:
        windows: How many windows were predicted.
        episodes: How many episodes they are of.
        horizons: Scores of the world, the baselines and, where it can be had, of the real game
            played again with another seed.
        frechet: Frechet distances.
        fvd: Frechet video distance; None without its network.
        no_game_again: Why the real game was not played again; empty where it was.
        no_lpips: Why LPIPS was not measured; empty where it was.
    """

    windows: int = field(metadata=UNSAVED)
    episodes: int = field(metadata=UNSAVED)
    horizons: dict[int, HorizonScores]
    frechet: Frechet
    fvd: float | None
    no_game_again: str
    no_lpips: str

    key = "fidelity"
    title = "Fidelity"
    scale = (
        f"good if it is closer than both baselines at every horizon up to {SOON}, and there by "
        f"{CLEAR:g} dB or more; poor if it is closer at none; else fair"
    )

    @classmethod
    def measure(cls, study: Study) -> FidelitySection:
        """Compare the rollout, the baselines and the real game with what really followed."""
        predictions = with_baselines(study.imagined, study.held_out, study.background)
        no_game_again = ""
        try:
            predictions["game_again"] = _play_again(study)
        except CannotReplayError as error:
            no_game_again = str(error)
        lpips, no_lpips = load_lpips()
        real, imagined = study.held_out.real, study.imagined
        return cls(
            windows=study.num_windows,
            episodes=study.num_episodes,
            horizons=fidelity(
                predictions, study.held_out, study.background, study.effort.horizons, lpips=lpips
            ),
            frechet=_frechet(study),
            fvd=None if study.i3d is None else frechet_video_distance(study.i3d, real, imagined),
            no_game_again=no_game_again,
            no_lpips=no_lpips,
        )

    def leads(self) -> dict[int, Lead]:
        """The lead over the better baseline by horizon, where something moves."""
        leads = {}
        for horizon, scores in self.horizons.items():
            world = scores.psnr_moving["world"]
            baseline = max(scores.psnr_moving[name].value for name in ("copy_last", "median"))
            if math.isfinite(world.value):
                leads[horizon] = Lead(horizon, world.value, baseline, world.low > baseline)
        return leads

    def headline(self) -> Lead | None:
        """The lead about 16 steps ahead; None where nothing moves."""
        leads = self.leads()
        return min(leads.values(), key=lambda lead: abs(lead.horizon - SOON)) if leads else None

    def verdict(self) -> Verdict:
        """Judge the lead on moving pixels."""
        basis, leads, soon = basis_of(self.windows, self.episodes), self.leads(), self.headline()
        if soon is None:
            sentence = "Nothing moves in these windows, so there is nothing to predict."
            return Verdict(Grade.NOT_MEASURED, sentence, basis)
        if self.episodes < ENOUGH_EPISODES:
            closer = "closer to" if soon.value >= 0 else "farther from"
            return Verdict(
                Grade.UNCLEAR,
                f"Too few episodes to judge: after {soon.horizon} steps the moving pixels are "
                f"{abs(soon.value):.1f} dB {closer} the real game than the better baseline.",
                basis,
            )
        sure = [lead.horizon for lead in leads.values() if lead.sure]
        if not sure:
            sentence = (
                "At no horizon is it measurably closer to the real game than the better baseline."
            )
            return Verdict(Grade.POOR, sentence, basis)
        until = max((h for h in leads if all(k in sure for k in leads if k <= h)), default=0)
        shown = leads[min(sure, key=lambda horizon: abs(horizon - SOON))]
        good = until >= min(SOON, max(leads)) and soon.value >= CLEAR
        where = f"up to step {until}" if until else "at some horizons"
        return Verdict(
            Grade.GOOD if good else Grade.FAIR,
            f"On moving pixels it is closer to the real game than both baselines {where}, by "
            f"{shown.value:.1f} dB after {shown.horizon}.{self._beside_the_game(shown.horizon)}",
            basis,
        )

    def _beside_the_game(self, horizon: int) -> str:
        """How much of the error is due to randomness of the game, in a sentence after a space."""
        again = {
            h: (scores.psnr_moving["game_again"].value, scores.psnr_moving["world"].value)
            for h, scores in self.horizons.items()
            if "game_again" in scores.psnr_moving and h in self.leads()
        }
        if not again:
            return ""
        if all(game > PERFECT for game, _ in again.values()):
            return (
                " The real game, played again with another seed, shows the same frames, so every "
                "error is the world's own."
            )
        gaps = {h: game - world for h, (game, world) in again.items()}
        reached = [h for h, gap in gaps.items() if gap <= AS_GOOD]
        rest = f"and no closer after {min(reached)}" if reached else "and closer at every step"
        return (
            f" The real game, played again with another seed, is {gaps[horizon]:.1f} dB closer "
            f"after {horizon} steps, {rest}."
        )

    def lines(self) -> list[str]:
        """Figures beside the table of `text.table_of`."""
        lines = [
            "moving: pixels where the real or the last given frame differs from the background of "
            "the (first) world, the median frame of what it was trained on; game again: the real "
            "game, played on from there with another seed; last copied: the last given frame"
        ]
        lines += [f"Note: {why}" for why in (self.no_game_again, self.no_lpips) if why]
        similar = [
            f"{scores.ssim_moving['world'].value:.3f} at {horizon}"
            for horizon, scores in self.horizons.items()
            if math.isfinite(scores.ssim_moving["world"].value)
        ]
        lines += [f"SSIM on moving pixels: {', '.join(similar)}"] if similar else []
        if math.isfinite(self.frechet.world):
            lines.append(
                "Frechet distance of features of three frames (neither FID nor FVD): world "
                f"{self.frechet.world:.3g}, held-out {self.frechet.held_out:.3g}, copy-last "
                f"{self.frechet.copy_last:.3g}"
            )
        if self.fvd is not None:
            lines.append(f"FVD of clips of 16 frames: {self.fvd:.1f}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Every figure; metrics that were not measured are left out."""
        by_horizon = {
            str(horizon): {"moving_fraction": scores.moving_fraction, **scores.by_metric()}
            for horizon, scores in self.horizons.items()
        }
        return {**super().to_json(), "horizons": plain(by_horizon)}

    @classmethod
    def charts(cls, found: Mapping[str, FidelitySection]) -> list[Chart]:
        """A chart for each metric, by horizon."""
        first = next(iter(found.values()))
        charts = []
        for metric, title in METRICS.items():
            curves = {h: s.by_metric().get(metric) for h, s in first.horizons.items()}
            if not all(curves.values()):
                continue
            series = [
                Series(label, [scores[name] for scores in curves.values() if scores], style, x=h)
                for name, (label, style) in BASELINES.items()
                if all(scores and name in scores for scores in curves.values())
                for h in [list(curves)]
            ]
            for i, (name, one) in enumerate(found.items()):
                values = [scores.by_metric()[metric]["world"] for scores in one.horizons.values()]
                series.append(Series(name, values, world_style(i), x=list(one.horizons)))
            charts.append(Chart(title, series, x_label="steps ahead", log_x=True))
        return charts

    @classmethod
    def notes(cls, found: Mapping[str, FidelitySection]) -> list[str]:
        """Bands, moving pixels, what could not be had, and Frechet distances."""
        first = next(iter(found.values()))
        notes = [
            "Shades are 95 % confidence intervals, bootstrapped over episodes. Moving pixels are "
            "those where the real or the last given frame differs from the background: the median "
            "frame of the episodes that the (first) world was trained on."
        ]
        if first.no_game_again:
            notes.append(f"The real game was not played again: {first.no_game_again}.")
        if first.no_lpips:
            notes.append(f"{first.no_lpips}.")
        if math.isfinite(first.frechet.world):
            distances = "; ".join(f"{name} {one.frechet.world:.3g}" for name, one in found.items())
            notes.append(
                "Fréchet distance to recorded play, on 64 features of a small network that was "
                f"trained on this recording (neither FID nor FVD): {distances}; held-out play "
                f"{first.frechet.held_out:.3g}, last frame copied {first.frechet.copy_last:.3g}."
            )
        videos = "; ".join(
            f"{name} {one.fvd:.1f}" for name, one in found.items() if one.fvd is not None
        )
        return [*notes, f"FVD of clips of 16 frames: {videos}."] if videos else notes


def _play_again(study: Study) -> Frames:
    """The real game, played on from where predictions begin, with another seed."""
    held_out = study.held_out
    places = [(episode, first + held_out.context - 1) for episode, first in held_out.places]
    with study.stage("playing the real game again", len(places)) as advance:
        return replay(
            study.recording,
            places,
            held_out.windows.actions[:, held_out.context - 1 :],
            other_seeds=range(study.seed + 1, study.seed + 1 + len(places)),
            on_place=advance,
        )


def _frechet(study: Study) -> Frechet:
    """Distances to as much recorded play as was predicted."""
    number, steps = study.recognised_real.actions.shape
    rng = np.random.default_rng(study.seed)
    known = study.recording.sample_windows(
        rng, number, steps + FRAMES - 1, study.episodes.reference
    ).frames
    copied = np.repeat(study.held_out.last_context[:, None], steps, axis=1)
    recorded = recognise(study.judge, known)[1].flatten(0, 1)
    held_out, world, copy_last = (
        frechet(recorded, features.flatten(0, 1))
        for features in (
            study.recognised_real.features,
            study.recognised_imagined.features,
            study.recognise(copied).features,
        )
    )
    return Frechet(held_out, world, copy_last)
