"""Damage to what training shows of the past, so that play, which errs, can mend itself.

In play a world may lose a thing, or draw it twice, and then sees that in its own past for ever;
recorded frames never look so. A damaged past shows, in a box of space and time, either nothing
(random erasing, Zhong et al. 2020) or what another window has there (CutMix, Yun et al. 2019):
from the first a world learns to find again what it has lost, from the second that what does not
belong goes away. What moves in neither window is left as it is: a lamp that has just gone on, or a
score, looks as if it had been put there or erased, and a world that mends that counts no more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MOVES = 0.1  # of latents, whose range is about 2


class DamagedPast(NamedTuple):
    """Frames of the past with boxes in them that are not true.

    Attributes:
        latents: (b t c h w).
        erased: Where there is nothing, bool (b t 1 h w).
    """

    latents: torch.Tensor
    erased: torch.Tensor


def random_boxes(shape: tuple[int, int, int, int], generator: torch.Generator) -> torch.Tensor:
    """One box in each window, bool (b t 1 h w).

    It begins at any frame and lasts any number of frames. Its sides are a sixth to two thirds of
    the frame's, and it may reach beyond the frame's edge.

    Args:
        shape: b, t, h, w.
        generator: Source of the draws, on the CPU.
    """
    b, *lengths = shape
    box = torch.ones(b, 1, 1, 1, 1, dtype=torch.bool)
    for axis, length in zip((1, 3, 4), lengths, strict=True):
        part, begin = torch.rand((2, b), generator=generator)
        if axis == 1:
            size, begin = (1 + part * length).floor(), (begin * length).floor()
        else:
            size = (1 + 3 * part) * length / 6
            begin = begin * length - size / 2
        at = torch.arange(length) + 0.5
        inside = (at >= begin[:, None]) & (at < (begin + size)[:, None])
        box = box & inside.view(b, *(length if a == axis else 1 for a in range(1, 5)))
    return box


def damage_past(
    seen: torch.Tensor, recorded: torch.Tensor, fraction: float, generator: torch.Generator
) -> DamagedPast:
    """Damage the past of some windows: half of them have something erased, half something foreign.

    Args:
        seen: What training shows of the past, (b t c h w), 0 where nothing moves.
        recorded: The frames as they are, of the same shape; each window borrows from another.
        fraction: Fraction of windows to damage.
        generator: Source of the draws, on the CPU.

    Returns:
        The damaged past.
    """
    b, t, _, h, w = seen.shape
    moves = ((recorded[:, 1:] - recorded[:, :-1]).abs() > MOVES).any(2, keepdim=True)
    moves = moves.any(1, keepdim=True)
    moves = moves | moves.roll(1, dims=0)
    box = random_boxes((b, t, h, w), generator).to(seen.device) & moves
    kind = torch.rand(b, generator=generator).to(seen.device).view(b, 1, 1, 1, 1)
    erased = box & (kind < fraction / 2)
    foreign = box & (kind >= fraction / 2) & (kind < fraction)
    latents = torch.where(foreign, recorded.roll(1, dims=0), seen.masked_fill(erased, 0.0))
    return DamagedPast(latents, erased)
