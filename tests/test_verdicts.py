"""Each section's sentence changes with the figure that it is about, and with no other."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from worldsim.bands import Estimate
from worldsim.train.verdicts import SECTIONS, verdicts


def exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def figures() -> dict[str, Any]:
    """A world without a fault."""
    moving = {
        "world": exact(25.0),
        "game_again": exact(25.5),
        "copy_last": exact(8.0),
        "median": exact(7.0),
    }
    found = {"number": 5, "precision": 1.0, "recall": 0.9, "f1": 0.95}
    return {
        "fidelity": {"horizons": {h: {"psnr_moving": dict(moving)} for h in ("1", "16", "64")}},
        "flicker": {
            "ratio": 1.0,
            "warping_error_real": exact(0.5),
            "warping_error_world": exact(0.5),
        },
        "control": {
            "action_shuffle_ratio": 4.0,
            "recognised": {
                "real": exact(0.9),
                "world": exact(0.88),
                "real_by_action": {"LEFT": 0.9, "RIGHT": 0.9},
                "world_by_action": {"LEFT": 0.9, "RIGHT": 0.86},
            },
        },
        "stability": {
            "steps": [10, 100, 500, 2000],
            "nearest": [5.0, 5.0, 5.0, 5.0],
            "objects": [1.0] * 4,
            "motion": [1.0] * 4,
            "held_out_nearest": 4.5,
            "slope_per_1000_steps": Estimate(0.0, -0.1, 0.1),
        },
        "memory": {
            "8": {"world": exact(25.0), "forgetful": exact(15.0)},
            "32": {"world": exact(15.0), "forgetful": exact(15.0)},
        },
        "events": {
            "reward_positive": dict(found),
            "reward_negative": dict(found),
            "termination": dict(found),
        },
        "speed": {"step_ms": {"10": {"p50": 10.0}, "5000": {"p50": 10.1}}},
        "device": "cpu",
    }


def test_a_world_without_a_fault() -> None:
    told = verdicts(figures())
    assert list(told) == list(SECTIONS)
    assert "up to step 64, by 17.0 dB after 16" in told["fidelity"]
    assert "no closer after 1" in told["fidelity"]
    assert told["flicker"].startswith("It flickers no more than an eye can see")
    assert told["control"].startswith("It obeys: ")
    assert told["stability"].startswith("It does not drift")
    assert "up to 8 steps comes back better" in told["memory"]
    assert told["events"] == "Foretold up to 8 steps ahead, F1: gains 0.95, losses 0.95, ends 0.95."
    assert "100 frames a second; at step 5,000 1.01 times" in told["speed"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("fidelity.horizons.64.psnr_moving.world", exact(5.0), "up to step 16"),
        ("fidelity.horizons.16.psnr_moving.game_again", exact(30.0), "is 5.0 dB closer"),
        ("flicker.ratio", 3.0, "It flickers or blurs"),
        ("flicker.ratio", 0.3, "something may be missing"),
        ("control.action_shuffle_ratio", 1.05, "It hardly listens"),
        ("control.recognised.world_by_action.RIGHT", 0.3, "It obeys, RIGHT least"),
        ("stability.slope_per_1000_steps", Estimate(2.0, 1.0, 3.0), "It drifts"),
        ("stability.nearest", [5.0, 5.0, 5.0, 20.0], "Its frames are unlike those of the game"),
        ("stability.objects", [1.0, 1.0, 1.0, 1.6], "Things multiply"),
        ("stability.objects", [1.0, 1.0, 1.0, 0.3], "Things vanish"),
        ("stability.motion", [1.0, 1.0, 1.0, 0.1], "It comes to rest"),
        ("memory.8.world", exact(15.2), "asks for no memory, or it has none"),
        ("events.termination.f1", 0.1, "ends 0.10"),
        ("speed.step_ms.5000.p50", 30.0, "3.00 times"),
    ],
)
def test_a_fault_is_told_in_its_section_alone(path: str, value: object, words: str) -> None:
    good, worse = figures(), figures()
    *parents, last = path.split(".")
    place = worse
    for key in parents:
        place = place[key]
    place[last] = value
    if path == "flicker.ratio":  # what the ratio is made of
        worse["flicker"]["warping_error_world"] = exact(0.5 * float(str(value)))
    told, expected = verdicts(worse), verdicts(copy.deepcopy(good))
    section = parents[0]
    assert words in told[section]
    assert {k: v for k, v in told.items() if k != section} == {
        k: v for k, v in expected.items() if k != section
    }


def test_a_band_that_holds_the_real_figure_proves_nothing() -> None:
    unsure = figures()
    unsure["flicker"] = {
        "ratio": 1.4,
        "warping_error_real": exact(1.0),
        "warping_error_world": Estimate(1.4, 0.9, 1.9),
    }
    assert verdicts(unsure)["flicker"].startswith("It flickers no more than an eye can see")


def test_nothing_to_say() -> None:
    nothing = figures()
    nan = exact(float("nan"))
    for row in nothing["fidelity"]["horizons"].values():
        row["psnr_moving"] = dict.fromkeys(row["psnr_moving"], nan)
    nothing["flicker"]["ratio"] = float("nan")
    nothing["control"]["action_shuffle_ratio"] = float("nan")
    nothing["memory"] = {}
    for found in nothing["events"].values():
        found.update(number=0, precision=float("nan"), recall=float("nan"), f1=float("nan"))
    told = verdicts(nothing)
    assert told["fidelity"].startswith("Nothing moves")
    assert told["flicker"].startswith("Nothing moves")
    assert told["control"].startswith("The recording's actions never differ")
    assert told["memory"].startswith("Nothing comes back")
    assert told["events"] == "No rewards and no ends, and none foretold."
