"""Each section's sentence changes with the figure that it is about, and with no other."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from worldsim.bands import Estimate
from worldsim.events import find
from worldsim.train.verdicts import EVENTS, SECTIONS, tell_events, verdicts


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
    found = find(np.arange(100) < 40, np.arange(100) < 38, np.ones(100))._asdict()
    return {
        "windows": 32,
        "episodes": 12,
        "fidelity": {"horizons": {h: {"psnr_moving": dict(moving)} for h in ("1", "16", "64")}},
        "flicker": {
            "ratio": 1.0,
            "episodes": 6,
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
                "steps_by_action": {"LEFT": 400, "RIGHT": 300},
            },
        },
        "stability": {
            "steps": [10, 100, 500, 2000],
            "nearest": [5.0, 5.0, 5.0, 5.0],
            "objects_at_last": exact(1.0),
            "motion_at_last": exact(1.0),
            "sessions": 4,
            "episodes": 12,
            "held_out_nearest": 4.5,
            "slope_per_1000_steps": Estimate(0.0, -0.1, 0.1),
        },
        "memory": {
            "8": {"pixels": 900, "episodes": 9, "world": exact(25.0), "forgetful": exact(15.0)},
            "32": {"pixels": 80, "episodes": 7, "world": exact(15.0), "forgetful": exact(15.0)},
        },
        "events": {
            "reward_positive": dict(found),
            "reward_negative": dict(found),
            "termination": dict(found),
            "steps": 1800,
        },
        "speed": {"step_ms": {"10": {"p50": 10.0, "steps": 80}, "5000": {"p50": 10.1}}},
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
    each = "0.97 (0.91 to 0.99, of 40)"
    assert told["events"] == (
        f"Predicted up to 8 steps ahead, F1: gains {each}, losses {each}, ends {each}; 1,800 steps."
    )
    assert "100 frames a second; at step 5,000 1.01 times" in told["speed"]
    for section, basis in {
        "fidelity": "32 windows of 12 episodes",
        "flicker": "videos of 6 episodes",
        "control": "32 windows of 12 episodes",
        "stability": "4 sessions beside 12 episodes",
        "memory": "900 pixels in 9 episodes",
        "events": "of 40",
        "speed": "80 steps",
    }.items():
        assert basis in told[section]


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
        ("stability.objects_at_last", exact(1.6), "Things multiply"),
        ("stability.objects_at_last", exact(0.3), "Things vanish"),
        ("stability.objects_at_last", Estimate(0.7, 0.3, 1.1), "It does not drift"),
        ("stability.motion_at_last", exact(0.1), "It comes to rest"),
        ("memory.8.world", exact(15.2), "asks for no memory, or it has none"),
        ("events.termination.f1", 0.1, "ends 0.10"),
        # ---------------------------------------------------------- too little to tell
        ("fidelity.horizons.16.psnr_moving.world", Estimate(25.0, 7.0, 40.0), "up to step 1,"),
        ("flicker.episodes", 1, "Too little to tell: its warping error"),
        ("control.recognised.steps_by_action.RIGHT", 3, "It obeys: "),
        ("stability.sessions", 2, "Too little to tell whether it drifts"),
        ("stability.episodes", 1, "real ones 4.5; 4 sessions beside 1 episode"),
        ("stability.slope_per_1000_steps", Estimate(0.2, -1.0, 1.5), "Too little to tell"),
        ("stability.slope_per_1000_steps", exact(math.nan), "Too little to tell"),
        ("memory.8.episodes", 1, "80 pixels in 7 episodes"),
        ("memory.8.world", Estimate(25.0, 14.0, 30.0), "or it has none"),
        ("events.termination.number", 1, "ends too few to tell (1)"),
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
        "episodes": 6,
    }
    assert verdicts(unsure)["flicker"].startswith("It flickers no more than an eye can see")


def test_one_episode_proves_nothing() -> None:
    few = figures()
    few["episodes"] = few["flicker"]["episodes"] = few["stability"]["episodes"] = 1
    few["windows"] = 3
    for row in few["memory"].values():
        row["episodes"] = 1
    told = verdicts(few)
    for section in ("fidelity", "flicker", "control", "stability", "memory"):
        assert told[section].startswith("Too little to tell"), told[section]
        assert "1 episode" in told[section]
    assert "3 windows of 1 episode: after 16 steps it is +17.0 dB" in told["fidelity"]


def test_five_right_of_five_are_too_few_and_forty_have_a_band() -> None:
    five = find(np.arange(50) < 5, np.arange(50) < 5, np.ones(50))
    assert five.f1 == 1.0
    assert five.low < 0.75
    forty = find(np.arange(50) < 40, np.arange(50) < 40, np.ones(50))
    assert 0.9 < forty.low < forty.high == 1.0
    none, false_alarms = (find(np.zeros(50) > 0, np.arange(50) < n, np.ones(50)) for n in (0, 3))
    told = tell_events(
        {
            "steps": 50,
            "reward_positive": five._asdict(),
            "reward_negative": none._asdict(),
            "termination": false_alarms._asdict(),
        }
    )
    assert told == (
        "Predicted up to 8 steps ahead, F1: gains too few to tell (5), ends that never came "
        "(3 predicted); 50 steps."
    )


def test_nothing_to_say() -> None:
    nothing = figures()
    nan = exact(float("nan"))
    for row in nothing["fidelity"]["horizons"].values():
        row["psnr_moving"] = dict.fromkeys(row["psnr_moving"], nan)
    nothing["flicker"]["ratio"] = float("nan")
    nothing["control"]["action_shuffle_ratio"] = float("nan")
    nothing["control"]["recognised"]["steps_by_action"] = {"LEFT": 700, "RIGHT": 0}
    nothing["memory"] = {}
    for key in EVENTS.values():
        nothing["events"][key] = find(np.zeros(9) > 0, np.zeros(9) > 0, np.ones(9))._asdict()
    told = verdicts(nothing)
    assert told["fidelity"].startswith("Nothing moves")
    assert told["flicker"].startswith("Nothing moves")
    assert told["control"].startswith("The recording's actions never differ")
    assert told["memory"].startswith("Nothing comes back")
    assert told["events"] == "No rewards and no ends in 1,800 steps, and none predicted."
