"""The layers of the video transformer: rotary positions, attention over space and time, SwiGLU.

Tokens have the shape (b t n d): ``n`` tokens of width ``d`` for each of ``t`` times. Attention is
factorised: within a frame, and over time (causal, each token with its own past). Queries are
grouped (GQA, Ainslie et al. 2023); queries and keys are normalised (QK-norm, Dehghani et al. 2023).
Norms are LayerNorm without bias, which has a fused kernel on every device; RMSNorm has none on a
CPU.

A batch is a list of groups: tensors of tokens, each for sequences of one layout. Sequences of
different sizes and lengths thus share a batch without padding. Layers that act on each token see
all groups as one matrix; attention sees each group alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from worldsim.model.kv_cache import LayerCache
from worldsim.model.layout import Layout
from worldsim.model.tables import keep

MAX_SCORES = 2**22  # of a head, above which attention is never written out

TURNS = 4096  # positions in a table of rotations over time


def rotary_angles(positions: torch.Tensor, dim: int, base: float = 10_000.0) -> torch.Tensor:
    """Angles of rotary position embedding (Su et al. 2021), in float64 to stay exact.

    Args:
        positions: Positions of any shape (...), up to the length of a rollout.
        dim: Channels to rotate, an even number.
        base: Longest wavelength over 2 pi, in positions.

    Returns:
        Angles (... dim / 2).
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.double()[..., None] * base**-exponents


def rotation_by(angles: torch.Tensor) -> torch.Tensor:
    """The rotation of channel pairs by angles (... dim / 2): cos and signed sin (2 ... dim)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))).float()


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotate channel pairs (i, i + dim / 2) of ``x``; the rotation (2 ... dim) broadcasts."""
    cos, sin = rotation.unbind()
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


@keep
def space_rotation(height: int, width: int, num_special: int, dim: int) -> torch.Tensor:
    """Two-dimensional rotation for a grid of patches followed by tokens without a place.

    Half of the channel pairs rotate with the row and half with the column. The ``num_special``
    tokens (action, level, registers) do not rotate.

    Returns:
        A rotation (2 n 1 dim) with n = height * width + num_special.
    """
    places = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = torch.cat(
        [rotary_angles(place.flatten(), dim // 2, base=100.0) for place in places], dim=-1
    )
    return rotation_by(F.pad(angles, (0, 0, 0, num_special))[:, None])


@keep
def place_features(rows: int, columns: int) -> torch.Tensor:
    """The place of each patch as waves over the frame's height and width: (rows * columns 20).

    Rotary positions encode the distance between patches. These encode the absolute place in the
    frame, which the background depends on, for any frame size.
    """
    places = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows,
        (torch.arange(columns) + 0.5) / columns,
        indexing="ij",
    )
    angles = torch.stack(places, dim=-1)[..., None] * torch.pi * 2.0 ** torch.arange(5)
    return rearrange(
        torch.stack((angles.sin(), angles.cos())),
        "wave rows columns side k -> (rows columns) (wave side k)",
    )


@keep
def time_table(dim: int, step: int) -> torch.Tensor:
    """Rotations by the first `TURNS` multiples of ``step`` frames, (`TURNS` 2*dim)."""
    angles = rotary_angles(torch.arange(TURNS) * step, dim, base=1_000.0)
    return torch.cat(rotation_by(angles).unbind(), dim=-1)


def time_rotation(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Rotation by frame number, (2 b t 1 1 dim) for positions (b t).

    It joins two rotations from tables, by a multiple of `TURNS` and by the rest. So it is exact for
    late frames without float64, which some devices lack. After ``TURNS ** 2`` frames, 12 days of
    play, the numbers begin again.
    """
    rests, multiples = (time_table(positions.device, dim, step) for step in (1, TURNS))
    cos_a, sin_a = F.embedding(positions % TURNS, rests).chunk(2, dim=-1)
    cos_b, sin_b = F.embedding(positions // TURNS % TURNS, multiples).chunk(2, dim=-1)
    cos = torch.addcmul(cos_a * cos_b, sin_a, sin_b, value=-1)
    sin = torch.addcmul(sin_a * cos_b, cos_a, sin_b)
    return torch.stack((cos, sin))[:, :, :, None, None]


def spacetime_rotation(space: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Rotation by time and place, (2 b t n 1 dim): half of the channel pairs for each.

    Args:
        space: From `space_rotation` with half of the channels, (2 n 1 dim/2).
        time: From `time_rotation` with half of the channels, (2 b t 1 1 dim/2).
    """
    b, t, n = time.shape[1], time.shape[2], space.shape[1]
    of_time = time.expand(-1, -1, -1, n, -1, -1).chunk(2, dim=-1)
    of_space = space[:, None, None].expand(-1, b, t, -1, -1, -1).chunk(2, dim=-1)
    return torch.cat((of_time[0], of_space[0], of_time[1], of_space[1]), dim=-1)


def without_time(key: torch.Tensor) -> torch.Tensor:
    """Keys (... dim) of `spacetime_rotation` without the channels that turn with time.

    Their scores do not depend on the distance in time, however far the rollout has come.
    """
    quarter = key.shape[-1] // 4
    halves = key.unflatten(-1, (2, -1))
    return F.pad(halves[..., quarter:], (quarter, 0)).flatten(-2)


class Places(NamedTuple):
    """Where the tokens of a group are, as attention needs it.

    Attributes:
        layout: Their layout.
        space: Rotation by place, see `space_rotation`.
        time: Rotation by time, see `time_rotation`.
        mask: Which times each time sees, bool (t t); of no use with a cache.
        spacetime: Rotation by both, see `spacetime_rotation`; None if no layer needs it.
    """

    layout: Layout
    space: torch.Tensor
    time: torch.Tensor
    mask: torch.Tensor
    spacetime: torch.Tensor | None = None


def together(
    layer: Callable[[torch.Tensor], torch.Tensor], groups: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Apply a layer that acts on each token to all groups (... d) as one matrix (N d)."""
    if len(groups) == 1:
        return [layer(groups[0])]
    out = layer(torch.cat([group.flatten(0, -2) for group in groups]))
    parts = out.split([group.shape[:-1].numel() for group in groups])
    return [part.view(*group.shape[:-1], -1) for part, group in zip(parts, groups, strict=True)]


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    fused: bool = False,
) -> torch.Tensor:
    """Scaled dot-product attention in which several query heads share a key head.

    The queries of a group are put along the query axis, so keys and values are not copied.
    Attention is written out where fused kernels are slow. On a CPU, their backward pass takes ten
    times as long in bfloat16. On a GPU, a single query over a window takes four times as long. Long
    sequences are never written out, since their scores would fill the memory.

    Args:
        query: (b q heads dim).
        key: (b kv_heads k dim), heads being a multiple of kv_heads.
        value: (b kv_heads k dim).
        mask: Booleans that broadcast to (b 1 q k), true where attention is allowed.
        fused: Whether to use a fused kernel on a CPU for short sequences too.

    Returns:
        (b q heads * dim).
    """
    length, groups = query.shape[1], query.shape[2] // key.shape[1]
    query = rearrange(query, "b q (kv g) dim -> b kv (g q) dim", g=groups)
    if mask is not None and groups > 1 and mask.shape[-2] > 1:
        mask = repeat(mask, "... q k -> ... (g q) k", g=groups)
    few = query.shape[2] * key.shape[2] <= MAX_SCORES
    if (query.device.type == "cpu" and few and not fused) or length == 1:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        out = scores.softmax(dim=-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return rearrange(out, "b kv (g q) dim -> b q (kv g dim)", g=groups)


class Attention(nn.Module):
    """Base class of attention over space, over time and over both: the projections.

    Args:
        width: Channels of a token.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
    """

    def __init__(self, width: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.dim = width // num_heads
        self.heads = [num_heads, num_kv_heads, num_kv_heads]
        self.norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, sum(self.heads) * self.dim, bias=False)
        self.query_key_norm = nn.LayerNorm(self.dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def project(self, groups: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Queries, keys and values of tokens (b t n d), as one (b t n channels) for each group."""
        return together(lambda x: self.query_key_value(self.norm(x)), groups)

    def split(
        self, projected: torch.Tensor, rotation: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys (both rotated) and values of a group, each (b t n heads dim)."""
        projected = projected.unflatten(-1, (-1, self.dim))
        queries_keys, value = projected.tensor_split([sum(self.heads[:2])], dim=-2)
        # In float32, also under autocast.
        weight = self.query_key_norm.weight.float()
        normalized = F.layer_norm(queries_keys.float(), (self.dim,), weight)
        query, key = rotate(normalized, rotation).split(self.heads[:2], dim=-2)
        return query.to(value.dtype), key.to(value.dtype), value

    def forward(
        self,
        groups: Sequence[torch.Tensor],
        places: Sequence[Places],
        cache: LayerCache | None = None,
    ) -> list[torch.Tensor]:
        """Map tokens (b t n d) of each group to their residuals.

        Args:
            groups: Tokens; with a cache, one group: the next frame (t = 1), or the first t of empty
                lanes.
            places: Of each group.
            cache: Keys and values of past frames; attention over time writes those of these frames.
        """
        projected = zip(self.project(groups), places, strict=True)
        return together(self.out, [self._attend(*each, cache) for each in projected])

    def _attend(
        self, projected: torch.Tensor, place: Places, cache: LayerCache | None
    ) -> torch.Tensor:
        """Attend within a group: from `project` (b t n channels) to (b t n d)."""
        raise NotImplementedError


class SpaceAttention(Attention):
    """Attention among the tokens of one frame."""

    def _attend(
        self, projected: torch.Tensor, place: Places, cache: LayerCache | None
    ) -> torch.Tensor:
        query, key, value = self.split(projected, place.space)
        query = rearrange(query, "b t n heads dim -> (b t) n heads dim")
        key, value = (rearrange(a, "b t n kv dim -> (b t) kv n dim") for a in (key, value))
        attended = grouped_attention(query, key, value)
        return rearrange(attended, "(b t) n d -> b t n d", b=len(projected))


class TimeAttention(Attention):
    """Causal attention of each token over its own past, within a window of frames."""

    def _attend(
        self, projected: torch.Tensor, place: Places, cache: LayerCache | None
    ) -> torch.Tensor:
        b, t, n, _ = projected.shape
        query, key, value = self.split(projected, place.time)
        query = rearrange(query, "b t n heads dim -> (b n) t heads dim")
        mask = place.mask
        if cache is not None and t == 1:
            key, value = cache.write(key[:, 0], value[:, 0])
            mask = repeat(cache.seen, "b k -> (b n) 1 1 k", n=n)
        else:
            key, value = (rearrange(a, "b t n kv dim -> b n kv t dim") for a in (key, value))
            if cache is not None:
                cache.fill(key, value)
        attended = grouped_attention(query, key.flatten(0, 1), value.flatten(0, 1), mask)
        return rearrange(attended, "(b n) t d -> b t n d", b=b)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020), with its norm."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (... d) to their residuals."""
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
