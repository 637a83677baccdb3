"""A world behind the interface of a video pipeline of diffusers.

It is called like a pipeline and is none: importing diffusers takes longer than all that a world
needs. So a program that uses ``pipe(prompt, ...).frames`` changes one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from PIL import Image

from worldsim.first_frame import first_frames
from worldsim.model.text import Caption
from worldsim.rollout import Rollout
from worldsim.rollout_context import prompts_of
from worldsim.start import check_actions, start_from
from worldsim.system.devices import to_host
from worldsim.system.options import Count, check_value
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]
OUTPUT_TYPES = ("np", "pt", "pil")
MAX_SEED = 2**62


@dataclass
class WorldPipelineOutput:
    """The videos of a call.

    Attributes:
        frames: A video for each prompt: float32 (b t h w c) in [0, 1] for ``"np"``, a tensor
            (b t c h w) in [0, 1] for ``"pt"``, lists of pictures for ``"pil"``.
    """

    frames: Any


class WorldPipeline:
    """A world that makes videos from words, from pictures or from its own starts.

    Args:
        world: The world.

    Example:
        >>> pipe = WorldPipeline.from_pretrained("runs/balls")  # doctest: +SKIP
        >>> generator = torch.Generator().manual_seed(0)  # doctest: +SKIP
        >>> pipe("two red balls", num_frames=49, generator=generator).frames.shape  # doctest: +SKIP
        (1, 49, 64, 64, 3)
    """

    def __init__(self, world: WorldModel) -> None:
        self.world = world
        self._rollout: Rollout | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str = "auto",
        text_encoder: str | None = None,
    ) -> WorldPipeline:
        """Load a world; arguments and errors are those of `worldsim.load`."""
        return cls(load(name, device, dtype, text_encoder))

    def to(self, device: str | torch.device) -> WorldPipeline:
        """Move the world to a device."""
        self.world.to(device)
        self._rollout = None
        return self

    def __call__(
        self,
        prompt: str | Sequence[Caption] | None = None,
        *,
        num_frames: int | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        image: Any = None,
        actions: Any = None,
        output_type: str = "np",
    ) -> WorldPipelineOutput:
        """Make a video for each prompt.

        Args:
            prompt: One, or one for each video; None takes the caption of a start of the world.
            num_frames: Frames of a video, those given included; four windows if not given.
            guidance_scale: How closely to follow the prompt; 1 is the prediction itself.
            num_inference_steps: Denoising passes per frame; the world's own number if not given.
            generator: Of the noise, one or one for each video; from entropy if not given.
            image: A picture to begin from, or a list of pictures to continue: of Pillow, or uint8
                arrays (h w c). Without it a prompt begins from words alone.
            actions: For the frames after the first (t-1), int; unknown if not given.
            output_type: ``"np"``, ``"pt"`` or ``"pil"``, see `WorldPipelineOutput`.

        Raises:
            ValueError: If an argument is out of range, or the world cannot encode a prompt.
        """
        if num_frames is None:
            num_frames = 4 * self.world.patch_frames * self.world.window
        check_value("num_frames", num_frames, Count)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        seeds = _seeds(generator, len(prompts))
        if image is not None:
            fitted = start_from(_pictures(image), self.world).frames
            context = repeat(fitted, "t h w c -> b t h w c", b=len(prompts))
        elif any(prompts):
            context = first_frames(self.world, prompts, seeds, guidance_scale=guidance_scale)
        else:
            context, prompts = self.starts(seeds)
        frames = self.frames_from(
            context[:, -num_frames:],
            prompts,
            seeds,
            num_frames=num_frames,
            num_passes=num_inference_steps,
            guidance_scale=guidance_scale,
            actions=actions,
        )
        return WorldPipelineOutput(_as_output(np.stack([*frames], axis=1), output_type))

    def starts(self, seeds: Sequence[int]) -> tuple[Frames, list[Caption]]:
        """A start window of the world for each seed, uint8 (b t h w c), with its caption."""
        count = len(self.world.starts.frames)
        drawn = self.world.starts[[int(np.random.default_rng(s).integers(count)) for s in seeds]]
        prompts = prompts_of(drawn, self.world)
        return drawn.frames, list(prompts or [None] * len(seeds))

    def frames_from(
        self,
        context: Frames,
        prompts: Sequence[Caption],
        seeds: Sequence[int],
        *,
        num_frames: int,
        num_passes: int | None = None,
        guidance_scale: float = 1.0,
        actions: Any = None,
    ) -> Iterator[Frames]:
        """Continue frames one by one, from the ring cache: memory is the same for any length.

        Args:
            context: uint8 (b t h w c), in the size of the world.
            prompts: One for each video.
            seeds: One for each video.
            num_frames: Frames of a video, the context included.
            num_passes: Denoising passes per frame; the world's own number if not given.
            guidance_scale: See `Rollout`.
            actions: For the frames after the first (num_frames - 1); unknown if not given.

        Yields:
            The given frames, then new ones, uint8 (b h w c).
        """
        game, (b, given) = self.world.game, context.shape[:2]
        taken = np.full(num_frames - 1, game.num_actions)
        if actions is not None:
            taken = check_actions(actions, self.world, num_frames - 1)
        rollout = self._rollout_for(b, num_passes, guidance_scale)
        rollout.reset(context, repeat(taken[: given - 1], "t -> b t", b=b), seeds, prompts=prompts)
        yield from rearrange(context, "b t h w c -> t b h w c")
        p = self.world.patch_frames
        for first in range(given - 1, num_frames - 1, p):
            to_take = taken[first : first + p]
            held = np.pad(to_take, (0, p - len(to_take)), mode="edge")
            rollout.advance(repeat(held, "p -> b p", b=b) if p > 1 else repeat(held, "1 -> b", b=b))
            clip = rearrange(to_host(rollout.clip()), "b p h w c -> p b h w c")
            yield from clip[: len(to_take)]

    def _rollout_for(self, b: int, num_passes: int | None, guidance_scale: float) -> Rollout:
        """The rollout of the call before if it fits, since a GPU records the steps of each."""
        kept = self._rollout
        if kept is None or (kept.batch_size, kept.guidance_scale) != (b, guidance_scale):
            kept = self._rollout = Rollout(self.world, b, guidance_scale=guidance_scale)
        kept.num_passes = self.world.num_passes if num_passes is None else num_passes
        return kept


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """A seed for each video, drawn from its generator or from the one of all."""
    if generator is None:
        return [int(seed) for seed in np.random.default_rng().integers(MAX_SEED, size=count)]
    if isinstance(generator, torch.Generator):
        generator = [generator] * count
    if len(generator) != count:
        raise ValueError(f"{count} prompts need a generator or {count}, got {len(generator)}")
    return [
        int(torch.randint(MAX_SEED, (), generator=each, device=each.device)) for each in generator
    ]


def _pictures(image: Any) -> Frames:
    """Pictures as uint8 (t h w 3)."""
    pictures = list(image) if isinstance(image, (list, tuple)) else [image]
    arrays = [np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in pictures]
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                "image takes pictures of Pillow or uint8 arrays (h w 3), got "
                f"{array.dtype} {array.shape}"
            )
    if not arrays or len({array.shape for array in arrays}) > 1:
        raise ValueError(f"image takes pictures of one size, got {len(arrays)} of several")
    return np.stack(arrays)


def _as_output(frames: Frames, output_type: str) -> Any:
    """Frames uint8 (b t h w c) as `WorldPipelineOutput` has them."""
    if output_type == "pil":
        if frames.shape[-1] == 1:
            frames = rearrange(frames, "b t h w 1 -> b t h w")
        return [[Image.fromarray(frame) for frame in video] for video in frames]
    scaled = frames.astype(np.float32) / 255
    if output_type == "np":
        return scaled
    return rearrange(torch.from_numpy(scaled), "b t h w c -> b t c h w")
