"""The training objective: `encode` windows into batches, then take their `objective`.

A step may have several batches: groups of clips of different frame sizes and lengths, which go
through the network together.

Every frame after the first ``num_history`` of a window is a target. Each has its own noise level
(diffusion forcing, Chen et al. 2024), so one forward pass trains all mixtures of noisy and clean
frames. Histories are made to look as in play, where the world has predicted them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce

from worldsim.data.latents import unpack_bits
from worldsim.data.windows import Windows
from worldsim.frames import moving_pixels
from worldsim.model.actions import by_times
from worldsim.model.chance import Codes
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.flow import add_noise, frame_errors, ramp_weight
from worldsim.model.text import Text, Tokens
from worldsim.world_model import WorldModel

from .corruption import corrupt_history
from .draws import CodeDraws, Draws
from .moving import moving_places
from .recipe import Recipe
from .stills import histories, read_captions, with_stills

HEAD_WEIGHT = 0.02  # of reward and termination, relative to the frame
CHANCE_WEIGHT = 0.02  # of the prior of chance codes, relative to the frame


class Batch(NamedTuple):
    """Encoded windows of k + t times, where k is the world's ``num_history``.

    A time is a frame, or with spacetime patches its ``patch_frames`` frames.

    Attributes:
        latents: (b k+t c h w).
        moving: Pixels that differ from the median frame, bool (b k+t height width).
        actions: The action that led into each target (b t), or into each of its frames (b t p).
        rewards: The reward of that action (b t), summed up over the target's frames.
        terminations: Whether the episode ended with it (b t).
        valid: 1 where the target is recorded, 0 where it is padding (b t).
        tokens: The captions, in a world with text.
    """

    latents: torch.Tensor
    moving: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminations: torch.Tensor
    valid: torch.Tensor
    tokens: Tokens | None = None


class Losses(NamedTuple):
    """Losses of each target of a batch (b t); `mean` leaves out those of padding.

    Attributes:
        frame: Squared error of the predicted clean frame, weighted by what moves and not yet by
            its noise level.
        head: Cross-entropy of reward and termination.
        tau: Noise level of each frame.
        valid: 1 where the frame is recorded, 0 where it is padding.
        chance: Cross-entropy of the prior of chance codes, in nats, and the squared error of the
            mean of their bits; 0 without codes.
    """

    frame: torch.Tensor
    head: torch.Tensor
    tau: torch.Tensor
    valid: torch.Tensor
    chance: torch.Tensor

    def mean(self, per_frame: torch.Tensor) -> torch.Tensor:
        """Mean of a (b t) quantity over the frames that are not padding."""
        return (per_frame * self.valid).sum() / self.valid.sum().clamp_min(1)

    def total(self) -> torch.Tensor:
        """The loss that training minimises."""
        frame = self.frame * ramp_weight(self.tau)
        return self.mean(frame + HEAD_WEIGHT * self.head + CHANCE_WEIGHT * self.chance)


def pinned(windows: Windows) -> Windows:
    """The same windows in pinned memory, which a GPU copies without the host waiting for it."""
    arrays: dict[str, Any] = {
        name: torch.from_numpy(array).pin_memory().numpy() for name, array in windows.arrays.items()
    }
    return replace(windows, **arrays)


def encode(world: WorldModel, windows: Windows, backgrounds: np.ndarray | None = None) -> Batch:
    """Encode recorded windows of ``num_history + t`` times on the world's device.

    Args:
        world: The world in training.
        windows: The windows.
        backgrounds: The median frame of each window's recording (b h w c); that of the world if not
            given.
    """
    k, p = world.num_history, world.patch_frames
    first = p * (k - 1)  # frame before the first target
    to_device = partial(_to_device, world)
    latents, moving = _latents_and_moving(world, windows, backgrounds)
    tokens = None
    if world.text is not None:
        captions = windows.captions or [None] * len(windows.frames)
        tokens = world.text.tokenize(captions).to(world.device)
    rewards = to_device(windows.rewards)[:, first:]
    terminations = to_device(windows.terminations)[:, first:]
    valid = to_device(windows.valid)[:, first + 1 :]
    if p > 1:
        later = reduce(moving[:, 1:], "b (t p) h w -> b t h w", "max", p=p)
        moving = torch.cat((moving[:, :1], later), dim=1)
        rewards = reduce(rewards, "b (t p) -> b t", "sum", p=p)
        terminations, valid = (
            reduce(each, "b (t p) -> b t", "max", p=p) for each in (terminations, valid)
        )
    return Batch(
        latents=latents,
        moving=moving,
        actions=by_times(to_device(windows.actions)[:, first:], p),
        rewards=rewards,
        terminations=terminations,
        valid=valid.float(),
        tokens=tokens,
    )


def _latents_and_moving(
    world: WorldModel, windows: Windows, backgrounds: np.ndarray | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents (b t' c h w) of windows, and which of their pixels move, bool (b t h w).

    Arguments are those of `encode`. Windows from a cache have both already.
    """
    if windows.latents is not None and windows.moving is not None:
        latents = world.relative(_to_device(world, windows.latents).float())
        width = windows.frames.shape[3]
        return latents, unpack_bits(_to_device(world, windows.moving), width)
    own = world.background if backgrounds is None else backgrounds[:, None]
    frames = _to_device(world, windows.frames)
    return world.encode(frames), moving_pixels(frames, _to_device(world, own))


def _to_device(world: WorldModel, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(world.device, non_blocking=True)


def objective(
    world: WorldModel,
    batches: Sequence[Batch],
    recipe: Recipe,
    draws: Sequence[Draws],
    average: WorldModel | None = None,
) -> Losses:
    """The losses of a step: a function of tensors, in which the host never waits for the device.

    Args:
        world: The world in training.
        batches: From `encode`, of different frame sizes or lengths.
        recipe: The recipe at this point of the run, see `Recipe.at`.
        draws: All that is random, from `worldsim.train.draws.draw`, for each batch.
        average: The world of averaged weights, from whose predictions chance codes tell what
            differs; the world itself if not given.

    Returns:
        Losses of each target; those of several batches are one row.
    """
    k = world.num_history
    batches = [with_stills(world, *each) for each in zip(batches, draws, strict=True)]
    noisy = [
        add_noise(batch.latents[:, k:], each.noise, each.tau)
        for batch, each in zip(batches, draws, strict=True)
    ]
    # Chance codes tell which of the possible frames each target is.
    codes = write_codes(world, batches, draws, average or world)
    conditions = [_conditions(world, *each) for each in zip(batches, draws, codes, strict=True)]
    # Histories as in play: predicted by the world, with objects missing or doubled, slightly noisy.
    pasts = _with_own_predictions(world, batches, noisy, conditions, draws)
    seen = [_corrupted(*each) for each in zip(pasts, batches, draws, strict=True)]
    conditions = [
        known._replace(history=_noisy_history(world, past, each))
        for known, (past, _), each in zip(conditions, seen, draws, strict=True)
    ]
    outputs = world.predict(noisy, conditions)
    losses = [
        _losses(world, batch, recipe, each.tau, erased, actions.actions, written, output)
        for batch, each, (_, erased), actions, written, output in zip(
            batches, draws, seen, conditions, codes, outputs, strict=True
        )
    ]
    if len(losses) == 1:
        return losses[0]
    fields = zip(*losses, strict=True)
    return Losses(*(torch.cat([part.flatten() for part in field])[None] for field in fields))


def _conditions(world: WorldModel, batch: Batch, draws: Draws, codes: Codes | None) -> Conditions:
    """The conditions of the targets, with the recorded history."""
    # Hide some actions, so that the world also learns to continue with an unknown action.
    actions = batch.actions
    if draws.hidden_actions is not None:
        hidden = draws.hidden_actions if actions.ndim == 2 else draws.hidden_actions[..., None]
        actions = actions.masked_fill(hidden, world.game.num_actions)
    known = None
    if codes is not None and draws.codes is not None:
        known = _known_codes(codes, draws.codes)
    history = histories(world, batch.latents, draws)
    return Conditions(draws.tau, actions, history, known, read_captions(world, batch, draws))


def _corrupted(
    past: torch.Tensor, batch: Batch, draws: Draws
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The past with objects missing or doubled, and where one is missing."""
    if draws.corruption is None:
        return past, None
    return corrupt_history(past, batch.latents, draws.corruption)


def _noisy_history(world: WorldModel, past: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The history with errors as they grow in play: of contrast, and noise."""
    history = histories(world, past, draws)
    if draws.history_contrast is not None:
        history = history * draws.history_contrast
    return history if draws.history_noise is None else history + draws.history_noise


def _losses(
    world: WorldModel,
    batch: Batch,
    recipe: Recipe,
    tau: torch.Tensor,
    erased: torch.Tensor | None,
    actions: torch.Tensor,
    codes: Codes | None,
    output: DiTOutput,
) -> Losses:
    """The losses of a batch (b t).

    Args:
        world: The world in training.
        batch: The batch.
        recipe: The recipe at this point of the run.
        tau: Noise level of each target (b t).
        erased: Where an object is missing in the history, bool (b k+t 1 h w).
        actions: Those that the world knew (b t).
        codes: Written chance codes.
        output: What the world predicted.
    """
    k = world.num_history
    targets = batch.latents[:, k:]
    size = targets.shape[-2:]
    # The background is learned within a minute, small objects much later: they weigh more.
    weights = None
    if recipe.moving_weight:
        focus = recipe.object_focus[0]
        places = moving_places(batch.moving, (size[0], size[1]), focus)[:, k:]
        if erased is not None:  # an object that was erased from the history may be anywhere
            places = torch.maximum(places, (1 - focus) * erased[:, k - 1 : -1])
        weights = 1 + recipe.moving_weight * places
        weights = weights / weights.mean()
    return Losses(
        frame=frame_errors(output.latents, targets, weights),
        head=world.head.loss(world.head(output.features), batch.rewards, batch.terminations),
        tau=tau,
        valid=batch.valid,
        chance=torch.zeros_like(tau)
        if codes is None
        else codes.errors + prior_errors(world, output, actions, codes.bits),
    )


def write_codes(
    world: WorldModel,
    batches: Sequence[Batch],
    draws: Sequence[Draws],
    average: WorldModel,
) -> list[Codes | None]:
    """Write the chance codes (b t bits) of all frames but the first k, see `ChanceCodes.encode`.

    Args:
        world: A world with chance codes, if any are drawn.
        batches: From `encode`.
        draws: Of each batch; without codes, none are written.
        average: The world that predicts the means. Averaged weights err less, so fewer frames are
            surprises by mistake.
    """
    noises = [each.codes.noise for each in draws if each.codes is not None]
    if not noises:
        return [None] * len(batches)
    chance = world.dit.chance
    assert chance is not None
    with torch.no_grad():
        conditions = [
            Conditions(
                torch.zeros_like(each.tau),
                batch.actions,
                histories(world, batch.latents, each),
                text=read_captions(average, batch, each),
            )
            for batch, each in zip(batches, draws, strict=True)
        ]
        expected = average.predict(noises, conditions)
    return [
        chance.encode(batch.latents[:, world.num_history :], means, batch.valid > 0)
        for batch, means in zip(batches, expected, strict=True)
    ]


def prior_errors(
    world: WorldModel, output: DiTOutput, actions: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy (b t) of the prior of chance codes; 0 for the first frame of a window."""
    chance = world.dit.chance
    assert chance is not None
    logits = chance.prior_logits(output.features[:, :-1], actions[:, 1:])
    numbers = chance.number(codes[:, 1:])
    errors = F.cross_entropy(logits.movedim(-1, 1), numbers, reduction="none")
    return F.pad(errors, (1, 0))


def _known_codes(codes: Codes, draws: CodeDraws) -> torch.Tensor:
    """The codes (b t bits) that the world is given: some are hidden, some say nothing."""
    known = codes.bits.masked_fill(draws.hidden[..., None], 0.0)
    # In play the prior errs. Where the frame is certain, a code must change nothing.
    needless = draws.needless & codes.certain & (codes.bits == 0).all(-1)
    return torch.where(needless[..., None], draws.bits, known)


@torch.no_grad()
def _with_own_predictions(
    world: WorldModel,
    batches: Sequence[Batch],
    noisy: Sequence[torch.Tensor],
    conditions: Sequence[Conditions],
    draws: Sequence[Draws],
) -> list[torch.Tensor]:
    """Replace the targets of the first windows by one-step predictions of the world.

    Parallel scheduled sampling (Mihaylova & Martins 2019): the world learns to correct its own
    errors, at the cost of another forward pass. Windows are in random order, so the first are any.

    Returns:
        The latents of each batch (b k+t c h w).
    """
    pasts = [batch.latents for batch in batches]
    chosen = [number for number, each in enumerate(draws) if each.num_own]
    if not chosen:
        return pasts
    counts = [draws[number].num_own for number in chosen]
    predicted = world.predict(
        [noisy[number][:count] for number, count in zip(chosen, counts, strict=True)],
        [_first(conditions[number], count) for number, count in zip(chosen, counts, strict=True)],
    )
    for number, count, output in zip(chosen, counts, predicted, strict=True):
        latents = pasts[number]
        own = world.quantize(output.latents).to(latents.dtype)
        own = torch.cat((latents[:count, : world.num_history], own), dim=1)
        pasts[number] = torch.cat((own, latents[count:]))
    return pasts


def _first(conditions: Conditions, count: int) -> Conditions:
    """The conditions of the first windows, without gradients."""
    chance = conditions.chance
    known = None if chance is None else chance[:count].detach()
    tau, actions, history = (part[:count] for part in conditions[:3])
    text = conditions.text
    said = None if text is None else Text(*(part[:count].detach() for part in text))
    return Conditions(tau, actions, history, known, said)
