"""The training objective: `encode` windows into a batch, then take the `objective` of the batch.

Every frame after the first ``num_history`` of a window is a target. Each has its own noise level
(diffusion forcing, Chen et al. 2024), so one forward pass trains all mixtures of noisy and clean
frames. Histories are made to look as in play, where the world has predicted them itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.data.windows import Windows
from worldsim.frames import MOVING_THRESHOLD
from worldsim.model.chance import Codes
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.flow import add_noise, frame_errors, ramp_weight
from worldsim.world_model import WorldModel

from .corruption import corrupt_history
from .draws import CodeDraws, Draws
from .recipe import Recipe

HEAD_WEIGHT = 0.02  # of reward and termination, relative to the frame
CHANCE_WEIGHT = 0.02  # of the prior of chance codes, relative to the frame

REACH = 5  # pixels that an object may move in a step


class Batch(NamedTuple):
    """Encoded windows of k + t frames, where k is the world's ``num_history``.

    Attributes:
        latents: (b k+t c h w).
        moving: Pixels that differ from the median frame, bool (b k+t height width).
        actions: The action that led into each target (b t).
        rewards: The reward of that action (b t).
        terminations: Whether the episode ended with it (b t).
        valid: 1 where the target is recorded, 0 where it is padding (b t).
    """

    latents: torch.Tensor
    moving: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminations: torch.Tensor
    valid: torch.Tensor


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


def encode(world: WorldModel, windows: Windows) -> Batch:
    """Encode recorded windows of ``num_history + t`` frames on the world's device."""
    k = world.num_history

    def to_device(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(world.device, non_blocking=True)

    frames = to_device(windows.frames)
    return Batch(
        latents=world.encode(frames),
        moving=moving_pixels(frames, to_device(world.background)),
        actions=to_device(windows.actions)[:, k - 1 :],
        rewards=to_device(windows.rewards)[:, k - 1 :],
        terminations=to_device(windows.terminations)[:, k - 1 :],
        valid=to_device(windows.valid)[:, k:].float(),
    )


def objective(
    world: WorldModel,
    batch: Batch,
    recipe: Recipe,
    draws: Draws,
    average: WorldModel | None = None,
) -> Losses:
    """The losses of a batch: a function of tensors, in which the host never waits for the device.

    Args:
        world: The world in training.
        batch: From `encode`.
        recipe: The recipe at this point of the run, see `Recipe.at`.
        draws: All that is random, from `worldsim.train.draws.draw`.
        average: The world of averaged weights, from whose predictions chance codes tell what
            differs; the world itself if not given.

    Returns:
        Losses of each target.
    """
    k, tau = world.num_history, draws.tau
    targets = batch.latents[:, k:]
    size = targets.shape[-2:]
    noisy = add_noise(targets, draws.noise, tau)

    # Hide some actions, so that the world also learns to continue with an unknown action.
    actions = batch.actions
    if draws.hidden_actions is not None:
        actions = actions.masked_fill(draws.hidden_actions, world.game.num_actions)

    # Chance codes tell which of the possible frames each target is.
    codes = known = None
    if draws.codes is not None:
        codes = write_codes(world, batch, draws.codes.noise, average or world)
        known = _known_codes(codes, draws.codes)

    # Histories as in play: predicted by the world, with objects missing or doubled, slightly noisy.
    past, erased = batch.latents, None
    if draws.num_own:
        conditions = Conditions(tau, actions, world.history(past), known)
        past = _with_own_predictions(world, past, noisy, conditions, draws.num_own)
    if draws.corruption is not None:
        past, erased = corrupt_history(past, batch.latents, draws.corruption)
    history = world.history(past)
    if draws.history_noise is not None:
        history = history + draws.history_noise

    output = world.predict(noisy, Conditions(tau, actions, history, known))

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


def write_codes(world: WorldModel, batch: Batch, noise: torch.Tensor, average: WorldModel) -> Codes:
    """Write the chance codes (b t bits) of all frames but the first k, see `ChanceCodes.encode`.

    Args:
        world: A world with chance codes.
        batch: From `encode`.
        noise: Where the means are predicted from (b t c h w).
        average: The world that predicts the means. Averaged weights err less, so fewer frames are
            surprises by mistake.
    """
    assert world.dit.chance is not None
    targets = batch.latents[:, world.num_history :]
    with torch.no_grad():
        tau = torch.zeros(targets.shape[:2], device=targets.device)
        conditions = Conditions(tau, batch.actions, world.history(batch.latents))
        expected = average.predict(noise, conditions)
    codes: Codes = world.dit.chance.encode(targets, expected, batch.valid > 0)
    return codes


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
    latents: torch.Tensor,
    noisy: torch.Tensor,
    conditions: Conditions,
    num_own: int,
) -> torch.Tensor:
    """Replace the targets of the first windows by one-step predictions of the world.

    Parallel scheduled sampling (Mihaylova & Martins 2019): the world learns to correct its own
    errors, at the cost of another forward pass. Windows are in random order, so the first are any.
    """
    k, (tau, actions, history, codes) = world.num_history, conditions
    known = None if codes is None else codes[:num_own].detach()
    of_own = Conditions(tau[:num_own], actions[:num_own], history[:num_own], known)
    predicted = world.quantize(world.predict(noisy[:num_own], of_own).latents)
    own = torch.cat((latents[:num_own, :k], predicted.to(latents.dtype)), dim=1)
    return torch.cat((own, latents[num_own:]))


def moving_pixels(frames: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Which pixels of frames (b t h w c) differ from the median frame (h w c), bool (b t h w)."""
    difference = (frames.short() - background.short()).abs().amax(-1)
    return difference > MOVING_THRESHOLD


def moving_places(
    moving: torch.Tensor, latent_size: tuple[int, int], object_focus: float
) -> torch.Tensor:
    """Weights from 0 to 1 of the places of a latent where objects are or could be.

    A share ``object_focus`` of the weight lies where an object is or was one frame before. Alone,
    this rewards drawing an object wherever it might be, since a miss costs more than a false
    object. The rest lies on all places within ``REACH`` of where an object was. Alone, that lets
    uncertain objects fade. An object that appears far from all others has full weight, since such
    events are rare.

    Args:
        moving: Moving pixels, bool (b t height width).
        latent_size: Height and width of the result.
        object_focus: From 0 to 1.

    Returns:
        Float (b t 1 h w), 0 at the background.
    """
    now = moving.float()
    before = torch.cat((now[:, :1], now[:, :-1]), dim=1)
    reached = before
    for sides in ((2 * REACH + 1, 1), (1, 2 * REACH + 1)):  # separable: far less work
        reached = F.max_pool2d(reached, sides, stride=1, padding=[side // 2 for side in sides])
    anywhere = torch.maximum(reached, now)  # with objects that appear far from all others
    places = object_focus * torch.maximum(now, before) + (1 - object_focus) * anywhere
    return F.adaptive_max_pool2d(places, latent_size)[:, :, None]
