"""Captions of a batch, and stills: targets that nothing precedes, drawn from words alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange

from worldsim.model.text import Text
from worldsim.world_model import WorldModel

from .draws import Draws

if TYPE_CHECKING:
    from .objective import Batch


def read_captions(world: WorldModel, batch: Batch, draws: Draws) -> Text | None:
    """The captions of a batch, some of them hidden; None in a world without text."""
    if world.text is None or batch.tokens is None or draws.hidden_text is None:
        return None
    text: Text = world.text(batch.tokens)
    return text.drop(draws.hidden_text)


def with_stills(world: WorldModel, batch: Batch, draws: Draws) -> Batch:
    """Let nothing precede the first target of some windows; what follows sees it as its past.

    The frames before it become the still itself, as in play after a start of one frame, and the
    action that led to it is unknown.
    """
    if draws.stills is None:
        return batch
    k = world.num_history
    past, rest = batch.latents.tensor_split([k], dim=1)
    past = torch.where(rearrange(draws.stills, "b -> b 1 1 1 1"), rest[:, :1], past)
    first, later = batch.actions.tensor_split([1], dim=1)
    is_still = draws.stills.view(-1, *[1] * (first.ndim - 1))
    first = first.masked_fill(is_still, world.game.num_actions)
    return batch._replace(
        latents=torch.cat((past, rest), dim=1), actions=torch.cat((first, later), dim=1)
    )


def histories(world: WorldModel, latents: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The history of each target (b t k*c h w); that of a still is grey."""
    history = world.history(latents)
    if draws.stills is None:
        return history
    is_still = rearrange(draws.stills, "b -> b 1 1 1 1")
    unknown = world.unknown_history(latents.shape[-2:])
    first = torch.where(is_still, unknown, history[:, :1])
    return torch.cat((first, history[:, 1:]), dim=1)
