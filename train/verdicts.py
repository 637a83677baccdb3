"""What the figures of a world mean, one plain sentence for each section of the report."""

from __future__ import annotations

import math
from typing import Any

AS_GOOD = 1.0  # dB: a difference in PSNR that an eye may miss
FLICKER = 1.25  # times the real warping error
SEEN = 0.2  # of 255 over a frame: less flicker than that is not seen
LISTENS = 1.2  # action-shuffle ratio
TOLD = 0.5  # part of its steps in which an action must be recognised in real frames to judge by
RISE = 0.1  # of the held-out distance, over a thousand steps
FAR = 2.0  # times the held-out distance
FEW, MANY = 0.8, 1.25  # objects, over those of the recording

SECTIONS = {
    "fidelity": "Fidelity",
    "flicker": "Flicker",
    "control": "Control",
    "stability": "Stability",
    "memory": "Memory",
    "events": "Rewards and ends",
    "speed": "Speed",
}


def verdicts(figures: dict[str, Any]) -> dict[str, str]:
    """A sentence for each of `SECTIONS`.

    Args:
        figures: Of one world, as `measure` gives them.
    """
    return {
        "fidelity": _fidelity(figures["fidelity"]["horizons"]),
        "flicker": tell_flicker(figures["flicker"]),
        "control": _control(figures["control"]),
        "stability": _stability(figures["stability"]),
        "memory": _memory(figures["memory"]),
        "events": tell_events(figures["events"]),
        "speed": _speed(figures["speed"]["step_ms"], figures["device"]),
    }


def _fidelity(horizons: dict[str, Any]) -> str:
    moving = {int(h): row["psnr_moving"] for h, row in horizons.items()}
    moving = {h: row for h, row in moving.items() if math.isfinite(row["world"].value)}
    if not moving:
        return "Nothing moves in these windows, so there is nothing to foretell."
    leads = {
        h: row["world"].value - max(row["copy_last"].value, row["median"].value)
        for h, row in moving.items()
    }
    good = [h for h in leads if leads[h] > 0]
    if not good:
        return "No better than the last frame copied or an empty scene, at any horizon."
    until = max(h for h in leads if all(leads[k] > 0 for k in leads if k <= h)) if 1 in good else 0
    middle = min(good, key=lambda h: abs(h - 16))
    sentence = (
        "Where something moves it is closer to the real game than the last frame copied or an "
        f"empty scene {f'up to step {until}' if until else 'at some steps'}, by "
        f"{leads[middle]:.1f} dB after {middle}."
    )
    if "game_again" not in moving[middle]:
        return sentence
    gaps = {h: row["game_again"].value - row["world"].value for h, row in moving.items()}
    if all(moving[h]["game_again"].value > 58 for h in moving):
        return (
            f"{sentence} The game leaves nothing to chance: all that is missing is its own doing."
        )
    reached = [h for h in gaps if gaps[h] <= AS_GOOD]
    return (
        f"{sentence} The real game, played again with other chance, is {gaps[middle]:.1f} dB "
        f"closer after {middle} steps"
        + (f", and no closer after {min(reached)}." if reached else " and at every other step.")
    )


def tell_flicker(found: dict[str, Any]) -> str:
    """Whether videos flicker, of `worldsim.optical_flow.Flicker` as a dict."""
    ratio = found["ratio"]
    if not math.isfinite(ratio):
        return "Nothing moves in these windows."
    real, ours = found["warping_error_real"].value, found["warping_error_world"].value
    told = f"its warping error is {ours:.2f} of 255 where the game has {real:.2f}"
    surely = not found["warping_error_world"].low <= real  # nan: too few episodes for a band
    if ratio > FLICKER and ours - real > SEEN and surely:
        return f"It flickers or blurs where it moves: {told}."
    if ratio < 1 / FLICKER:
        return f"It is calmer than the game, so something may be missing: {told}."
    return f"It flickers no more than an eye can see: {told}."


def _control(found: dict[str, Any]) -> str:
    ratio = found["action_shuffle_ratio"]
    if not math.isfinite(ratio):
        return "The recording's actions never differ, so nothing can be said."
    real, ours = found["recognised"]["real"].value, found["recognised"]["world"].value
    told = (
        f"told the wrong actions it errs {ratio:.1f} times as much, and {ours:.0%} of the actions "
        f"can be told from its frames ({real:.0%} from real ones)"
    )
    known = found["recognised"]
    losses = {
        name: real_share - known["world_by_action"][name]
        for name, real_share in known["real_by_action"].items()
        if real_share > TOLD  # nan for an action that was never taken
    }
    worst = max(losses, key=lambda name: losses[name], default="")
    if ratio < LISTENS:
        return f"It hardly listens: {told}."
    if losses and losses[worst] > 0.1:
        return f"It obeys, {worst} least: {told}."
    return f"It obeys: {told}."


def _stability(found: dict[str, Any]) -> str:
    steps, slope = found["steps"][-1], found["slope_per_1000_steps"]
    floor, last = found["held_out_nearest"], found["nearest"][-1]
    early = found["steps"].index(100) if 100 in found["steps"] else 0
    told = (
        f"after {steps:,} steps its frames are {last:.1f} from the nearest recorded ones "
        f"({found['nearest'][early]:.1f} at step {found['steps'][early]}, real ones {floor:.1f})"
    )
    words = []
    if math.isfinite(slope.low) and slope.low > 0 and slope.value > RISE * floor:
        words.append("it drifts")
    elif last > FAR * floor + 1:
        words.append("its frames are unlike those of the game")
    objects = found["objects"][-1]
    if math.isfinite(objects) and not FEW <= objects <= MANY:
        words.append(f"things {'vanish' if objects < FEW else 'multiply'} ({objects:.2f} of them)")
    motion = found["motion"][-1]
    if math.isfinite(motion) and motion < 0.5:
        words.append(f"it comes to rest ({motion:.2f} of the motion)")
    start = " and ".join(words) if words else "it does not drift"
    return f"{start[0].upper()}{start[1:]}: {told}."


def _memory(found: dict[str, Any]) -> str:
    gains = {int(age): row["world"].value - row["forgetful"].value for age, row in found.items()}
    if not gains:
        return "Nothing comes back here that had been out of sight."
    told = max(gains, key=lambda age: gains[age])
    kept = [age for age in gains if gains[age] > AS_GOOD]
    if not kept:
        return (
            "What comes back is drawn no better by a world that saw it before, so this game asks "
            f"for no memory, or it has none (at most {gains[told]:+.1f} dB)."
        )
    return (
        f"What was out of sight for up to {max(kept)} steps comes back better than without having "
        f"been seen, by {gains[max(kept)]:.1f} dB."
    )


def tell_events(found: dict[str, Any]) -> str:
    """How rewards and ends are foretold, of `worldsim.events.summarize`."""
    words = []
    for name, key in (
        ("gains", "reward_positive"),
        ("losses", "reward_negative"),
        ("ends", "termination"),
    ):
        one = found[key]
        if one["number"]:
            words.append(f"{name} {one['f1']:.2f}" if math.isfinite(one["f1"]) else f"{name} 0.00")
        elif math.isfinite(one["precision"]):
            words.append(f"{name} that never came")
    if not words:
        return "No rewards and no ends, and none foretold."
    return f"Foretold up to 8 steps ahead, F1: {', '.join(words)}."


def _speed(step_ms: dict[str, Any], device: str) -> str:
    first, last = min(step_ms, key=int), max(step_ms, key=int)
    early, late = step_ms[first]["p50"], step_ms[last]["p50"]
    ratio = late / early
    return (
        f"A step takes {early:.1f} ms on {device}, {1000 / early:.0f} frames a second; at step "
        f"{int(last):,} {ratio:.2f} times what it takes at {first}."
    )
