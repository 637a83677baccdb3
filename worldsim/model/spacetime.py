"""Attention over space and time by a pattern: the same in a sequence and in a ring cache.

A sequence is computed time by time, since all queries of a time see the same times. So nothing is
computed that the rule for times excludes, and in space little that the rule for places excludes.
On a CUDA device FlexAttention does the same in one kernel (Dong et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat

from worldsim.model.kv_cache import LayerCache
from worldsim.model.layers import Attention, Places, grouped_attention, without_time
from worldsim.model.layout import Layout
from worldsim.model.patterns import Pattern, neighbours, places_seen, seen_from, times_seen


class SpacetimeAttention(Attention):
    """Causal attention over the tokens of all frames that a pattern lets a token see.

    Args:
        width: Channels of a token.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        pattern: Which times and places are seen.
        window: Times that are seen at most, the own one included.
    """

    def __init__(
        self, width: int, num_heads: int, num_kv_heads: int, pattern: Pattern, window: int
    ) -> None:
        super().__init__(width, num_heads, num_kv_heads)
        self.pattern, self.window = pattern, window

    def _attend(
        self, projected: torch.Tensor, place: Places, cache: LayerCache | None
    ) -> torch.Tensor:
        assert place.spacetime is not None
        query, key, value = self.split(projected, place.spacetime)
        if cache is not None:
            keys, values = (rearrange(a, "b t n kv dim -> b kv n t dim") for a in (key, value))
            sink_key = without_time(keys[:, :, :, 0]) if cache.ring.sink else None
            if len(projected[0]) == 1:
                keys, values = cache.write(keys[:, :, :, 0], values[:, :, :, 0], sink_key)
                seen, reach = cache.seen, self.pattern.reach
                return attend_frame(query[:, 0], keys, values, seen, place.layout, reach)[:, None]
            cache.fill(keys, values, sink_key)
        attend = _outside[0] if query.device.type == "cuda" else by_times
        return attend(query, key, value, place.layout, self.window, self.pattern)


def by_times(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    window: int,
    pattern: Pattern,
) -> torch.Tensor:
    """Attend within a sequence, one time after another.

    Args:
        query: (b t n heads dim).
        key: (b t n kv_heads dim).
        value: (b t n kv_heads dim).
        layout: Of the sequence.
        window: Times that are seen at most.
        pattern: Which times and places are seen.

    Returns:
        (b t n heads * dim).
    """
    # Apart, since the gradient of a slice is as large as what it is cut from.
    keys, values = ([*rearrange(a, "b t n kv dim -> t b kv n dim").unbind()] for a in (key, value))
    if pattern.sink:
        keys.append(without_time(keys[0]))
        values.append(values[0])
    outs = []
    for time, own in enumerate(query.unbind(1)):
        seen = seen_from(time, window, pattern)
        visible = [torch.stack([a[i] for i in seen], dim=3) for a in (keys, values)]
        outs.append(attend_frame(own, visible[0], visible[1], None, layout, pattern.reach))
    return torch.stack(outs, dim=1)


def attend_frame(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
    layout: Layout,
    reach: int | None,
) -> torch.Tensor:
    """Attend from the tokens of one frame to those of some frames.

    Args:
        query: (b n heads dim).
        keys: (b kv_heads n t dim).
        values: (b kv_heads n t dim).
        seen: Which of the t frames are seen, bool (b t); None for all.
        layout: Of the frame's tokens.
        reach: See `Pattern`.

    Returns:
        (b n heads * dim).
    """
    b, t = len(query), keys.shape[3]
    n, patches = layout.tokens_per_time, layout.num_patches
    # On a CPU fused attention is slow in the backward pass in bfloat16 alone.
    fused = query.dtype == torch.float32 or not torch.is_grad_enabled()
    if reach is None:
        mask = None if seen is None else repeat(seen, "b t -> b 1 1 (n t)", n=n)
        return grouped_attention(query, keys.flatten(2, 3), values.flatten(2, 3), mask, fused)
    tiles = neighbours(query.device, layout, reach)
    own = rearrange(query[:, tiles.queries], "b tiles q heads dim -> (b tiles) q heads dim")
    around, of_around = (
        rearrange(a[:, :, tiles.keys], "b kv tiles k t dim -> (b tiles) kv (k t) dim")
        for a in (keys, values)
    )
    mask = repeat(tiles.mask, "tiles q k -> b tiles q k t", b=b, t=t)
    if seen is not None:
        mask = mask & rearrange(seen, "b t -> b 1 1 1 t")
    mask = rearrange(mask, "b tiles q k t -> (b tiles) 1 q (k t)")
    local = grouped_attention(own, around, of_around, mask, fused)
    local = rearrange(local, "(b tiles) q d -> b (tiles q) d", b=b)[:, tiles.places]
    if patches == n:
        return local
    special = attend_frame(query[:, patches:], keys, values, seen, layout, None)
    return torch.cat((local, special), dim=1)


def flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    window: int,
    pattern: Pattern,
    compiled: bool = True,
) -> torch.Tensor:
    """Attend within a sequence by FlexAttention.

    Arguments and result are those of `by_times`. Without ``compiled`` all scores are in memory,
    which serves to compare.
    """
    from torch.nn.attention.flex_attention import flex_attention

    keys, values = key.flatten(1, 2), value.flatten(1, 2)
    if pattern.sink:
        keys = torch.cat((keys, without_time(key[:, 0])), dim=1)
        values = torch.cat((values, value[:, 0]), dim=1)
    if compiled and not _kernel:
        _kernel.append(torch.compile(flex_attention))
    attended = (_kernel[0] if compiled else flex_attention)(
        *(
            rearrange(a, "b n heads dim -> b heads n dim")
            for a in (query.flatten(1, 2), keys, values)
        ),
        block_mask=_block_mask(query.device, layout, window, pattern),
        enable_gqa=True,
    )
    return rearrange(attended, "b heads (t n) dim -> b t n (heads dim)", t=layout.times)


def prepare_flex(device: torch.device) -> None:
    """Keep `flex` out of compiled layers, for its kernel is compiled by itself.

    Only a GPU needs it, and it imports what torch.compile needs, which takes a second.
    """
    if device.type == "cuda" and not _outside:
        _outside.append(torch.compiler.disable(flex))


_outside: list[Any] = []
_kernel: list[Any] = []
_masks: dict[tuple[Any, ...], Any] = {}


def _block_mask(device: torch.device, layout: Layout, window: int, pattern: Pattern) -> Any:
    """The blocks that a pattern leaves, made once for each layout."""
    from torch.nn.attention.flex_attention import create_block_mask

    known = device, layout, window, pattern
    if known not in _masks:
        n = layout.tokens_per_time
        times = times_seen(layout.times, window, pattern).to(device)
        places = places_seen(layout, pattern.reach).to(device)

        def sees(b: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return times[query // n, key // n] & places[query % n, key % n]

        length = layout.num_tokens
        _masks[known] = create_block_mask(
            sees, None, None, length, length + n * pattern.sink, device=device
        )
    return _masks[known]
