"""The prompts of a rollout's lanes, and classifier-free guidance by them.

Guidance (Ho & Salimans 2022) moves a prediction away from that without the prompt. Past frames
carry the prompt too, by their keys and values. So the prediction without it has a cache of its own,
in which the same frames were read without a prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.kv_cache import KVCache
from worldsim.model.text import Text

Predict = Callable[[torch.Tensor, Conditions, KVCache | None], DiTOutput]


class LaneText:
    """The prompts of lanes, and with guidance the cache of the prediction without them.

    Args:
        text: The prompt of each lane (b).
        free: An empty cache for as many lanes, with guidance; None without.
    """

    def __init__(self, text: Text, free: KVCache | None) -> None:
        self.text, self.free = text, free
        self.nothing = Text(torch.zeros_like(text.embeddings), torch.zeros_like(text.mask))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds and steps may change, or lanes that begin."""
        return (*self.text, *(() if self.free is None else self.free.tensors()))

    def predict(
        self,
        predict: Predict,
        latents: torch.Tensor,
        conditions: Conditions,
        cache: KVCache,
        scale: float,
    ) -> DiTOutput:
        """Predict the next frames of the lanes by their prompts, see `guided`.

        Args:
            predict: The network.
            latents: Noisy latents (b 1 c h w).
            conditions: All but the text.
            cache: Past frames of the lanes, read with their prompts.
            scale: Of guidance; unused without a second cache.
        """
        free = None
        if self.free is not None:  # first, since the other one is what the features are of
            free = predict(latents, conditions._replace(text=self.nothing), self.free)
        output = predict(latents, conditions._replace(text=self.text), cache)
        return output if free is None else guided(output, free, scale)

    def commit(self, num_frames: int = 1) -> None:
        """Keep the newest frames in the cache without prompts."""
        if self.free is not None:
            self.free.commit(num_frames)

    def clone(self) -> LaneText:
        """An independent copy."""
        text = Text(*(each.clone() for each in self.text))
        return LaneText(text, None if self.free is None else self.free.clone())

    def take_lanes(self, lanes: torch.Tensor) -> LaneText:
        """An independent copy whose lane i is lane ``lanes[i]`` of this one."""
        text = Text(*(each[lanes] for each in self.text))
        return LaneText(text, None if self.free is None else self.free.take_lanes(lanes))

    def copy_lanes(self, source: LaneText, lanes: torch.Tensor, rows: torch.Tensor) -> None:
        """Overwrite the given lanes by the given rows of another one."""
        for own, other in zip(self.text, source.text, strict=True):
            own[lanes] = other[rows]
        if self.free is not None:
            assert source.free is not None
            self.free.copy_lanes(source.free, lanes, rows)


def guided(output: DiTOutput, free: DiTOutput, scale: float) -> DiTOutput:
    """Move a prediction by a prompt away from that without: free + scale * (output - free)."""
    return output._replace(latents=torch.lerp(free.latents, output.latents, scale))
