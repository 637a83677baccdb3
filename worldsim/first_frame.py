"""The first frame of an episode from words alone, where no recorded frame begins it.

A frame that nothing precedes is a still: a sequence of one frame, whose history is grey and whose
action is unknown. Worlds with text are trained to draw such frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import repeat

from worldsim.model.actions import by_times
from worldsim.model.conditions import Conditions
from worldsim.model.sampling import euler, pass_levels
from worldsim.model.text import Caption, Text
from worldsim.rollout_input import check_guidance, check_prompts
from worldsim.rollout_text import guided
from worldsim.system.devices import to_host
from worldsim.world_model import WorldModel

NUM_PASSES = 16  # words say what is where only in part, and few passes blur what they leave open


@torch.no_grad()
def first_frames(
    world: WorldModel,
    prompts: Sequence[Caption],
    seeds: Sequence[int],
    *,
    guidance_scale: float = 1.0,
    num_passes: int = NUM_PASSES,
) -> np.ndarray:
    """Draw a frame for each prompt, from which a rollout can begin.

    Args:
        world: A world with text.
        prompts: One for each frame; None is no prompt.
        seeds: One for each frame, which decides its noise.
        guidance_scale: How closely the frames follow the prompts, see `LaneText`.
        num_passes: Denoising passes.

    Returns:
        uint8 (b 1 h w c).

    Raises:
        ValueError: If the world has no text, or cannot encode a prompt.
    """
    check_prompts(prompts, len(seeds))
    text = world.encode_text(prompts)
    check_guidance(guidance_scale, world)
    b, device = len(prompts), world.device
    shape = (1, world.dit.config.channels, *world.codec.latent_size(world.game.frame_size))
    noise = torch.stack([torch.randn(shape, generator=_generator(seed)) for seed in seeds])
    unknown = torch.full((b, world.patch_frames), world.game.num_actions, device=device)
    actions = by_times(unknown, world.patch_frames)
    history = repeat(world.unknown_history(shape[2:]), "c h w -> b 1 c h w", b=b)
    nothing = Text(text.embeddings, torch.zeros_like(text.mask))

    def denoise(latents: torch.Tensor, level: float) -> torch.Tensor:
        tau = torch.full((b, 1), level, device=device)
        conditions = Conditions(tau, actions, history, text=text)
        output = world.predict(latents, conditions)
        if guidance_scale != 1:
            free = world.predict(latents, conditions._replace(text=nothing))
            output = guided(output, free, guidance_scale)
        return output.latents

    latents = euler(denoise, noise.to(device), pass_levels(num_passes))
    # It stands for frames that stay as they are, as all times but the first of a sequence.
    past = repeat(latents, "b 1 c h w -> b n c h w", n=world.decode_past)
    return to_host(world.decode(latents, past if world.decode_past else None)[:, -1:])


def _generator(seed: int) -> torch.Generator:
    """On the CPU, so that a seed gives the same noise on every device."""
    return torch.Generator().manual_seed(seed)
