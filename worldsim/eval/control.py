"""Control: whether the actions decide what a world predicts.

The action-shuffle ratio compares the error under other actions with the error under the true ones.
Counterfactuals hold each action from the same moment, in the world and in the real game.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray

from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.eval.held_out import HeldOutWindows, imagine, lane_seeds
from worldsim.eval.real_game import CannotReplayError, replay
from worldsim.frames import MOVING_THRESHOLD
from worldsim.model.actions import by_times
from worldsim.model.conditions import Conditions
from worldsim.model.flow import add_noise, frame_errors
from worldsim.rollout_context import prompts_of
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]


class ShuffleRatio(NamedTuple):
    """How much wrong actions raise a world's error of the next frame.

    Attributes:
        overall: Error under other windows' actions divided by the error under the true ones.
            1: actions are ignored; nan: the recorded actions never differ.
        by_action: The same by the name of the true last action, over windows whose shuffled last
            action differs; nan for unused actions.
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

    Both use the same windows and noise. A batch in which all windows have the same actions is
    drawn again.

    Args:
        world: The world.
        recording: The game's recording.
        episodes: Episodes to draw windows from.
        seed: Seed of windows, permutations and noise.
        num_batches: Number of batches.
        batch_size: Windows per batch, at least 2.
        on_batch: Called after each batch, for a progress bar.
    """
    rng = np.random.default_rng(seed)
    length = world.context_frames + world.patch_frames * world.num_history
    # Prefer complete windows. Padding may only come first: the last frame is the one measured.
    whole = [index for index in episodes if recording.episode_lengths[index] + 1 >= length]
    padding = 0 if whole else length - 2
    # Some batches cannot be shuffled, so draw up to four times as many as are needed.
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
            next_frame_errors(world, windows, torch.Generator().manual_seed(noise_seed), given)
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
    # Divide sums, not batch means, so that all windows count alike.
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
    """Give each row (b t) the actions of another row; None if that changes nothing."""
    rows = rng.permutation(len(actions))
    shuffled = np.empty_like(actions)
    shuffled[rows] = actions[np.roll(rows, 1)]
    return None if np.array_equal(shuffled, actions) else shuffled


@torch.no_grad()
def next_frame_errors(
    world: WorldModel,
    windows: Windows,
    generator: torch.Generator,
    actions: np.ndarray | None = None,
) -> torch.Tensor:
    """Error of the last frame of each window, predicted as in play.

    It is predicted in one pass from pure noise, after a clean history. At lower noise levels the
    noisy frame itself reveals the effect of the action.

    Args:
        world: The world.
        windows: Recorded windows of ``num_history + t`` times.
        generator: Source of noise; the same seed gives the same draws.
        actions: Actions (b t-1) instead of the recorded ones.

    Returns:
        The mean squared error of each window (b), 0 where the last frame is padding.
    """
    k, p, device = world.num_history, world.patch_frames, world.device
    latents = world.encode(torch.from_numpy(windows.frames).to(device))
    targets = latents[:, k:]
    tau = torch.ones(targets.shape[:2], device=device)
    tau[:, -1] = 0
    noise = torch.randn(targets.shape, generator=generator).to(device)
    taken = torch.from_numpy(windows.actions if actions is None else actions)[:, p * (k - 1) :]
    taken = by_times(taken.to(device), p)
    prompts = prompts_of(windows, world)
    text = None if prompts is None else world.encode_text(prompts)
    conditions = Conditions(tau, taken, world.history(latents), text=text)
    output = world.predict(add_noise(targets, noise, tau), conditions)
    errors = frame_errors(output.latents[:, -1:], targets[:, -1:])[:, 0]
    return errors * torch.from_numpy(windows.valid[:, -1]).to(device)


class Counterfactuals(NamedTuple):
    """Each action a held for t steps from each of n moments.

    Attributes:
        imagined: The world's frames, ``uint8`` (n a t h w c); all actions share their noise.
        real: The game's frames, or None if it cannot be replayed to those moments.
        why_not: Why the game cannot be replayed; empty if it can.
    """

    imagined: Frames
    real: Frames | None
    why_not: str


def counterfactuals(
    world: WorldModel,
    recording: Recording,
    held_out: HeldOutWindows,
    *,
    num_steps: int = 16,
    num_passes: int | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Counterfactuals:
    """Hold each action from the same moments, in the world and in the real game.

    Args:
        world: The world.
        recording: The game's recording.
        held_out: Windows whose contexts end at those moments.
        num_steps: Steps to hold each action.
        num_passes: Denoising passes per frame; None takes the world's own number.
        seed: Seed of the noise.
        on_step: Called after each of the world's steps, for a progress bar.
    """
    # All actions of a moment are lanes of one batch, with the same context and noise.
    n, a = len(held_out.real), world.game.num_actions
    context = held_out.context
    held = repeat(np.arange(a), "a -> (n a) t", n=n, t=num_steps)
    given = repeat(held_out.windows.actions[:, : context - 1], "n t -> (n a) t", a=a)
    prompts = prompts_of(held_out.windows, world)
    rollout = imagine(
        world,
        repeat(held_out.windows.frames[:, :context], "n t h w c -> (n a) t h w c", a=a),
        np.concatenate((given, held), axis=1),
        [lane_seed for lane_seed in lane_seeds(seed, n) for _ in range(a)],
        num_passes=num_passes,
        prompts=None if prompts is None else [each for each in prompts for _ in range(a)],
        on_step=on_step,
    )
    imagined = rearrange(rollout.frames, "(n a) t h w c -> n a t h w c", n=n)
    # The true effect, where the game can be replayed.
    moments = [(episode, first + context - 1) for episode, first in held_out.places]
    try:
        real = replay(
            recording,
            [moment for moment in moments for _ in range(a)],
            held,
        )
    except CannotReplayError as error:
        return Counterfactuals(imagined, None, str(error))
    return Counterfactuals(imagined, rearrange(real, "(n a) t h w c -> n a t h w c", n=n), "")


def effect(frames: Frames, noop: int) -> NDArray[np.float64]:
    """Share of pixels that differ from the noop's in the last frame, (n a)."""
    last = frames[:, :, -1].astype(np.int16)
    return (np.abs(last - last[:, noop, None]).max(-1) > MOVING_THRESHOLD).mean((-2, -1))


def motion(frames: Frames, first: Frames) -> NDArray[np.float64]:
    """Mean number of pixels that change per step, (n), of videos (n t h w c) after ``first``."""
    whole = np.concatenate((first[:, None], frames), axis=1).astype(np.int16)
    return (np.abs(np.diff(whole, axis=1)).max(-1) > MOVING_THRESHOLD).mean(1).sum((-2, -1))
