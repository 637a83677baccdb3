"""Events: rewards and ends that a world predicts, compared with the recorded ones.

Both are rare. So all stretches with an event are measured, up to half of the total. Of the others a
sample is measured, weighted to stand for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.eval.bootstrap import wilson
from worldsim.rollout_context import prompts_of

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

STRETCH = 8  # frames predicted in a row, each from the world's own frames
_BATCH = 32
_BINS = 10


class Predicted(NamedTuple):
    """Steps of held-out play, recorded and predicted, (n); where a step has several frames, in sum.

    Attributes:
        rewards: Recorded rewards.
        predicted_rewards: The world's expected rewards.
        terminations: Recorded ends.
        termination_probs: The world's probabilities of ends.
        weights: The number of recorded steps that each stands for.
    """

    rewards: NDArray[np.float32]
    predicted_rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    termination_probs: NDArray[np.float32]
    weights: NDArray[np.float64]


class Found(NamedTuple):
    """How well a kind of rare event is predicted.

    Attributes:
        number: Events that happened.
        predicted: Events that were predicted.
        precision: Share of the predicted events that happened; nan if none was predicted.
        recall: Share of the events that were predicted; nan if none happened.
        f1: Harmonic mean of both; nan if none happened or was predicted.
        low: Lower end of the 95 % confidence interval of F1. It follows from Wilson's interval of
            the Jaccard index, with which F1 grows.
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
    """Steps with about the same predicted probability of an end.

    Attributes:
        predicted: Mean predicted probability.
        happened: Share of the steps that ended.
        steps: Number of steps.
    """

    predicted: float
    happened: float
    steps: int


@dataclass(frozen=True)
class EventSummary:
    """How well rewards and ends are predicted.

    Attributes:
        steps: Number of steps measured.
        reward_positive: Rewards above 0.
        reward_negative: Rewards below 0.
        reward_mean: Mean recorded reward per step.
        predicted_reward_mean: Mean predicted reward per step.
        termination: Ends.
        termination_brier: Brier score of the probabilities of ends.
        termination_brier_of_mean: Brier score of always predicting the mean rate of ends.
        termination_calibration_error: Expected calibration error over ten bins of probability.
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
        episodes: Episodes to cut into stretches, from their first steps on.
        num_stretches: Number of stretches, at most; up to half of them have an event.
        num_passes: Denoising passes per frame; None takes the world's own number.
        seed: Seed of the choice of stretches and of the noise.
        on_step: Called after each step of a batch of 32, for a progress bar.

    Returns:
        All recorded steps of the stretches.
    """
    from worldsim.eval.held_out import imagine  # torch takes seconds

    # Oversample the stretches with an event; the weights undo it.
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
    # Predict the stretches in batches, each after a full context.
    context = world.context_frames
    parts: list[list[NDArray[Any]]] = []
    for begin in range(0, len(chosen), _BATCH):
        batch = chosen[begin : begin + _BATCH]
        windows = recording.windows(
            [places[i][0] for i in batch],
            [places[i][1] + 1 - context for i in batch],
            context + STRETCH,
        )
        imagined = imagine(
            world,
            windows.frames[:, :context],
            windows.actions,
            rng.integers(2**62, size=len(batch)).tolist(),
            num_passes=num_passes,
            prompts=prompts_of(windows, world),
            on_step=on_step,
        )
        # A step of several frames has one reward and one end.
        firsts = np.arange(0, STRETCH, world.patch_frames)
        columns = (
            np.add.reduceat(windows.rewards[:, context - 1 :], firsts, axis=1),
            np.add.reduceat(imagined.rewards, firsts, axis=1),
            np.logical_or.reduceat(windows.terminations[:, context - 1 :], firsts, axis=1),
            np.maximum.reduceat(imagined.termination_probs, firsts, axis=1),
            np.repeat([weights[begin : begin + _BATCH]], len(firsts), axis=0).T,
        )
        # Stretches at the end of an episode are padded: keep the recorded steps.
        valid = np.logical_or.reduceat(windows.valid[:, context:], firsts, axis=1)
        parts.append([values.T[valid.T] for values in columns])  # step by step
    return Predicted(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def num_batches(num_stretches: int) -> int:
    """How often `predict` calls ``on_step``, at most."""
    return -(-num_stretches // _BATCH) * STRETCH


def _stretches(
    recording: Recording, episodes: Sequence[int]
) -> tuple[list[tuple[int, int]], NDArray[np.bool_]]:
    """Episode and first step of each stretch, and whether it has an event."""
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
    """Compare the steps of events with the steps at which they were predicted.

    Example:
        >>> yes, no = True, False
        >>> find(np.array([yes, yes, no, no]), np.array([yes, no, yes, no]), np.ones(4))[:5]
        (2, 2, 0.5, 0.5, 0.5)
    """
    both = weights[happened & predicted].sum()
    real, guessed = weights[happened].sum(), weights[predicted].sum()

    def part(of: float) -> float:
        return float(both / of) if of else float("nan")

    f1 = part((real + guessed) / 2)
    _, low, high = wilson(f1 / (2 - f1), int((happened | predicted).sum()))
    return Found(
        number=int(happened.sum()),
        predicted=int(predicted.sum()),
        precision=part(guessed),
        recall=part(real),
        f1=f1,
        low=2 * low / (1 + low),
        high=2 * high / (1 + high),
    )


def summarize(steps: Predicted) -> EventSummary:
    """Measure how well rewards and ends are predicted.

    A reward counts as predicted if its expectation is at least half of the median nonzero reward.
    An end counts as predicted if its probability is at least 0.5.
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
