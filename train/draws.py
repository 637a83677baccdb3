"""The random draws of a training step, all of them from one key.

What decides how much is computed is drawn on the host. Everything else is drawn on the world's
device by one generator, so that a step copies nothing and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from worldsim.model.flow import sample_tau
from worldsim.world_model import WorldModel

from .corruption import Corruption, draw_corruption
from .recipe import Recipe

STILLS = 0.1  # share of windows that begin from nothing, in a world with text
NEEDLESS_CODES = 0.3  # share of the certain frames that get a code drawn at random


class CodeDraws(NamedTuple):
    """The draws of a batch with chance codes.

    Attributes:
        noise: Where the mean is predicted from (b t c h w).
        hidden: Frames whose code is hidden, bool (b t).
        needless: Frames that get a code at random if they are certain, bool (b t).
        bits: These codes, of values -1 and 1 (b t bits).
    """

    noise: torch.Tensor
    hidden: torch.Tensor
    needless: torch.Tensor
    bits: torch.Tensor


class Draws(NamedTuple):
    """The draws of a batch of b windows with t targets; None for what the recipe leaves out.

    Attributes:
        tau: Noise level of each target (b t).
        noise: Noise of the targets (b t c h w).
        num_own: Windows, the first ones, whose history is the world's own prediction.
        hidden_actions: Targets whose action is hidden, bool (b t).
        codes: Of chance codes.
        corruption: Of the histories.
        history_noise: Noise of the histories (b t num_history*c h w).
        history_contrast: Factors of the histories (b t 1 1 1).
        hidden_text: Windows whose caption is hidden, bool (b).
        stills: Windows whose first target is a still, which nothing precedes, bool (b).
    """

    tau: torch.Tensor
    noise: torch.Tensor
    num_own: int = 0
    hidden_actions: torch.Tensor | None = None
    codes: CodeDraws | None = None
    corruption: Corruption | None = None
    history_noise: torch.Tensor | None = None
    history_contrast: torch.Tensor | None = None
    hidden_text: torch.Tensor | None = None
    stills: torch.Tensor | None = None


def draw_all(
    world: WorldModel,
    latents: Sequence[torch.Tensor],
    recipe: Recipe,
    key: Sequence[int],
    part: int = 0,
    code_share: float = 1.0,
) -> list[Draws]:
    """Draw all that is random in a step of several batches: chance codes are for all or none.

    Arguments are those of `draw`, with the latents of each batch.
    """
    draws = [draw(world, latents[0], recipe, key, part, code_share)]
    with_codes = float(draws[0].codes is not None)
    for number, each in enumerate(latents[1:], 1):
        draws.append(draw(world, each, recipe, (*key, number), part, with_codes))
    return draws


def draw(
    world: WorldModel,
    latents: torch.Tensor,
    recipe: Recipe,
    key: Sequence[int],
    part: int = 0,
    code_share: float = 1.0,
) -> Draws:
    """Draw all that is random in the objective of a batch.

    How often the network runs is the same in all parts of a step, since processes that share the
    step may gather its weights together.

    Args:
        world: The world in training.
        latents: Those of the batch (b num_history+t c h w); their numbers do not matter.
        recipe: The recipe at this point of the run, see `Recipe.at`.
        key: Numbers that decide every draw, such as seed and step.
        part: Number of the batch among the parts of the step.
        code_share: Share of batches with chance codes, see `ChanceCodes.needed`.
    """
    k, device, chance = world.num_history, latents.device, world.dit.chance
    b, t, c, h, w = latents[:, k:].shape
    rng = np.random.default_rng((*key, 0))
    seed = int(rng.integers(2**63))
    if part:
        seed = int(np.random.default_rng((*key, part)).integers(2**63))
    generator = torch.Generator(device).manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    # A number of windows is rounded up or down by lot, so that its mean is right. It is one of few
    # numbers, since the network is compiled for each.
    quarter = -(-b // 4)
    num_own = min(b, quarter * int(recipe.self_rollout * b / quarter + rng.random()))
    codes = None
    if chance is not None and recipe.unknown_codes < 1 and rng.random() < code_share:
        codes = CodeDraws(
            noise=normal(b, t, c, h, w),
            hidden=uniform(b, t) < recipe.unknown_codes,
            needless=uniform(b, t) < NEEDLESS_CODES,
            bits=torch.where(uniform(b, t, chance.num_bits) < 0.5, -1.0, 1.0),
        )
    draws = Draws(
        tau=sample_tau(b, t, *recipe.tau_mixture, generator),
        noise=normal(b, t, c, h, w),
        num_own=num_own,
        hidden_actions=uniform(b, t) < recipe.action_dropout if recipe.action_dropout else None,
        codes=codes,
        corruption=draw_corruption((b, k + t, h, w), recipe.corrupt_history, generator)
        if recipe.corrupt_history
        else None,
        history_noise=normal(b, t, k * c, h, w).mul_(uniform(b, t, 1, 1, 1) * recipe.history_noise)
        if recipe.history_noise
        else None,
        history_contrast=torch.exp((2 * uniform(b, t, 1, 1, 1) - 1) * recipe.history_contrast)
        if recipe.history_contrast
        else None,
        hidden_text=uniform(b) < recipe.text_dropout if world.text is not None else None,
        stills=uniform(b) < STILLS if world.text is not None else None,
    )
    # A still is drawn in many passes, for nothing precedes it: all levels matter alike. From pure
    # noise only a mean can be predicted, and a clean frame says all.
    if t == 1:
        return draws._replace(tau=uniform(b, 1))
    if draws.stills is not None:
        first = torch.where(draws.stills, uniform(b), draws.tau[:, 0])
        return draws._replace(tau=torch.cat((first[:, None], draws.tau[:, 1:]), dim=1))
    return draws
