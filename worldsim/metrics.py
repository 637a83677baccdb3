"""How good a world is, always beside two players that know nothing of the game.

*Copy-last* repeats the last context frame, *median* shows the recording's median frame. On Pong an
empty court already looks like 34 dB over all pixels, so figures on **moving pixels** stand beside:
those where the real frame at the horizon or the last context frame differs from the median frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.frames import MOVING_THRESHOLD
from worldsim.held_out import HORIZONS, HeldOutWindows
from worldsim.recording import Recording
from worldsim.rollout import Rollout, RolloutState
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]
HorizonMetrics = dict[str, float]

ROUNDING_ERROR = 1 / 12  # mean squared error of rounding to whole pixel values


def moving_mask(real: Frames, last_context: Frames, median: Frames) -> NDArray[np.bool_]:
    """Find the pixels where something is, or was when the context ended.

    Args:
        real: ``uint8`` (... h w c), the recorded frames at the horizon.
        last_context: ``uint8`` (... h w c), the frames that the prediction started from.
        median: ``uint8`` (h w c), the recording's median frame.

    Returns:
        ``bool`` (... h w): a channel of either differs from the median by more than 12 of 255.

    Example:
        >>> black, grey = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 100, np.uint8)
        >>> moving_mask(grey, black, black).tolist(), moving_mask(black, black, black).tolist()
        ([[True, True]], [[False, False]])
    """
    median = median.astype(np.int16)
    differs = np.abs(real.astype(np.int16) - median) > MOVING_THRESHOLD
    differed = np.abs(last_context.astype(np.int16) - median) > MOVING_THRESHOLD
    return (differs | differed).any(axis=-1)


def psnr(
    real: Frames, predicted: Frames, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64] | float:
    """Peak signal-to-noise ratio in dB, higher is better.

    The squared error is counted as at least 1/12, what rounding to whole pixel values costs: equal
    pictures have 58.9 dB, not infinity.

    Args:
        real: ``uint8`` (b h w c).
        predicted: ``uint8``, of a shape that broadcasts to the same.
        mask: ``bool`` (b h w), the pixels that count.

    Returns:
        Without a mask one value a picture, (b,). With one a single value, of the error pooled over
        all its pixels (pictures have very different numbers of them); nan if there are none.

    Example:
        >>> picture = np.zeros((1, 8, 8, 3), np.uint8)
        >>> psnr(picture, picture).round(1).tolist(), psnr(picture, picture + 255).tolist()
        ([58.9], [0.0])
    """
    error = (real.astype(np.float64) - predicted.astype(np.float64)) ** 2
    if mask is None:
        return to_decibels(error.mean(axis=(1, 2, 3)))
    if not mask.any():
        return float("nan")
    return float(to_decibels(error[mask].mean()))


def to_decibels(error: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """PSNR in dB of a mean squared error, which counts as at least 1/12."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, ROUNDING_ERROR)))


def compare(
    imagined: Frames,
    held_out: HeldOutWindows,
    median: Frames,
    horizons: Sequence[int] = HORIZONS,
) -> dict[int, HorizonMetrics]:
    """Measure a rollout beside the two baselines.

    Returns:
        By horizon, for each NAME of world, copy_last and median: ``psnr_NAME``, the mean over the
        windows in dB, and ``psnr_moving_NAME``, with the error pooled over the moving pixels of
        all windows; and ``moving_fraction``, the share of pixels that move.
    """
    results: dict[int, HorizonMetrics] = {}
    for horizon in sorted(h for h in set(horizons) if h <= held_out.horizon):
        real = held_out.real[:, horizon - 1]
        mask = moving_mask(real, held_out.last_context, median)
        predictions = {
            "world": imagined[:, horizon - 1],
            "copy_last": held_out.last_context,
            "median": median,
        }
        row = {"moving_fraction": float(mask.mean())}
        for name, predicted in predictions.items():
            row[f"psnr_{name}"] = float(np.mean(psnr(real, predicted)))
            row[f"psnr_moving_{name}"] = float(psnr(real, predicted, mask))
        results[horizon] = row
    return results


class ShuffleRatio(NamedTuple):
    """How much worse a world predicts the next frame when it is given the wrong actions.

    Attributes:
        overall: Error under other windows' actions over the error under the true ones; 1 means
            that the world does not listen, nan that the recording's actions never differ.
        by_action: The same by the meaning of the true last action, over the windows in which the
            other last action differs; nan for an action that was never taken.
    """

    overall: float
    by_action: dict[str, float]


def action_shuffle_ratio(
    world: WorldModel,
    recording: Recording,
    episodes: Sequence[int],
    *,
    seed: int = 0,
    num_batches: int = 8,
    batch_size: int = 16,
    on_batch: Callable[[], None] | None = None,
) -> ShuffleRatio:
    """Divide the error under other windows' actions by the error under the true ones.

    Both see the same windows and noise; batches in which every window has the same actions are
    drawn again.

    Args:
        world: The world.
        recording: The game's recording.
        episodes: Episodes to draw windows from.
        seed: Decides windows, permutations and noise.
        num_batches: Batches.
        batch_size: Windows a batch, at least 2.
        on_batch: Called after each batch, for a progress bar.
    """
    rng = np.random.default_rng(seed)
    length = world.num_history + world.window
    whole = [index for index in episodes if recording.episode_lengths[index] + 1 >= length]
    padding = 0 if whole else length - 2  # a window that ends in padding has no last frame to judge
    batches: list[tuple[NDArray[Any], ...]] = []
    for _ in range(4 * num_batches):
        windows = recording.sample_windows(
            rng, batch_size, length, whole or episodes, left_padding=padding
        )
        actions = _shuffle_actions(windows.actions, rng)
        if actions is None:
            continue
        noise_seed = int(rng.integers(2**62))
        true_errors, other_errors = (
            world.dynamics_errors(windows, torch.Generator().manual_seed(noise_seed), given)
            .double()
            .cpu()
            .numpy()
            for given in (windows.actions, actions)
        )
        batches.append((true_errors, other_errors, windows.actions[:, -1], actions[:, -1]))
        if on_batch is not None:
            on_batch()
        if len(batches) == num_batches:
            break
    meanings = world.game.action_meanings
    if not batches:
        return ShuffleRatio(float("nan"), dict.fromkeys(meanings, float("nan")))
    true_errors, other_errors, last, other_last = (
        np.concatenate(parts) for parts in zip(*batches, strict=True)
    )

    def ratio(chosen: NDArray[np.bool_]) -> float:
        below = true_errors[chosen].sum()
        return float(other_errors[chosen].sum() / below) if below else float("nan")

    return ShuffleRatio(
        ratio(np.ones(len(last), bool)),
        {name: ratio((last == i) & (other_last != i)) for i, name in enumerate(meanings)},
    )


def _shuffle_actions(
    actions: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Give each row (b t) the actions of another row, None if that changes nothing."""
    rows = rng.permutation(len(actions))
    shuffled = np.empty_like(actions)
    shuffled[rows] = actions[np.roll(rows, 1)]
    return None if np.array_equal(shuffled, actions) else shuffled


def step_latency(
    world: WorldModel,
    at: Sequence[int] = (10, 1000),
    *,
    num_passes: int | None = None,
    rounds: int = 8,
    on_step: Callable[[], None] | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Measure the milliseconds of a step of one session, early and late.

    One session walks to the last of ``at`` (with a single denoising pass a frame, which fills the
    same memory sooner) and leaves a snapshot at each. Then each snapshot in turn is restored and
    timed for a few steps, ``rounds`` times over, so that a machine that slows down for a moment
    slows all of them alike.

    Args:
        world: The world.
        at: Steps after the reset.
        num_passes: Denoising passes of the timed steps; None takes the world's own number.
        rounds: Times each is measured, 10 steps each.
        on_step: Called after each step on the way, for a progress bar.

    Returns:
        By step: the milliseconds of each step that was timed, (10 * rounds).
    """
    rng = np.random.default_rng(0)
    rollout = Rollout(world, 1, num_passes=1)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], [0])

    def play() -> None:
        rollout.step(rng.integers(world.game.num_actions, size=1))

    snapshots: dict[int, RolloutState] = {}
    for step in range(max(at) + 1):
        if step in at:
            snapshots[step] = rollout.clone_state()
        play()
        if on_step is not None:
            on_step()

    rollout.num_passes = world.num_passes if num_passes is None else num_passes
    times: dict[int, list[float]] = {step: [] for step in snapshots}
    for _ in range(rounds):
        for step, snapshot in snapshots.items():
            rollout.restore_state(snapshot)
            play()  # the first step after a copy finds cold caches
            for _ in range(10):
                begin = time.perf_counter()
                play()
                times[step].append(1000 * (time.perf_counter() - begin))
    return {step: np.array(ms) for step, ms in times.items()}
