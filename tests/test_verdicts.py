"""A verdict changes with the figure that it is about, and claims no more than the data bear."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from worldsim.eval.bootstrap import Estimate
from worldsim.eval.events import EventSummary, find
from worldsim.eval.fidelity import HorizonScores
from worldsim.eval.flicker import Flicker
from worldsim.eval.memory import Remembered
from worldsim.eval.report.control import ControlSection, RecognisedActions
from worldsim.eval.report.drift import DriftSection
from worldsim.eval.report.events import EventsSection
from worldsim.eval.report.fidelity import FidelitySection, Frechet
from worldsim.eval.report.flicker import FlickerSection
from worldsim.eval.report.memory import MemorySection
from worldsim.eval.report.section import Grade, Section
from worldsim.eval.report.sections import SECTIONS
from worldsim.eval.report.speed import SpeedSection, StepTimes

GOOD, FAIR, POOR = Grade.GOOD, Grade.FAIR, Grade.POOR
UNCLEAR, NOT_MEASURED = Grade.UNCLEAR, Grade.NOT_MEASURED


def exact(value: float) -> Estimate:
    return Estimate(value, value, value)


NAN = exact(math.nan)
FORTY = find(np.arange(100) < 40, np.arange(100) < 38, np.ones(100))
NONE = find(np.zeros(9) > 0, np.zeros(9) > 0, np.ones(9))


def scores(**moving: Estimate) -> HorizonScores:
    known = {"copy_last": exact(8.0), "median": exact(7.0), "game_again": exact(25.5), **moving}
    return HorizonScores(0.1, known, known)


def times(ms: float) -> StepTimes:
    return StepTimes.of(np.full(80, ms))


FAULTLESS: dict[str, Section] = {
    "fidelity": FidelitySection(
        windows=32,
        episodes=12,
        horizons={h: scores(world=exact(25.0)) for h in (1, 16, 64)},
        frechet=Frechet(0.1, 0.2, 5.0),
        fvd=None,
        no_game_again="",
        no_lpips="",
    ),
    "flicker": FlickerSection(Flicker(exact(0.5), exact(0.5), exact(1.0), exact(1.0), 1.0, 6)),
    "control": ControlSection(
        windows=32,
        episodes=12,
        action_shuffle_ratio=4.0,
        action_shuffle_ratio_by_action={"LEFT": 4.0, "RIGHT": 4.0},
        recognised=RecognisedActions(
            steps_by_action={"LEFT": 400, "RIGHT": 300},
            real=exact(0.9),
            real_by_action={"LEFT": 0.9, "RIGHT": 0.9},
            world=exact(0.88),
            world_by_action={"LEFT": 0.9, "RIGHT": 0.86},
        ),
        effect_by_action={"world": {"LEFT": 0.1, "RIGHT": 0.1}},
        noop_pixels_a_step={"world": exact(3.0)},
        no_real_counterfactuals="",
    ),
    "stability": DriftSection(
        steps=[10, 100, 500, 2000],
        nearest=[5.0, 5.0, 5.0, 5.0],
        nearest_low=[5.0, 5.0, 5.0, 5.0],
        nearest_high=[5.0, 5.0, 5.0, 5.0],
        objects=[1.0] * 4,
        objects_at_last=exact(1.0),
        motion=[1.0] * 4,
        motion_at_last=exact(1.0),
        still_db=[40.0] * 4,
        held_out_nearest=4.5,
        slope_per_1000_steps=Estimate(0.0, -0.1, 0.1),
        rollouts=4,
        episodes=12,
        ends=0,
    ),
    "memory": MemorySection(
        {
            8: Remembered(900, 9, exact(25.0), exact(15.0), exact(9.0)),
            32: Remembered(80, 7, exact(15.0), exact(15.0), exact(9.0)),
        }
    ),
    "events": EventsSection(
        EventSummary(1800, FORTY, FORTY, 0.1, 0.1, FORTY, 0.01, 0.02, 0.001, [])
    ),
    "speed": SpeedSection({10: times(10.0), 5000: times(10.1)}, 900.0, "cpu", 1, 15.0, 1),
}


def with_change(value: Any, path: list[str], new: object) -> Any:
    """A copy of dataclasses, named tuples and dicts in which one figure is another."""
    key, *rest = path
    if isinstance(value, dict):
        place: Any = int(key) if key.isdecimal() else key
        return {**value, place: with_change(value[place], rest, new) if rest else new}
    inner = with_change(getattr(value, key), rest, new) if rest else new
    if isinstance(value, tuple):
        return value._replace(**{key: inner})  # type: ignore[attr-defined]
    return dataclasses.replace(value, **{key: inner})


def test_a_world_without_a_fault() -> None:
    assert [section.key for section in SECTIONS] == list(FAULTLESS)
    for key, words, basis in (
        ("fidelity", "up to step 64, by 17.0 dB after 16", "32 windows of 12 episodes"),
        ("flicker", "No more flicker than an eye can see", "videos of 6 episodes"),
        ("control", "It obeys: ", "32 windows of 12 episodes"),
        ("stability", "It does not drift", "4 rollouts beside 12 episodes"),
        ("memory", "up to 8 steps comes back better", "900 pixels in 9 episodes"),
        ("events", "ends 0.97 (0.91 to 0.99, of 40)", "120 events in 1,800 steps"),
        ("speed", "at step 5,000 1.01 times", "medians of 80 steps"),
    ):
        verdict = FAULTLESS[key].verdict()
        assert verdict.grade is GOOD, verdict
        assert words in verdict.sentence
        assert verdict.basis == basis
    assert "no closer after 1" in FAULTLESS["fidelity"].verdict().sentence


@pytest.mark.parametrize(
    ("path", "value", "grade", "words"),
    [
        ("fidelity.horizons.64.psnr_moving.world", exact(5.0), GOOD, "up to step 16"),
        ("fidelity.horizons.16.psnr_moving.game_again", exact(30.0), GOOD, "is 5.0 dB closer"),
        ("fidelity.horizons.16.psnr_moving.world", exact(9.0), FAIR, "by 1.0 dB after 16"),
        ("flicker.found", (0.5, 0.8), FAIR, "It flickers or blurs"),
        ("flicker.found", (0.5, 1.5), POOR, "It flickers or blurs"),
        ("flicker.found", (0.5, 0.15), FAIR, "something may be missing"),
        ("control.action_shuffle_ratio", 1.05, POOR, "It hardly obeys"),
        ("control.recognised.world_by_action.RIGHT", 0.3, FAIR, "It obeys, RIGHT least"),
        ("stability.slope_per_1000_steps", Estimate(2.0, 1.0, 3.0), FAIR, "It drifts"),
        ("stability.nearest", [5.0, 5.0, 5.0, 20.0], POOR, "are unlike those of the game"),
        ("stability.objects_at_last", exact(1.6), FAIR, "Things multiply"),
        ("stability.objects_at_last", exact(0.3), FAIR, "Things vanish"),
        ("stability.objects_at_last", Estimate(0.7, 0.3, 1.1), GOOD, "It does not drift"),
        ("stability.motion_at_last", exact(0.1), FAIR, "It comes to rest"),
        ("memory.by_age.8.world", exact(15.2), UNCLEAR, "asks for no memory, or the world has"),
        ("events.found.termination.f1", 0.1, POOR, "ends 0.10"),
        ("events.found.termination.f1", 0.6, FAIR, "ends 0.60"),
        ("speed.step_ms.5000", times(30.0), FAIR, "3.00 times"),
        ("speed.game_fps", 400.0, POOR, "the game has 400"),
        # ------------------------------------------------------- too little data to judge
        ("fidelity.horizons.16.psnr_moving.world", Estimate(25, 7, 40), FAIR, "up to step 1,"),
        ("fidelity.episodes", 1, UNCLEAR, "Too few episodes to judge: after 16 steps"),
        ("control.episodes", 1, UNCLEAR, "Too few episodes to judge"),
        ("control.recognised.steps_by_action.RIGHT", 3, GOOD, "It obeys: "),
        ("stability.rollouts", 2, UNCLEAR, "Too little play to judge"),
        ("stability.episodes", 1, UNCLEAR, "real frames 4.5"),
        ("stability.slope_per_1000_steps", Estimate(0.2, -1.0, 1.5), UNCLEAR, "Too little play"),
        ("stability.slope_per_1000_steps", NAN, UNCLEAR, "Too little play"),
        ("memory.by_age.8.world", Estimate(25.0, 14.0, 30.0), UNCLEAR, "or the world has none"),
        ("events.found.termination.number", 1, GOOD, "ends too few to judge (1 only)"),
        # -------------------------------------------------------------- nothing to measure
        ("control.recognised.steps_by_action.RIGHT", 0, NOT_MEASURED, "actions never differ"),
        ("control.action_shuffle_ratio", math.nan, NOT_MEASURED, "No step could be tried"),
        ("memory.by_age", {}, NOT_MEASURED, "Nothing that had been out of sight comes back"),
    ],
)
def test_a_fault_changes_the_verdict_of_its_section(
    path: str, value: Any, grade: Grade, words: str
) -> None:
    key, *rest = path.split(".")
    if path == "flicker.found":
        real, ours = value
        value = Flicker(exact(real), exact(ours), exact(1.0), exact(1.0), ours / real, 6)
    verdict = with_change(FAULTLESS[key], rest, value).verdict()
    assert words in verdict.sentence
    assert verdict.grade is grade


def test_an_interval_that_holds_the_real_figure_proves_nothing() -> None:
    found = Flicker(exact(1.0), Estimate(1.4, 0.9, 1.9), exact(1.0), exact(1.0), 1.4, 6)
    assert FlickerSection(found).verdict().grade is GOOD


def test_where_the_real_game_comes_out_the_same_every_error_is_the_worlds() -> None:
    same = {h: scores(world=exact(25.0), game_again=exact(58.9)) for h in (1, 16)}
    verdict = with_change(FAULTLESS["fidelity"], ["horizons"], same).verdict()
    assert "shows the same frames, so every error is the world's own" in verdict.sentence


def test_one_episode_proves_nothing() -> None:
    for path, basis in (
        ("fidelity.episodes", "32 windows of 1 episode only"),
        ("flicker.found.episodes", "videos of 1 episode only"),
        ("control.episodes", "32 windows of 1 episode only"),
        ("stability.episodes", "4 rollouts beside 1 episode only"),
    ):
        key, *rest = path.split(".")
        verdict = with_change(FAULTLESS[key], rest, 1).verdict()
        assert (verdict.grade, verdict.basis) == (UNCLEAR, basis)
    memory = MemorySection({8: Remembered(5, 1, exact(25.0), exact(15.0), exact(9.0))}).verdict()
    assert (memory.grade, memory.basis) == (UNCLEAR, "5 pixels in 1 episode only")


def test_five_right_of_five_are_too_few_and_forty_have_a_band() -> None:
    five = find(np.arange(50) < 5, np.arange(50) < 5, np.ones(50))
    assert five.f1 == 1.0
    assert five.low < 0.75
    forty = find(np.arange(50) < 40, np.arange(50) < 40, np.ones(50))
    assert 0.9 < forty.low < forty.high == 1.0
    false_alarms = find(np.zeros(50) > 0, np.arange(50) < 3, np.ones(50))
    summary = EventSummary(50, five, NONE, 0.1, 0.1, false_alarms, 0.0, 0.0, 0.0, [])
    verdict = EventsSection(summary).verdict()
    assert verdict.grade is UNCLEAR
    assert str(verdict) == (
        "Predicted up to 8 steps ahead, F1: gains too few to judge (5 only), ends that never came "
        "(3 predicted). (5 events only in 50 steps)"
    )


def test_nothing_moves_and_nothing_happens() -> None:
    still = {h: scores(world=NAN, copy_last=NAN, median=NAN) for h in (1, 16)}
    nothing = EventSummary(90, NONE, NONE, 0.0, 0.0, NONE, 0.0, 0.0, 0.0, [])
    for verdict, words in (
        (with_change(FAULTLESS["fidelity"], ["horizons"], still).verdict(), "Nothing moves"),
        (with_change(FAULTLESS["flicker"], ["found", "ratio"], math.nan).verdict(), "Nothing mo"),
        (EventsSection(nothing).verdict(), "no rewards and no ends, and none are predicted"),
    ):
        assert verdict.grade is NOT_MEASURED
        assert words in verdict.sentence
