"""Layout: how many tokens a sequence has, and where each of them is.

A spacetime patch has t_p frames of h_p by w_p cells. A sequence of F frames of H by W cells has
1 + (F - 1) / t_p times, each with (H / h_p) times (W / w_p) patches and some special tokens without
a place. The first time is the first frame alone, so a still picture is a sequence like any other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat


class Layout(NamedTuple):
    """The tokens of a sequence, by times, then rows and columns, then the special ones.

    Attributes:
        times: Times, each one patch long.
        rows: Patches along the height of a frame.
        columns: Patches along its width.
        num_special: Tokens of each time without a place: action, level, chance, registers.

    Example:
        >>> still, clip = (Layout.of(F, (64, 64), (1, 8, 8), 4) for F in (1, 12))
        >>> still.num_tokens, clip.num_tokens
        (68, 816)
    """

    times: int
    rows: int
    columns: int
    num_special: int

    @classmethod
    def of(
        cls,
        num_frames: int,
        frame_size: tuple[int, int],
        patch: tuple[int, int, int],
        num_special: int = 0,
    ) -> Layout:
        """Lay out a sequence of frames; sides that are no multiples of a patch are padded.

        Args:
            num_frames: Frames (F), at least 1.
            frame_size: Their height and width (H, W), in cells of a latent.
            patch: Frames, height and width of a patch (t_p, h_p, w_p).
            num_special: Special tokens of each time.
        """
        patch_frames, *sides = patch
        rows, columns = (-(-size // side) for size, side in zip(frame_size, sides, strict=True))
        return cls(1 - (1 - num_frames) // patch_frames, rows, columns, num_special)

    @property
    def num_patches(self) -> int:
        """Patches of each time."""
        return self.rows * self.columns

    @property
    def tokens_per_time(self) -> int:
        """Patches and special tokens of each time."""
        return self.num_patches + self.num_special

    @property
    def num_tokens(self) -> int:
        """All tokens of the sequence (N)."""
        return self.times * self.tokens_per_time


def fold(latents: torch.Tensor, patch_frames: int) -> torch.Tensor:
    """Put the frames of each time into the channels of one latent.

    Args:
        latents: (b 1+p*k c h w), where p is ``patch_frames``.
        patch_frames: Frames of a time; the first time is the first frame, repeated.

    Returns:
        (b 1+k p*c h w).
    """
    if patch_frames == 1:
        return latents
    first = repeat(latents[:, :1], "b 1 c h w -> b p c h w", p=patch_frames)
    return fold_whole(torch.cat((first, latents[:, 1:]), dim=1), patch_frames)


def fold_whole(latents: torch.Tensor, patch_frames: int) -> torch.Tensor:
    """Put frames (b p*k c h w) of whole times into channels (b k p*c h w)."""
    return rearrange(latents, "b (t p) c h w -> b t (p c) h w", p=patch_frames)


def unfold(latents: torch.Tensor, patch_frames: int) -> torch.Tensor:
    """Undo `fold_whole`."""
    return rearrange(latents, "b t (p c) h w -> b (t p) c h w", p=patch_frames)
