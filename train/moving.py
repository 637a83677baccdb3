"""Where what moves is, or could be: it weighs more than the background."""

from __future__ import annotations

import torch
import torch.nn.functional as F

REACH = 5  # pixels that an object may move in a step


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
    cell = moving.shape[2] // latent_size[0], moving.shape[3] // latent_size[1]
    # Both kinds of places are 0 or 1, so their largest values in a cell suffice.
    pixels = moving.float()
    now = _largest(pixels, cell, 0)
    before, reached = _one_later(now), _one_later(_largest(pixels, cell, REACH))
    anywhere = torch.maximum(reached, now)  # with objects that appear far from all others
    places = object_focus * torch.maximum(now, before) + (1 - object_focus) * anywhere
    return places[:, :, None]


def _largest(pixels: torch.Tensor, cell: tuple[int, int], reach: int) -> torch.Tensor:
    """The largest value within ``reach`` pixels of each cell (b t h w)."""
    grown = 2 * reach
    down = F.max_pool2d(pixels, (cell[0] + grown, 1), (cell[0], 1), (reach, 0))
    return F.max_pool2d(down, (1, cell[1] + grown), (1, cell[1]), (0, reach))  # far less work


def _one_later(places: torch.Tensor) -> torch.Tensor:
    """What was there one frame before; before the first frame, what is there."""
    return torch.cat((places[:, :1], places[:, :-1]), dim=1)
