"""The cost of a world: of whole sequences by its attention, and of a step with its ring cache."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from worldsim.model.conditions import Conditions
from worldsim.model.dit import VideoDiT
from worldsim.model.spacetime import SpacetimeAttention
from worldsim.rollout import Rollout
from worldsim.video.flops import Denoiser, Forward, count
from worldsim.world_model import WorldModel


def with_attention(world: WorldModel, attention: str) -> WorldModel:
    """A world of the same sizes with other attention, untrained, to be counted.

    Args:
        world: The world.
        attention: Words of ``DiTConfig.attention``, for the layers in turn, such as
            ``"space space full"``.

    Raises:
        ValueError: If there is no such attention, or it does not fit the width.
    """
    other = world.at_size(world.game.frame_size)
    config = replace(world.dit.config, attention=tuple(attention.split()) or ("",))
    other.dit = VideoDiT(config).eval()
    return other


def world_denoiser(world: WorldModel, name: str, steps: int | None = None) -> Denoiser:
    """A world on the CPU: whole sequences without a cache, and with its ring cache, as in play.

    Each token of a sequence sees all of the sequence that its pattern lets it see. A shorter window
    of the world limits only its ring.
    """
    dit = world.dit
    h, w = world.codec.latent_size(world.game.frame_size)
    rollout = Rollout(world, num_passes=steps)
    rollout.begin([0], [0])
    rollout.advance(np.zeros(1, np.int64))  # makes the tables of a frame, which layers keep
    step = count(lambda: rollout.advance(np.zeros(1, np.int64)), batched_is_attention=True)
    channels, p = dit.config.channels, world.patch_frames
    fake = FakeTensorMode(allow_non_fake_inputs=True)

    with FakeCopyMode(fake):
        model = copy.deepcopy(dit)

    def forward(t: int) -> Forward:
        model.config = replace(dit.config, window=max(dit.config.window, t))
        for layer in model.modules():
            if isinstance(layer, SpacetimeAttention):
                layer.window = model.config.window

        def run() -> object:
            noisy = torch.zeros(1, t, channels, h, w)
            history = torch.zeros(1, t, channels * world.num_history, h, w)
            actions = torch.zeros((1, t, p) if p > 1 else (1, t), dtype=torch.int64)
            return model(noisy, Conditions(torch.zeros(1, t), actions, history))

        return count(run, fake, batched_is_attention=True)

    return Denoiser(
        name=name,
        network=dit,
        frame_size=world.game.frame_size,
        fps=world.game.fps,
        window=world.context_frames,
        frame_tokens=dit.layout(1, (h, w)).tokens_per_time,
        reduction=p,
        steps=rollout.num_passes,
        forward=forward,
        ring=step._replace(activations=step.activations + rollout.bytes_per_lane),
    )
