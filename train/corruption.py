"""Corrupted histories for training, so that a world learns to correct its own errors in play.

In play a world may lose an object or draw it twice, and then reads that in its own history.
Recorded frames never look like this. A corrupted history has a box in space and time. It is either
erased (random erasing, Zhong et al. 2020) or copied from another window (CutMix, Yun et al. 2019).
The first teaches a world to restore lost objects, the second to remove foreign ones.

Pixels that move in neither window are spared. Otherwise a score that has just changed looks erased,
and the world unlearns counting.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MOVES = 0.1  # of latents, whose range is about 2


class Corruption(NamedTuple):
    """Which parts of histories are corrupted, if something moves there.

    Attributes:
        erased: Boxes to erase, bool (b t 1 h w).
        foreign: Boxes to copy from another window, bool (b t 1 h w).
    """

    erased: torch.Tensor
    foreign: torch.Tensor


class CorruptedHistory(NamedTuple):
    """A history with corrupted boxes.

    Attributes:
        latents: The frames, (b t c h w).
        erased: Where an object is erased, bool (b t 1 h w).
    """

    latents: torch.Tensor
    erased: torch.Tensor


def random_boxes(shape: tuple[int, int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw one box in each window, bool (b t 1 h w), on the generator's device.

    It begins at any frame and lasts any number of frames. Its sides are a sixth to two thirds of
    the frame's, and it may cross the edge of the frame.

    Args:
        shape: b, t, h, w.
        generator: Source of the draws.
    """
    b, *lengths = shape
    device = generator.device
    box = torch.ones(b, 1, 1, 1, 1, dtype=torch.bool, device=device)
    for axis, length in zip((1, 3, 4), lengths, strict=True):
        part, begin = torch.rand((2, b), generator=generator, device=device)
        if axis == 1:
            size, begin = (1 + part * length).floor(), (begin * length).floor()
        else:
            size = (1 + 3 * part) * length / 6
            begin = begin * length - size / 2
        at = torch.arange(length, device=device) + 0.5
        inside = (at >= begin[:, None]) & (at < (begin + size)[:, None])
        box = box & inside.view(b, *(length if a == axis else 1 for a in range(1, 5)))
    return box


def draw_corruption(
    shape: tuple[int, int, int, int], fraction: float, generator: torch.Generator
) -> Corruption:
    """Choose the windows to corrupt, half by erasing and half by copying, and the place in each.

    Args:
        shape: b, t, h, w.
        fraction: Share of windows to corrupt.
        generator: Source of the draws; the result is on its device.
    """
    box = random_boxes(shape, generator)
    kind = torch.rand(shape[0], generator=generator, device=generator.device).view(-1, 1, 1, 1, 1)
    return Corruption(
        erased=box & (kind < fraction / 2),
        foreign=box & (kind >= fraction / 2) & (kind < fraction),
    )


def corrupt_history(
    past: torch.Tensor, recorded: torch.Tensor, corruption: Corruption
) -> CorruptedHistory:
    """Erase parts of histories, and copy parts from another window.

    Args:
        past: The frames of the history, (b t c h w), 0 at the background.
        recorded: The recorded frames, of the same shape; each window copies from its neighbour.
        corruption: The parts.

    Returns:
        The corrupted history.
    """
    # Only pixels that move in the window or in its neighbour can be corrupted.
    moves = ((recorded[:, 1:] - recorded[:, :-1]).abs() > MOVES).any(2, keepdim=True)
    moves = moves.any(1, keepdim=True)
    moves = moves | moves.roll(1, dims=0)
    erased, foreign = corruption.erased & moves, corruption.foreign & moves
    latents = torch.where(foreign, recorded.roll(1, dims=0), past.masked_fill(erased, 0.0))
    return CorruptedHistory(latents, erased)
