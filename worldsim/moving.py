"""Where something moves, which is where a frame differs from the recording's median frame.

The background is learned within a minute and small things long after it: training gives more weight
to the places that are told here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MOVING_THRESHOLD = 12  # of 255: a difference that is more than shading
REACH = 5  # pixels: how far a thing may go in a step


def moving_places(
    frames: torch.Tensor, background: torch.Tensor, latent_size: tuple[int, int], presence: float
) -> torch.Tensor:
    """How much each place counts as one where something moves.

    A part lies where something is or was just before. By itself that rewards drawing a thing
    wherever it might be, since what is missed costs more than what is drawn amiss; so the rest lies
    on all that is within ``REACH`` of where something was before, whether it went there or not. By
    itself that lets fade what may be in many places. A thing that appears where nothing was near
    counts in full, or it would never be learned: such things are rare, and known by the event that
    brings them.

    Args:
        frames: uint8 (b t h w c).
        background: The median frame, uint8 (h w c).
        latent_size: Height and width of the result.
        presence: The first part, from 0 to 1.

    Returns:
        Float (b t 1 h w) from 0, where nothing moves, to 1.
    """
    difference = (frames.short() - background.short()).abs().amax(-1)
    now = (difference > MOVING_THRESHOLD).float()
    before = torch.cat((now[:, :1], now[:, :-1]), dim=1)
    reached = before
    for sides in ((2 * REACH + 1, 1), (1, 2 * REACH + 1)):  # by rows and columns: far less work
        reached = F.max_pool2d(reached, sides, stride=1, padding=[side // 2 for side in sides])
    anywhere = torch.maximum(reached, now)  # with what appears far from all that was there
    moving = presence * torch.maximum(now, before) + (1 - presence) * anywhere
    return F.adaptive_max_pool2d(moving, latent_size)[:, :, None]
