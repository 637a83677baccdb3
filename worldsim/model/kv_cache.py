"""A ring of the past: keys and values of the last frames, in memory that never grows.

Frame number ``p`` lives in slot ``p % window``. While a frame is being denoised, each pass writes
its provisional keys and values into the slot of that frame, over the one that has just left the
window; after the last pass they are committed by moving the position on. So a step
costs the same at frame 10 and at frame 10,000, and nothing is copied. Keys are stored turned by
their absolute frame number, so the order of the slots does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class LayerCache:
    """One layer's view of the ring, at the slots of the frames being computed.

    Attributes:
        keys: (b n kv_heads window dim).
        values: (b n kv_heads window dim).
        lanes: (b), 0 .. b - 1.
        slots: (b), the slot to write for each lane.
    """

    keys: torch.Tensor
    values: torch.Tensor
    lanes: torch.Tensor
    slots: torch.Tensor

    def write(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one frame's key and value (b n kv_heads dim) in place; return the whole ring."""
        self.keys[self.lanes, :, :, self.slots] = key
        self.values[self.lanes, :, :, self.slots] = value
        return self.keys, self.values


class KVCache:
    """Fixed-size memory of ``batch_size`` lanes, each at its own frame number.

    Args:
        num_layers: Layers with attention over time.
        batch_size: Lanes.
        num_tokens: Tokens per frame.
        num_kv_heads: Key heads.
        dim: Channels of a head.
        window: Frames remembered, the one under way included.
        device: Where it lives.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_tokens: int,
        num_kv_heads: int,
        dim: int,
        window: int,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, batch_size, num_tokens, num_kv_heads, window, dim)
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)
        self.positions = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lanes = torch.arange(batch_size, device=device)
        self.slot_numbers = torch.arange(window, device=device)

    @property
    def num_bytes(self) -> int:
        """Bytes of all that it holds."""
        tensors = (self.keys, self.values, self.positions, self.lanes, self.slot_numbers)
        return sum(tensor.nbytes for tensor in tensors)

    def layers(self) -> list[LayerCache]:
        """The ring of each layer, at the slots of the frames under way."""
        slots = self.positions % len(self.slot_numbers)
        return [
            LayerCache(keys, values, self.lanes, slots)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def mask(self) -> torch.Tensor:
        """Which slots hold a frame of the lane, the one under way included: (b window)."""
        return self.slot_numbers <= self.positions[:, None]

    def commit(self) -> None:
        """Keep what the last pass wrote and move every lane on by one frame."""
        self.positions += 1

    def clone(self) -> KVCache:
        """An independent copy."""
        copy = object.__new__(KVCache)
        copy.keys, copy.values = self.keys.clone(), self.values.clone()
        copy.positions = self.positions.clone()
        copy.lanes, copy.slot_numbers = self.lanes, self.slot_numbers
        return copy

    def take_lanes(self, lanes: torch.Tensor) -> KVCache:
        """An independent copy whose lane i is lane ``lanes[i]`` of this one."""
        copy = object.__new__(KVCache)
        copy.keys, copy.values = self.keys[:, lanes], self.values[:, lanes]
        copy.positions = self.positions[lanes]
        copy.lanes = torch.arange(len(lanes), device=self.lanes.device)
        copy.slot_numbers = self.slot_numbers
        return copy

    def copy_lanes(self, source: KVCache, lanes: torch.Tensor) -> None:
        """Overwrite the given lanes by those of a cache that has as many lanes as are named."""
        self.keys[:, lanes] = source.keys
        self.values[:, lanes] = source.values
        self.positions[lanes] = source.positions
