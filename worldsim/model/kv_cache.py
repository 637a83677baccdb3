"""KV cache: a ring buffer of keys and values of the last frames, of fixed size.

Frame number ``p`` is in slot ``p % window``. Each denoising pass writes the frame's keys and values
into its slot, which held the oldest frame. After the last pass, advancing the position commits
them. So a step costs the same at frame 10 and at frame 10,000, and nothing is copied. Stored keys
are rotated by their absolute frame number, so the order of the slots does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class LayerCache:
    """One layer's view of the cache, at the slots of the current frames.

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
        """Write one frame's key and value (b n kv_heads dim); return those of all slots."""
        self.keys[self.lanes, :, :, self.slots] = key
        self.values[self.lanes, :, :, self.slots] = value
        return self.keys, self.values

    def fill(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the first frames of empty lanes: keys and values (b n kv_heads t dim)."""
        self.keys[:, :, :, : keys.shape[3]] = keys
        self.values[:, :, :, : values.shape[3]] = values


class KVCache:
    """Keys and values of ``batch_size`` lanes, each at its own frame number.

    Args:
        num_layers: Layers with attention over time.
        batch_size: Lanes.
        num_tokens: Tokens per frame.
        num_kv_heads: Key heads.
        dim: Channels of a head.
        window: Frames kept, the current one included.
        device: Where its tensors are.
        dtype: The type of keys and values.
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
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (num_layers, batch_size, num_tokens, num_kv_heads, window, dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.positions = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lanes = torch.arange(batch_size, device=device)
        self.slot_numbers = torch.arange(window, device=device)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in (*self.tensors(), self.lanes, self.slot_numbers))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Those that steps change: keys, values and positions."""
        return self.keys, self.values, self.positions

    def layers(self) -> list[LayerCache]:
        """The view of each layer, at the slots of the current frames."""
        slots = self.positions % len(self.slot_numbers)
        return [
            LayerCache(keys, values, self.lanes, slots)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def mask(self) -> torch.Tensor:
        """Which slots hold a frame of the lane, the current one included: (b window)."""
        return self.slot_numbers <= self.positions[:, None]

    def commit(self, num_frames: int = 1) -> None:
        """Keep the last pass's keys and values, and advance every lane by its frames."""
        self.positions += num_frames

    def clone(self) -> KVCache:
        """An independent copy."""
        copy = object.__new__(KVCache)
        copy.keys, copy.values = self.keys.clone(), self.values.clone()
        copy.positions = self.positions.clone()
        copy.lanes, copy.slot_numbers = self.lanes, self.slot_numbers
        return copy

    def view(self, lanes: slice) -> KVCache:
        """Some of its lanes, in the same memory."""
        view = object.__new__(KVCache)
        view.keys, view.values = self.keys[:, lanes], self.values[:, lanes]
        view.positions = self.positions[lanes]
        view.lanes, view.slot_numbers = self.lanes[: len(view.positions)], self.slot_numbers
        return view

    def take_lanes(self, lanes: torch.Tensor) -> KVCache:
        """An independent copy whose lane i is lane ``lanes[i]`` of this one."""
        copy = object.__new__(KVCache)
        copy.keys, copy.values = self.keys[:, lanes], self.values[:, lanes]
        copy.positions = self.positions[lanes]
        copy.lanes = torch.arange(len(lanes), device=self.lanes.device)
        copy.slot_numbers = self.slot_numbers
        return copy

    def copy_lanes(self, source: KVCache, lanes: torch.Tensor, rows: torch.Tensor) -> None:
        """Overwrite the given lanes by the given rows of another cache."""
        for own, others in ((self.keys, source.keys), (self.values, source.values)):
            for layer, other in zip(own, others, strict=True):  # one layer needs little memory
                layer[lanes] = other[rows]
        self.positions[lanes] = source.positions[rows]
