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
    now = moving.float()
    before = torch.cat((now[:, :1], now[:, :-1]), dim=1)
    reached = before
    for sides in ((2 * REACH + 1, 1), (1, 2 * REACH + 1)):  # separable: far less work
        reached = F.max_pool2d(reached, sides, stride=1, padding=[side // 2 for side in sides])
    anywhere = torch.maximum(reached, now)  # with objects that appear far from all others
    places = object_focus * torch.maximum(now, before) + (1 - object_focus) * anywhere
    return F.adaptive_max_pool2d(places, latent_size)[:, :, None]
