"""Attention patterns: which tokens a token attends to, as data.

A pattern is a rule for times and a rule for places. In time, a token sees the ``near`` newest times
with its own included, every ``stride``-th older one within the window (strided attention, Child et
al. 2019), and perhaps the first of all as a sink (Xiao et al. 2024). In space, it sees patches up
to ``reach`` rows and columns away. Special tokens see all places and are seen from all, so they
pass on what is far away (global tokens, Beltagy et al. 2020).

The same rules decide the mask of a sequence and the slots of the ring cache.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, NamedTuple, get_type_hints

import torch
from einops import rearrange

from worldsim.model.layout import Layout
from worldsim.model.tables import keep
from worldsim.system.options import Range, check_value

Few = Annotated[int, Range(1, 4096)]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Attention over space and time.

    Attributes:
        near: Newest times that are seen, the own one included; None: the window.
        reach: Rows and columns to each side that are seen; None: the whole frame.
        stride: Older times within the window are seen if they are multiples of it; None: none.
        sink: Whether the first time is always seen, without its distance in time.

    Raises:
        ValueError: If a number is out of range.
    """

    near: Few | None = None
    reach: Annotated[int, Range(1, 64)] | None = None
    stride: Few | None = None
    sink: bool = False

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Pattern, include_extras=True).items():
            check_value(name, getattr(self, name), kind)


PATTERNS = {
    "full": Pattern(),
    "local": Pattern(near=4, reach=2, sink=True),
    "strided": Pattern(near=2, stride=4),
}
"""Patterns by name; ``space`` and ``time`` are the two factors of factorised attention."""

FACTORISED = ("space", "time")


class LayerAttention(NamedTuple):
    """The attentions of a layer, in this order.

    Attributes:
        space: Whether there is attention within the frame.
        time: Attention over time: ``"time"`` for that of each place, a pattern, or None.
    """

    space: bool
    time: Pattern | str | None

    @classmethod
    def parse(cls, text: str) -> LayerAttention:
        """Read one layer of ``DiTConfig.attention``.

        Args:
            text: ``space``, ``time`` or a pattern by name, with numbers of its own if wanted; or
                ``space`` and one of the others joined by ``+``.

        Raises:
            ValueError: If it is none of these.

        Example:
            >>> LayerAttention.parse("space+local:near=8,reach=3").time
            Pattern(near=8, reach=3, stride=None, sink=True)
        """
        parts = text.split("+")
        space = parts[0] == "space"
        rest = parts[space:]
        if len(rest) > 1 or "space" in rest:
            raise ValueError(
                "a layer of attention is space, time, full, local or strided, or space with one of "
                f"the others, such as space+time, got {text!r}"
            )
        return cls(space, _parse_over_time(rest[0]) if rest else None)


def _parse_over_time(text: str) -> Pattern | str:
    name, _, numbers = text.partition(":")
    if name == "time" and not numbers:
        return name
    if name not in PATTERNS:
        raise ValueError(
            f"attention must be {', '.join((*FACTORISED, *PATTERNS))}, got {text!r:.60}"
        )
    changes: dict[str, int | bool] = {}
    for entry in filter(None, numbers.split(",")):
        key, _, value = entry.partition("=")
        if key not in Pattern.__dataclass_fields__ or not value.isdecimal():
            raise ValueError(
                "a pattern's numbers are given as near=4,reach=2,stride=4,sink=1, got "
                f"{numbers!r:.60}"
            )
        changes[key] = bool(int(value)) if key == "sink" else int(value)
    return dataclasses.replace(PATTERNS[name], **changes)  # type: ignore[arg-type]


def layer_attentions(attention: tuple[str, ...], depth: int, time_every: int) -> list[str]:
    """The attention of each layer: the given ones in turn.

    Args:
        attention: As in ``DiTConfig``; if empty, attention within the frame, and over time in each
            ``time_every``-th layer.
        depth: Number of layers.
        time_every: Layers per layer with attention over time.
    """
    own = attention or (*["space"] * (time_every - 1), "space+time")
    return [own[layer % len(own)] for layer in range(depth)]


def seen_from(time: int, window: int, pattern: Pattern) -> list[int]:
    """The times of a sequence that one of its times sees, in order; -1 is the first as a sink."""
    near = max(0, time + 1 - min(pattern.near or window, window))
    far: list[int] = []
    if pattern.stride is not None:
        first = max(0, time + 1 - window)
        far = list(range(first + -first % pattern.stride, near, pattern.stride))
    seen = [*far, *range(near, time + 1)]
    return seen if seen[0] == 0 or not pattern.sink else [*seen, -1]


def times_seen(times: int, window: int, pattern: Pattern) -> torch.Tensor:
    """Which times of a sequence each time sees, bool (times times + 1).

    The last column is the first time as a sink, seen where the first column is not.
    """
    seen = torch.zeros(times, times + 1, dtype=torch.bool)
    for time in range(times):
        seen[time, seen_from(time, window, pattern)] = True
    return seen


class Ring(NamedTuple):
    """The slots of a ring cache that hold what a pattern sees.

    The newest times take turns in the first ``near`` slots. Multiples of the stride have slots of
    their own, and so has the first time if it is a sink.

    Attributes:
        near: Slots of the newest times.
        far: Slots of older times that are multiples of ``stride``.
        stride: See `Pattern`; 1 without far slots.
        sink: Whether the last slot holds the first time.
        window: Times that are seen at most.
        over_places: Whether attention reads all places together, which decides the memory layout.
    """

    near: int
    far: int
    stride: int
    sink: bool
    window: int
    over_places: bool

    @classmethod
    def of(cls, pattern: Pattern | str, window: int) -> Ring:
        """The ring of a pattern, or of attention over time at each place."""
        if isinstance(pattern, str):
            return cls(window, 0, 1, False, window, over_places=False)
        near, stride = min(pattern.near or window, window), pattern.stride or 1
        far = -(-window // stride) if pattern.stride and near < window else 0
        sink = pattern.sink and near < window
        return cls(near, far, stride, sink, window, over_places=True)

    @property
    def num_slots(self) -> int:
        """All slots."""
        return self.near + self.far + self.sink

    def slots(self, positions: torch.Tensor) -> list[torch.Tensor]:
        """The slots that the times at ``positions`` (…) are written to, in this order.

        A time that is no multiple of the stride, or not the first, goes into its near slot again.
        """
        near = positions % self.near
        slots = [near]
        if self.far:
            far = self.near + positions // self.stride % self.far
            slots.insert(0, torch.where(positions % self.stride == 0, far, near))
        if self.sink:
            slots.insert(0, torch.where(positions == 0, self.num_slots - 1, near))
        return slots

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        """Which slots hold a time that is seen from ``positions`` (b): bool (b num_slots)."""
        slot = torch.arange(self.num_slots, device=positions.device)
        now = positions[:, None]
        near = slot <= now
        if self.num_slots == self.near:
            return near
        # The newest multiple of the stride in each far slot.
        last = now // self.stride
        held = (last - (last - slot + self.near) % self.far) * self.stride if self.far else now
        distance = now - held
        far = (held >= 0) & (distance >= self.near) & (distance < self.window)
        # The first time is seen as a sink when it is seen nowhere else.
        sink = (now >= (self.window if self.far else self.near)).expand_as(near)
        is_far = (slot >= self.near) & (slot < self.near + self.far)
        return torch.where(slot < self.near, near, torch.where(is_far, far, sink))


class Neighbours(NamedTuple):
    """Square tiles of patches and what each sees, so that local attention has dense products.

    Attributes:
        queries: Patches of each tile, padded by repeats (tiles q).
        keys: Patches that some patch of the tile may see, and the special tokens (tiles k).
        mask: Which keys each query sees, bool (tiles q k).
        places: Where each patch is among all queries (patches).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor


def neighbours(device: torch.device, layout: Layout, reach: int) -> Neighbours:
    """The tiles of a frame, 2 * reach patches wide, and their neighbours."""
    sizes = layout.rows, layout.columns, layout.num_special, reach
    return Neighbours(*(_neighbour_table(device, *sizes, name) for name in Neighbours._fields))


@keep
def _neighbour_table(
    rows: int, columns: int, num_special: int, reach: int, name: str
) -> torch.Tensor:
    side = 2 * reach
    tiles = torch.cartesian_prod(torch.arange(0, rows, side), torch.arange(0, columns, side))
    inside = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    around = torch.cartesian_prod(*[torch.arange(-reach, side + reach)] * 2)
    query, key = (tiles[:, None] + offsets for offsets in (inside, around))  # (tiles, _, 2)
    limits = torch.tensor([rows, columns])
    exists = ((key >= 0) & (key < limits)).all(-1)
    near = ((query[:, :, None] - key[:, None]).abs() <= reach).all(-1)
    special = torch.arange(rows * columns, rows * columns + num_special)
    numbers = [
        (torch.minimum(at.clamp_min(0), limits - 1) * torch.tensor([columns, 1])).sum(-1)
        for at in (query, key)
    ]
    if name == "queries":
        return numbers[0]
    if name == "keys":
        return torch.cat((numbers[1], special.expand(len(tiles), -1)), dim=1)
    if name == "mask":
        see_special = torch.ones(*near.shape[:2], num_special, dtype=torch.bool)
        return torch.cat((near & exists[:, None], see_special), dim=2)
    is_query = (query < limits).all(-1)
    flat = rearrange(numbers[0], "tiles q -> (tiles q)")
    places = torch.empty(rows * columns, dtype=torch.int64)
    own = is_query.flatten().nonzero()[:, 0]
    places[flat[own]] = own
    return places


def places_seen(layout: Layout, reach: int | None) -> torch.Tensor:
    """Which tokens of a frame each of its tokens sees, bool (n n): the rule, for small frames."""
    n = layout.tokens_per_time
    if reach is None:
        return torch.ones(n, n, dtype=torch.bool)
    at = torch.cartesian_prod(torch.arange(layout.rows), torch.arange(layout.columns))
    seen = torch.ones(n, n, dtype=torch.bool)
    seen[: len(at), : len(at)] = ((at[:, None] - at).abs() <= reach).all(-1)
    return seen
