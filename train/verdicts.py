"""What the figures of a world mean, one plain sentence for each section of the report.

A sentence claims what the confidence bands of its figures bear out and says how much it rests on.
Where that is too little, it says so, and gives the figures alone.
"""

from __future__ import annotations

import math
from typing import Any

from worldsim.events import STRETCH

ENOUGH_EPISODES = 5  # with fewer, a bootstrap over episodes draws the same few again and again
ENOUGH_SESSIONS = 4  # of play without an end
ENOUGH_EVENTS = 10  # rewards or ends, and steps in which an action was taken

AS_GOOD = 1.0  # dB: a difference in PSNR that an eye may miss
FLICKER = 1.25  # times the real warping error
SEEN = 0.2  # of 255 over a frame: less flicker than that is not seen
LISTENS = 1.2  # action-shuffle ratio
TOLD = 0.5  # part of its steps in which an action must be recognised in real frames to judge by
WORSE = 0.1  # part of its steps by which an action may be recognised less often
RISE = 0.1  # of the held-out distance, over a thousand steps
FAR = 2.0  # times the held-out distance
FEW, MANY = 0.8, 1.25  # objects, over those of the recording
RESTS = 0.5  # motion, over that of the recording

SECTIONS = {
    "fidelity": "Fidelity",
    "flicker": "Flicker",
    "control": "Control",
    "stability": "Stability",
    "memory": "Memory",
    "events": "Rewards and ends",
    "speed": "Speed",
}
EVENTS = {"gains": "reward_positive", "losses": "reward_negative", "ends": "termination"}


def verdicts(figures: dict[str, Any]) -> dict[str, str]:
    """A sentence for each of `SECTIONS`.

    Args:
        figures: Of one world, as `measure` gives them.
    """
    windows, episodes = figures["windows"], figures["episodes"]
    return {
        "fidelity": _fidelity(figures["fidelity"]["horizons"], windows, episodes),
        "flicker": tell_flicker(figures["flicker"]),
        "control": _control(figures["control"], windows, episodes),
        "stability": _stability(figures["stability"]),
        "memory": _memory(figures["memory"]),
        "events": tell_events(figures["events"]),
        "speed": _speed(figures["speed"]["step_ms"], figures["device"]),
    }


def count(number: int, thing: str) -> str:
    """A number of things, such as "1 episode" and "1,200 episodes"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _fidelity(horizons: dict[str, Any], windows: int, episodes: int) -> str:
    basis = f"{count(windows, 'window')} of {count(episodes, 'episode')}"
    moving = {int(h): row["psnr_moving"] for h, row in horizons.items()}
    moving = {h: row for h, row in moving.items() if math.isfinite(row["world"].value)}
    if not moving:
        return f"Nothing moves in these windows, so there is nothing to predict ({basis})."
    best = {h: max(row["copy_last"].value, row["median"].value) for h, row in moving.items()}
    leads = {h: row["world"].value - best[h] for h, row in moving.items()}
    if episodes < ENOUGH_EPISODES:
        at = min(moving, key=lambda h: abs(h - 16))
        return (
            f"Too little to tell from {basis}: after {count(at, 'step')} it is {leads[at]:+.1f} dB "
            "from the better of the last frame copied and an empty scene, where something moves."
        )
    good = [h for h in leads if moving[h]["world"].low > best[h]]
    if not good:
        return (
            "No better than the last frame copied or an empty scene, at any horizon, as far as "
            f"can be told from {basis}."
        )
    until = max(h for h in leads if all(k in good for k in leads if k <= h)) if 1 in good else 0
    middle = min(good, key=lambda h: abs(h - 16))
    sentence = (
        "Where something moves it is closer to the real game than the last frame copied or an "
        f"empty scene {f'up to step {until}' if until else 'at some steps'}, by "
        f"{leads[middle]:.1f} dB after {middle} ({basis})."
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
    ratio, basis = found["ratio"], f"videos of {count(found['episodes'], 'episode')}"
    if not math.isfinite(ratio):
        return f"Nothing moves in these {basis}."
    real, ours = found["warping_error_real"].value, found["warping_error_world"]
    told = f"its warping error is {ours.value:.2f} of 255 where the game has {real:.2f} ({basis})"
    if found["episodes"] < ENOUGH_EPISODES:
        return f"Too little to tell: {told}."
    if ratio > FLICKER and ours.value - real > SEEN and ours.low > real:
        return f"It flickers or blurs where it moves: {told}."
    if ratio < 1 / FLICKER and ours.high < real:
        return f"It is calmer than the game, so something may be missing: {told}."
    return f"It flickers no more than an eye can see: {told}."


def _control(found: dict[str, Any], windows: int, episodes: int) -> str:
    ratio = found["action_shuffle_ratio"]
    basis = f"{count(windows, 'window')} of {count(episodes, 'episode')}"
    known = found["recognised"]
    if sum(steps > 0 for steps in known["steps_by_action"].values()) < 2:
        return f"The recording's actions never differ, so nothing can be said ({basis})."
    if not math.isfinite(ratio):
        return f"Too little to tell: no step could be tried with another action ({basis})."
    told = (
        f"with the wrong actions it errs {ratio:.1f} times as much, and "
        f"{known['world'].value:.0%} of the actions can be told from its frames "
        f"({known['real'].value:.0%} from real ones; {basis})"
    )
    if episodes < ENOUGH_EPISODES:
        return f"Too little to tell: {told}."
    losses = {
        name: real_share - known["world_by_action"][name]
        for name, real_share in known["real_by_action"].items()
        if real_share > TOLD  # nan for an action that was never taken
        and known["steps_by_action"][name] >= ENOUGH_EVENTS
    }
    worst = max(losses, key=lambda name: losses[name], default="")
    if ratio < LISTENS:
        return f"It hardly listens: {told}."
    if losses and losses[worst] > WORSE:
        return f"It obeys, {worst} least: {told}."
    return f"It obeys: {told}."


def _stability(found: dict[str, Any]) -> str:
    steps, slope = found["steps"][-1], found["slope_per_1000_steps"]
    floor, last = found["held_out_nearest"], found["nearest"][-1]
    early = found["steps"].index(100) if 100 in found["steps"] else 0
    told = (
        f"after {steps:,} steps its frames are {last:.1f} from the nearest recorded ones "
        f"({found['nearest'][early]:.1f} at step {found['steps'][early]}, real ones {floor:.1f}; "
        f"{count(found['sessions'], 'session')} beside {count(found['episodes'], 'episode')})"
    )
    if found["sessions"] < ENOUGH_SESSIONS or found["episodes"] < ENOUGH_EPISODES:
        return f"Too little to tell whether it drifts: {told}."
    words = []
    if slope.low > 0 and slope.value > RISE * floor:
        words.append("it drifts")
    elif last > FAR * floor + 1:
        words.append("its frames are unlike those of the game")
    objects, motion = found["objects_at_last"], found["motion_at_last"]
    if objects.value < FEW and objects.high < 1:
        words.append(f"things vanish ({objects.value:.2f} of them)")
    if MANY < objects.value < math.inf and objects.low > 1:
        words.append(f"things multiply ({objects.value:.2f} of them)")
    if motion.value < RESTS and motion.high < 1:
        words.append(f"it comes to rest ({motion.value:.2f} of the motion)")
    if not words and not slope.high <= RISE * floor:  # nan: too short for a slope
        return f"Too little to tell whether it drifts: {told}."
    start = " and ".join(words) if words else "it does not drift"
    return f"{start[0].upper()}{start[1:]}: {told}."


def _memory(found: dict[str, Any]) -> str:
    if not found:
        return "Nothing comes back here that had been out of sight."
    enough = {int(age): row for age, row in found.items() if row["episodes"] >= ENOUGH_EPISODES}
    if not enough:
        pixels = sum(row["pixels"] for row in found.values())
        episodes = max(row["episodes"] for row in found.values())
        return (
            f"Too little to tell: {count(pixels, 'pixel')} that had been out of sight "
            f"come{'s' * (pixels == 1)} back, in {count(episodes, 'episode')} at most."
        )
    gains = {age: row["world"].value - row["forgetful"].value for age, row in enough.items()}
    kept = [
        age
        for age, row in enough.items()
        if gains[age] > AS_GOOD and row["world"].low > row["forgetful"].value
    ]
    told = max(kept) if kept else max(gains, key=lambda age: gains[age])
    basis = (
        f"{count(enough[told]['pixels'], 'pixel')} in {count(enough[told]['episodes'], 'episode')}"
    )
    if not kept:
        return (
            "What comes back is drawn no better by a world that saw it before, so this game asks "
            f"for no memory, or it has none (at most {gains[told]:+.1f} dB; {basis})."
        )
    return (
        f"What was out of sight for up to {told} steps comes back better than without having "
        f"been seen, by {gains[told]:.1f} dB ({basis})."
    )


def tell_events(found: dict[str, Any]) -> str:
    """How rewards and ends are predicted, of `worldsim.events.summarize`."""
    words = []
    for name, key in EVENTS.items():
        one = found[key]
        if one["number"] >= ENOUGH_EVENTS:
            band = f"{one['low']:.2f} to {one['high']:.2f}"
            words.append(f"{name} {one['f1']:.2f} ({band}, of {one['number']:,})")
        elif one["number"]:
            words.append(f"{name} too few to tell ({one['number']})")
        elif one["predicted"]:
            words.append(f"{name} that never came ({one['predicted']:,} predicted)")
    steps = count(found["steps"], "step")
    if not words:
        return f"No rewards and no ends in {steps}, and none predicted."
    return f"Predicted up to {STRETCH} steps ahead, F1: {', '.join(words)}; {steps}."


def _speed(step_ms: dict[str, Any], device: str) -> str:
    first, last = min(step_ms, key=int), max(step_ms, key=int)
    early, late = step_ms[first]["p50"], step_ms[last]["p50"]
    return (
        f"A step takes {early:.1f} ms on {device}, {1000 / early:.0f} frames a second; at step "
        f"{int(last):,} {late / early:.2f} times what it takes at {first} (medians of "
        f"{count(step_ms[first]['steps'], 'step')})."
    )
