"""Everything that `worldsim eval` finds out about one world, in the order of its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim import events
from worldsim.bands import estimate
from worldsim.chance import CannotReplayError, replay
from worldsim.control import Counterfactuals, commotion, counterfactuals, effect
from worldsim.fidelity import (
    HORIZONS,
    fidelity,
    frechet,
    frechet_video_distance,
    load_lpips,
)
from worldsim.held_out import (
    HeldOutWindows,
    check_match,
    choose_windows,
    roll_out,
)
from worldsim.inverse_dynamics import (
    FRAMES,
    InverseDynamics,
    accuracy_by_action,
    recognise,
    train_inverse_dynamics,
)
from worldsim.memory import remember
from worldsim.metrics import action_shuffle_ratio, step_latency
from worldsim.optical_flow import flicker
from worldsim.recording import Recording
from worldsim.split import Measurable
from worldsim.stability import drift
from worldsim.world_model import WorldModel

from .effort import Effort
from .speed import peak_memory

Frames = NDArray[np.uint8]
Advance = Callable[[], None]
Stage = Callable[[str, int], AbstractContextManager[Advance]]
"""A bar of the progress display: what is done and how often ``advance`` will be called."""

Judged = tuple[NDArray[np.int64], torch.Tensor]
"""Actions guessed and features, by `recognise`."""

MEMORY_STEPS = 64
FLICKER_STEPS = 32
COUNTERFACTUAL_STEPS = 16
COUNTERFACTUAL_LANES = 48  # about as many are worth a batch on a CPU


@dataclass(frozen=True)
class Measured:
    """One world, measured.

    Attributes:
        name: As it was asked for.
        world: The world.
        figures: What ``report.json`` holds of it.
        held_out: The windows.
        imagined: What the world made of them, ``uint8`` (b horizon h w c).
        counterfactuals: Every action from a few moments.
        latency: Milliseconds of steps, by how far into a session.
    """

    name: str
    world: WorldModel
    figures: dict[str, Any]
    held_out: HeldOutWindows
    imagined: Frames
    counterfactuals: Counterfactuals
    latency: dict[int, NDArray[np.float64]]


def learn_to_recognise(
    recording: Recording,
    episodes: Sequence[int],
    effort: Effort,
    stage: Stage,
    device: torch.device | str = "cpu",
) -> InverseDynamics:
    """Train the inverse dynamics model, which judges all worlds, on some episodes."""
    with stage("learning what actions look like", effort.inverse_steps) as advance:
        return train_inverse_dynamics(
            recording, episodes, steps=effort.inverse_steps, device=device, on_step=advance
        )


def measure(
    name: str,
    world: WorldModel,
    recording: Recording,
    episodes: Measurable,
    judge: InverseDynamics,
    effort: Effort,
    stage: Stage,
    *,
    background: Frames | None = None,
    num_passes: int | None = None,
    seed: int = 0,
    i3d: Path | None = None,
) -> Measured:
    """Measure a world on episodes that it has not seen.

    Args:
        name: What to call it.
        world: The world.
        recording: A recording of its game.
        episodes: Those to measure on, and those to compare with.
        judge: From `learn_to_recognise`.
        effort: How much to measure.
        stage: Opens a bar of the progress display.
        background: The median frame, which tells what moves; None takes the world's own.
        num_passes: Denoising passes a frame; None takes the world's own number.
        seed: Decides windows, permutations and noise.
        i3d: The network of FVD, where it is at hand.

    Raises:
        ValueError: If world and recording do not fit, or the episodes are too short.
    """
    check_match(world, recording)
    median = world.background if background is None else background
    horizons = [h for h in HORIZONS if h <= effort.horizon]
    held_out = choose_windows(
        world, recording, episodes.unseen, horizons=horizons, num_windows=effort.windows, seed=seed
    )
    batches = -(-len(held_out.real) // 64)
    with stage("rolling out", batches * held_out.horizon) as advance:
        imagined = roll_out(world, held_out, num_passes=num_passes, seed=seed, on_step=advance)
    steps = min(held_out.horizon, MEMORY_STEPS)
    judged = {
        side: recognise(judge, held_out.with_context(frames[:, :steps], FRAMES - 1))
        for side, frames in (("real", held_out.real), ("world", imagined))
    }
    figures: dict[str, Any] = {
        "world": name,
        "world_env_id": world.game.env_id,
        "windows": len(held_out.real),
        "episodes": len(set(held_out.episodes.tolist())),
        "num_passes": world.num_passes if num_passes is None else num_passes,
        "parameters": sum(parameter.numel() for parameter in world.parameters()),
        "device": str(world.device),
        "threads": torch.get_num_threads(),
        "fidelity": _fidelity(recording, held_out, imagined, median, horizons, seed, stage),
        "frechet": _frechet(recording, episodes.reference, held_out, judge, judged, seed),
        "fvd": None if i3d is None else frechet_video_distance(i3d, held_out.real, imagined),
        "flicker": _flicker(held_out, imagined, effort, stage),
    }

    control, tried = _control(
        world, recording, episodes.unseen, held_out, judged, effort, stage, num_passes, seed
    )
    figures["control"] = control
    sessions, last = effort.drift_sessions, effort.drift_bounds[-1]
    with stage(f"playing {sessions} sessions of {last:,} steps", last) as advance:
        played = drift(
            world,
            recording,
            episodes,
            background=median,
            bounds=effort.drift_bounds,
            num_sessions=sessions,
            num_passes=num_passes,
            seed=seed,
            on_step=advance,
        )
    figures["stability"] = {
        "steps": played.steps,
        "nearest": played.nearest.mean(1).tolist(),
        "nearest_low": played.nearest.min(1).tolist(),
        "nearest_high": played.nearest.max(1).tolist(),
        "objects": played.objects.mean(1).tolist(),
        "objects_at_last": played.at_last(played.objects),
        "motion": played.motion.mean(1).tolist(),
        "motion_at_last": played.at_last(played.motion),
        "still_db": played.still.tolist(),
        "held_out_nearest": played.held_out_nearest,
        "slope_per_1000_steps": played.slope,
        "sessions": sessions,
        "episodes": len(episodes.unseen),
        "ends": played.ends,
    }
    near = held_out.first(len(held_out.real), MEMORY_STEPS)
    with stage("asking what it remembers", batches * near.horizon) as advance:
        figures["memory"] = {
            str(age): found._asdict()
            for age, found in remember(
                world,
                near,
                imagined[:, : near.horizon],
                median,
                num_passes=num_passes,
                seed=seed,
                on_step=advance,
            ).items()
        }
    with stage("predicting events", events.num_batches(effort.event_stretches)) as advance:
        predicted = events.predict(
            world,
            recording,
            episodes.unseen,
            num_stretches=effort.event_stretches,
            num_passes=num_passes,
            seed=seed,
            on_step=advance,
        )
    figures["events"] = events.summarize(predicted)
    with stage("timing steps", max(effort.latency_steps) + 1) as advance:
        latency = step_latency(world, effort.latency_steps, num_passes=num_passes, on_step=advance)
    figures["speed"] = {
        "step_ms": {
            str(step): {"steps": len(ms)} | {f"p{p}": float(np.percentile(ms, p)) for p in (50, 95)}
            for step, ms in latency.items()
        },
        "peak_mb": peak_memory(world.device),
    }
    return Measured(name, world, figures, held_out, imagined, tried, latency)


def _fidelity(
    recording: Recording,
    held_out: HeldOutWindows,
    imagined: Frames,
    median: Frames,
    horizons: Sequence[int],
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Beside copy-last, the median frame and, where it can be had, the game played once more."""
    predictions = {
        "world": imagined,
        "copy_last": held_out.last_context[:, None],
        "median": median,
    }
    places = [(episode, first + held_out.context - 1) for episode, first in held_out.places]
    actions = held_out.windows.actions[:, held_out.context - 1 :]
    why_not = ""
    with stage("playing the real game again", len(places)) as advance:
        try:
            predictions["game_again"] = replay(
                recording,
                places,
                actions,
                chance=range(seed + 1, seed + 1 + len(places)),
                on_place=advance,
            )
        except CannotReplayError as error:
            why_not = str(error)
    lpips, no_lpips = load_lpips()
    return {
        "horizons": {
            str(horizon): row
            for horizon, row in fidelity(predictions, held_out, median, horizons, lpips).items()
        },
        "no_game_again": why_not,
        "no_lpips": no_lpips,
    }


def _frechet(
    recording: Recording,
    reference: Sequence[int],
    held_out: HeldOutWindows,
    judge: InverseDynamics,
    judged: dict[str, Judged],
    seed: int,
) -> dict[str, float]:
    """Distances to recorded play, over features of triples of frames: not FID, nor FVD."""
    number, steps = judged["real"][0].shape
    rng = np.random.default_rng(seed)
    known = recording.sample_windows(rng, number, steps + FRAMES - 1, reference).frames
    copied = np.repeat(held_out.last_context[:, None], steps, axis=1)
    features = {
        "held_out": judged["real"][1],
        "world": judged["world"][1],
        "copy_last": recognise(judge, held_out.with_context(copied, FRAMES - 1))[1],
    }
    recorded = recognise(judge, known)[1].flatten(0, 1)
    return {name: frechet(recorded, found.flatten(0, 1)) for name, found in features.items()}


def _flicker(
    held_out: HeldOutWindows, imagined: Frames, effort: Effort, stage: Stage
) -> dict[str, Any]:
    """Flow warping error of real and imagined videos."""
    some = held_out.first(effort.flicker_windows, FLICKER_STEPS)
    imagined = imagined[: len(some.real), : some.horizon]
    with stage("following the flow", 2 * len(some.real)) as advance:
        return flicker(
            some.with_context(some.real, 1),
            some.with_context(imagined, 1),
            some.episodes,
            advance,
        )._asdict()


def _control(
    world: WorldModel,
    recording: Recording,
    episodes: Sequence[int],
    held_out: HeldOutWindows,
    judged: dict[str, Judged],
    effort: Effort,
    stage: Stage,
    num_passes: int | None,
    seed: int,
) -> tuple[dict[str, Any], Counterfactuals]:
    """Shuffled actions, recognised actions, and every action from a few moments."""
    game = world.game
    with stage("shuffling actions", effort.shuffle_batches) as advance:
        ratio = action_shuffle_ratio(
            world,
            recording,
            episodes,
            seed=seed,
            num_batches=effort.shuffle_batches,
            on_batch=advance,
        )
    steps = judged["real"][0].shape[1]
    taken = held_out.windows.actions[:, held_out.context - 1 :][:, :steps]
    times = np.bincount(taken.ravel(), minlength=game.num_actions).tolist()
    accuracy: dict[str, Any] = {
        "steps_by_action": dict(zip(game.action_meanings, times, strict=True))
    }
    for name, (guessed, _) in judged.items():
        hits = guessed == taken
        accuracy[name] = estimate(hits.sum(1), np.full(len(hits), hits.shape[1]), held_out.episodes)
        by_action = accuracy_by_action(guessed, taken, game.num_actions)
        accuracy[f"{name}_by_action"] = dict(
            zip(game.action_meanings, by_action.tolist(), strict=True)
        )
    starts = held_out.first(max(2, COUNTERFACTUAL_LANES // game.num_actions), 1)
    with stage("trying every action", COUNTERFACTUAL_STEPS) as advance:
        tried = counterfactuals(
            world,
            recording,
            starts,
            num_steps=COUNTERFACTUAL_STEPS,
            num_passes=num_passes,
            seed=seed,
            on_step=advance,
        )
    sides = {"world": tried.imagined} | ({} if tried.real is None else {"real": tried.real})
    noop = game.noop_action
    figures: dict[str, Any] = {
        "action_shuffle_ratio": ratio.overall,
        "action_shuffle_ratio_by_action": ratio.by_action,
        "recognised": accuracy,
        "effect_by_action": {},
        "noop_pixels_a_step": {},
        "no_real_counterfactuals": tried.why_not,
    }
    for name, frames in sides.items():
        figures["effect_by_action"][name] = dict(
            zip(game.action_meanings, effect(frames, noop).mean(0).tolist(), strict=True)
        )
        figures["noop_pixels_a_step"][name] = estimate(
            commotion(frames[:, noop], starts.last_context), np.ones(len(frames)), starts.episodes
        )
    return figures, tried
