"""KV cache: a ring buffer of keys and values of past frames, of fixed size.

Frame number ``p`` is in slot ``p % window``, or where the pattern of a layer has it, see `Ring`.
Each denoising pass writes the frame's keys and values into its slot, which held the oldest frame.
After the last pass, advancing the position commits them. So a step costs the same at frame 10 and
at frame 10,000, and nothing is copied. Stored keys are rotated by their absolute frame number, so
the order of the slots does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worldsim.model.patterns import Ring


@dataclass
class LayerCache:
    """One layer's view of the cache, at the slots of the current frames.

    Its memory is in the order in which attention reads it: heads, then tokens if all places are
    read together, see ``Ring.over_places``.

    Attributes:
        keys: (b n kv_heads slots dim), or (b kv_heads n slots dim) over all places.
        values: Of the same shape.
        lanes: (b), 0 .. b - 1.
        slots: The slots to write for each lane, (b) each, in this order.
        seen: Which slots hold what the current frame sees, bool (b slots).
        ring: What the slots are.
    """

    keys: torch.Tensor
    values: torch.Tensor
    lanes: torch.Tensor
    slots: list[torch.Tensor]
    seen: torch.Tensor
    ring: Ring

    def write(
        self, key: torch.Tensor, value: torch.Tensor, sink_key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one frame, and return the keys and values of all slots.

        Args:
            key: Its keys, of the shape of ``keys`` without slots.
            value: Its values.
            sink_key: Its keys as the sink, if the ring has one.
        """
        for number, slots in enumerate(self.slots):
            as_sink = sink_key if self.ring.sink and number == 0 else None
            self.keys[self.lanes, :, :, slots] = key if as_sink is None else as_sink
            self.values[self.lanes, :, :, slots] = value
        return self.keys, self.values

    def fill(
        self, keys: torch.Tensor, values: torch.Tensor, sink_key: torch.Tensor | None = None
    ) -> None:
        """Write the first t frames of empty lanes, each of the shape of a frame with t for slots.

        Args:
            keys: Their keys.
            values: Their values.
            sink_key: Those of the first frame as the sink, if the ring has one.
        """
        ring, length = self.ring, keys.shape[3]
        if length <= ring.near:
            self.keys[:, :, :, :length] = keys
            self.values[:, :, :, :length] = values
        newest = torch.arange(max(0, length - ring.near), length)
        multiples = torch.arange(0, length, ring.stride)[-ring.far :] if ring.far else newest[:0]
        for frames, slots in (
            (newest if length > ring.near else newest[:0], newest % ring.near),
            (multiples, ring.near + multiples // ring.stride % max(ring.far, 1)),
        ):
            if len(frames):
                self.keys[:, :, :, slots] = keys[:, :, :, frames]
                self.values[:, :, :, slots] = values[:, :, :, frames]
        if ring.sink:
            assert sink_key is not None
            self.keys[:, :, :, -1] = sink_key
            self.values[:, :, :, -1] = values[:, :, :, 0]


class KVCache:
    """Keys and values of ``batch_size`` lanes, each at its own frame number.

    Args:
        rings: That of each layer with attention over time.
        batch_size: Lanes.
        num_tokens: Tokens per frame.
        num_kv_heads: Key heads.
        dim: Channels of a head.
        device: Where its tensors are.
        dtype: The type of keys and values.
    """

    def __init__(
        self,
        *,
        rings: Sequence[Ring],
        batch_size: int,
        num_tokens: int,
        num_kv_heads: int,
        dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rings = list(rings)
        shapes = []
        for ring in self.rings:
            inner = (num_tokens, num_kv_heads)
            inner = inner[::-1] if ring.over_places else inner
            shapes.append((batch_size, *inner, ring.num_slots, dim))
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.positions = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lanes = torch.arange(batch_size, device=device)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in (*self.tensors(), self.lanes))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Those that steps change: keys and values of each layer, and positions."""
        return *self.keys, *self.values, self.positions

    def layers(self) -> list[LayerCache]:
        """The view of each layer, at the slots of the current frames."""
        rings = dict.fromkeys(self.rings)
        at = {ring: (ring.slots(self.positions), ring.seen(self.positions)) for ring in rings}
        return [
            LayerCache(keys, values, self.lanes, *at[ring], ring)
            for keys, values, ring in zip(self.keys, self.values, self.rings, strict=True)
        ]

    def commit(self, num_frames: int = 1) -> None:
        """Keep the last pass's keys and values, and advance every lane by its frames."""
        self.positions += num_frames

    def clone(self) -> KVCache:
        """An independent copy."""
        return self._with([tensor.clone() for tensor in self.tensors()])

    def view(self, lanes: slice) -> KVCache:
        """Some of its lanes, in the same memory."""
        return self._with([tensor[lanes] for tensor in self.tensors()])

    def take_lanes(self, lanes: torch.Tensor) -> KVCache:
        """An independent copy whose lane i is lane ``lanes[i]`` of this one."""
        return self._with([tensor[lanes] for tensor in self.tensors()])

    def _with(self, tensors: Sequence[torch.Tensor]) -> KVCache:
        """A cache of the same rings with the given tensors."""
        other = object.__new__(KVCache)
        other.rings, num_layers = self.rings, len(self.rings)
        other.keys = list(tensors[:num_layers])
        other.values = list(tensors[num_layers:-1])
        other.positions = tensors[-1]
        other.lanes = self.lanes
        if len(other.positions) != len(self.lanes):
            other.lanes = torch.arange(len(other.positions), device=self.lanes.device)
        return other

    def copy_lanes(self, source: KVCache, lanes: torch.Tensor, rows: torch.Tensor) -> None:
        """Overwrite the given lanes by the given rows of another cache."""
        for own, other in zip(self.tensors(), source.tensors(), strict=True):
            own[lanes] = other[rows]
