"""Rewards and ends that a world predicts, beside those that were recorded.

Both are rare, so stretches of held-out play in which something happens are all looked at, and of
the others a few, which then count for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.eval.bootstrap import wilson

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

STRETCH = 8  # steps predicted in a row, each from what the world itself has made of those before
_BATCH = 32
_BINS = 10


class Predicted(NamedTuple):
    """Steps of held-out play, recorded and predicted, (n).

    Attributes:
        rewards: Recorded.
        predicted_rewards: Expected by the world.
        terminations: Recorded.
        termination_probs: By the world.
        weights: How many recorded steps each stands for.
    """

    rewards: NDArray[np.float32]
    predicted_rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    termination_probs: NDArray[np.float32]
    weights: NDArray[np.float64]


class Found(NamedTuple):
    """How well rare things are found.

    Attributes:
        number: How many there were.
        predicted: How many were predicted.
        precision: Of those predicted, the part that happened; nan if none was predicted.
        recall: Of those that happened, the part predicted; nan if there were none.
        f1: Their harmonic mean; nan if there was none of either.
        low: Lower end of the 95 % band of F1. F1 grows with the share of all that happened or was
            predicted which did both, and that share's band is Wilson's.
        high: Upper end.
    """

    number: int
    predicted: int
    precision: float
    recall: float
    f1: float
    low: float
    high: float


class ReliabilityBin(NamedTuple):
    """Steps whose ends have about the same predicted probability.

    Attributes:
        predicted: Their mean probability.
        happened: The share of them that ended.
        steps: How many there are.
    """

    predicted: float
    happened: float
    steps: int


@dataclass(frozen=True)
class EventSummary:
    """How rewards and ends are predicted.

    Attributes:
        steps: How many steps were looked at.
        reward_positive: Rewards above 0.
        reward_negative: Rewards below 0.
        reward_mean: Mean recorded reward a step.
        predicted_reward_mean: Mean predicted reward a step.
        termination: Ends.
        termination_brier: Brier score of the probabilities of ends.
        termination_brier_of_mean: Brier score of predicting the mean rate of ends.
        termination_calibration_error: How far probabilities are from frequencies, the mean over
            ten bins of probability.
        termination_reliability: The bins that are not empty.
    """

    steps: int
    reward_positive: Found
    reward_negative: Found
    reward_mean: float
    predicted_reward_mean: float
    termination: Found
    termination_brier: float
    termination_brier_of_mean: float
    termination_calibration_error: float
    termination_reliability: list[ReliabilityBin]


def predict(
    world: WorldModel,
    recording: Recording,
    episodes: Sequence[int],
    *,
    num_stretches: int = 256,
    num_passes: int | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Predicted:
    """Let the world predict stretches of eight steps under the recorded actions.

    Args:
        world: The world.
        recording: A recording of its game.
        episodes: Episodes to take stretches from, each cut into stretches from its first step on.
        num_stretches: Stretches, at most; half of them are kept for those in which something
            happens.
        num_passes: Denoising passes a frame; None takes the world's own number.
        seed: Decides the stretches and the noise.
        on_step: Called after each step of a batch of 32, for a progress bar.

    Returns:
        Every step of them that was recorded.
    """
    from worldsim.eval.held_out import imagine  # torch takes seconds

    rng = np.random.default_rng(seed)
    places, eventful = _stretches(recording, episodes)
    chosen: list[int] = []
    weights: list[float] = []
    room = num_stretches
    for kind, share in ((eventful, num_stretches // 2), (~eventful, num_stretches)):
        members = np.flatnonzero(kind)
        picks = rng.permutation(members)[: min(share, room)]
        room -= len(picks)
        chosen += picks.tolist()
        weights += [len(members) / len(picks)] * len(picks) if len(picks) else []
    context = world.window
    parts: list[list[NDArray[Any]]] = []
    for begin in range(0, len(chosen), _BATCH):
        batch = chosen[begin : begin + _BATCH]
        windows = recording.windows(
            [places[i][0] for i in batch],
            [places[i][1] + 1 - context for i in batch],
            context + STRETCH,
        )
        made = imagine(
            world,
            windows.frames[:, :context],
            windows.actions,
            rng.integers(2**62, size=len(batch)).tolist(),
            num_passes=num_passes,
            on_step=on_step,
        )
        valid = windows.valid[:, context:]
        columns = (
            windows.rewards[:, context - 1 :],
            made.rewards,
            windows.terminations[:, context - 1 :],
            made.termination_probs,
            np.repeat([weights[begin : begin + _BATCH]], STRETCH, axis=0).T,
        )
        parts.append([values.T[valid.T] for values in columns])  # step by step
    return Predicted(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def num_batches(num_stretches: int) -> int:
    """How often ``predict`` calls ``on_step``, at most."""
    return -(-num_stretches // _BATCH) * STRETCH


def _stretches(
    recording: Recording, episodes: Sequence[int]
) -> tuple[list[tuple[int, int]], NDArray[np.bool_]]:
    """Episode and first step of each stretch, and whether anything happens in it."""
    places, eventful = [], []
    for index in episodes:
        episode = recording.episode(index)
        happens = (episode.rewards != 0) | episode.terminations
        for start in range(0, len(episode.actions), STRETCH):
            places.append((int(index), start))
            eventful.append(bool(happens[start : start + STRETCH].any()))
    return places, np.array(eventful)


def find(
    happened: NDArray[np.bool_], predicted: NDArray[np.bool_], weights: NDArray[np.float64]
) -> Found:
    """Count what happened and was predicted, at the same step.

    Example:
        >>> yes, no = True, False
        >>> find(np.array([yes, yes, no, no]), np.array([yes, no, yes, no]), np.ones(4))[:5]
        (2, 2, 0.5, 0.5, 0.5)
    """
    both = weights[happened & predicted].sum()
    real, said = weights[happened].sum(), weights[predicted].sum()

    def part(of: float) -> float:
        return float(both / of) if of else float("nan")

    f1 = part((real + said) / 2)
    _, low, high = wilson(f1 / (2 - f1), int((happened | predicted).sum()))
    return Found(
        number=int(happened.sum()),
        predicted=int(predicted.sum()),
        precision=part(said),
        recall=part(real),
        f1=f1,
        low=2 * low / (1 + low),
        high=2 * high / (1 + high),
    )


def summarize(steps: Predicted) -> EventSummary:
    """Measure how rewards and ends are predicted.

    A reward counts as predicted where at least half of the recording's usual reward (the median of
    those that are not 0) is expected, an end where its probability is at least a half.
    """
    rewards, expected, ended, probs, weights = steps
    sizes = np.abs(rewards[rewards != 0])
    limit = 0.5 * float(np.median(sizes)) if len(sizes) else float("inf")
    total = weights.sum()
    rate = float(weights[ended].sum() / total)
    bins = np.minimum((probs * _BINS).astype(int), _BINS - 1)
    error = sum(abs((weights * (ended - probs))[bins == i].sum()) for i in range(_BINS))
    reliability = [
        ReliabilityBin(
            predicted=float(np.average(probs[inside], weights=weights[inside])),
            happened=float(np.average(ended[inside], weights=weights[inside])),
            steps=int(inside.sum()),
        )
        for inside in (bins == i for i in range(_BINS))
        if inside.any()
    ]
    return EventSummary(
        steps=len(rewards),
        reward_positive=find(rewards >= limit, expected >= limit, weights),
        reward_negative=find(rewards <= -limit, expected <= -limit, weights),
        reward_mean=float((weights * rewards).sum() / total),
        predicted_reward_mean=float((weights * expected).sum() / total),
        termination=find(ended, probs >= 0.5, weights),
        termination_brier=float((weights * (ended - probs) ** 2).sum() / total),
        termination_brier_of_mean=rate * (1 - rate),
        termination_calibration_error=float(error / total),
        termination_reliability=reliability,
    )
