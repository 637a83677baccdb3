"""VideoDiT: a transformer that denoises the frames of a game, given what the player did.

Each frame is a set of tokens: one per patch, one for the action that led into the frame, one for
its noise level, and a few registers (Darcet et al. 2024). Attention is within the frame in every
layer and causal over time in every ``time_every``-th. A patch token reads, besides its noisy
pixels, the same place in the last ``num_history`` finished frames with a margin around it: what
moves by a few pixels is then seen by the first layer, and time attention is free for what lies
further back.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange, repeat
from torch import nn

from worldsim.kv_cache import KVCache, LayerCache
from worldsim.layers import (
    Rotation,
    SpaceAttention,
    SwiGLU,
    TimeAttention,
    space_rotation,
    time_rotation,
)


class DiTOutput(NamedTuple):
    """What VideoDiT computes.

    Attributes:
        latents: Predicted clean latents (b t c h w).
        features: One vector a frame (b t d), for reward and termination.
    """

    latents: torch.Tensor
    features: torch.Tensor


class Block(nn.Module):
    """Attention over space, in some layers over time, and a feed-forward layer."""

    def __init__(
        self, width: int, num_heads: int, num_kv_heads: int, hidden: int, over_time: bool
    ) -> None:
        super().__init__()
        self.space = SpaceAttention(width, num_heads, num_kv_heads)
        self.time = TimeAttention(width, num_heads, num_kv_heads) if over_time else None
        self.feed_forward = SwiGLU(width, hidden)

    def forward(
        self,
        x: torch.Tensor,
        space: Rotation,
        time: Rotation,
        mask: torch.Tensor,
        cache: LayerCache | None,
    ) -> torch.Tensor:
        """Map tokens (b t n d) to tokens; the cache is for attention over time."""
        x = x + self.space(x, space)
        if self.time is not None:
            x = x + self.time(x, time, mask, cache)
        return x + self.feed_forward(x)

    def scale_outputs(self, factor: float) -> None:
        """Scale what each of the block's parts adds to the tokens, before training."""
        outputs = [self.space.out, self.feed_forward.down]
        if self.time is not None:
            outputs.append(self.time.out)
        for linear in outputs:
            linear.weight.data *= factor


@functools.lru_cache(maxsize=8)
def place_features(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Where each patch lies, as waves over the frame's height and width: (rows * columns 20).

    Rotary positions tell how far patches lie apart; these tell where in the frame they are, which
    is what a background depends on, for frames of any size.
    """
    places = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) / rows,
        (torch.arange(columns, device=device) + 0.5) / columns,
        indexing="ij",
    )
    angles = (
        torch.stack(places, dim=-1)[..., None] * torch.pi * 2.0 ** torch.arange(5, device=device)
    )
    return rearrange(
        torch.stack((angles.sin(), angles.cos())),
        "wave rows columns side k -> (rows columns) (wave side k)",
    )


class VideoDiT(ModelMixin, ConfigMixin):
    """Causal video diffusion transformer conditioned on discrete actions.

    Args:
        num_actions: Actions of the game; the index ``num_actions`` stands for an unknown action.
        latent_channels: Channels of a latent frame.
        patch_size: Side of a square patch, in latent pixels. Frames of any size are padded to
            whole patches.
        width: Channels of a token.
        depth: Layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        mlp_ratio: Hidden width of the feed-forward layers over ``width``.
        time_every: Attention over time in every so many layers, the last one included.
        num_registers: Register tokens a frame.
        num_history: Finished frames given to each frame's patches.
        window: Frames that attention over time sees, the present one included.
    """

    @register_to_config
    def __init__(
        self,
        *,
        num_actions: int,
        latent_channels: int = 3,
        patch_size: int = 8,
        width: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        num_kv_heads: int = 2,
        mlp_ratio: float = 2.0,
        time_every: int = 3,
        num_registers: int = 2,
        num_history: int = 2,
        window: int = 16,
    ) -> None:
        super().__init__()
        if width % (4 * num_heads) or num_heads % num_kv_heads:
            raise ValueError(
                "width must be a multiple of 4 * num_heads and num_heads one of num_kv_heads, got "
                f"width {width}, num_heads {num_heads}, num_kv_heads {num_kv_heads}"
            )
        self.head_dim = width // num_heads
        self.num_special = 2 + num_registers
        margin = patch_size // 2
        self.embed_noisy = nn.Conv2d(latent_channels, width, patch_size, stride=patch_size)
        self.embed_history = nn.Conv2d(
            latent_channels * num_history,
            width,
            patch_size + 2 * margin,
            stride=patch_size,
            padding=margin,
            bias=False,
        )
        self.place_embedding = nn.Linear(20, width, bias=False)
        self.action_embedding = nn.Embedding(num_actions + 1, width)
        self.level_embedding = nn.Sequential(
            nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.registers = nn.Parameter(torch.randn(num_registers, width) * 0.02)
        hidden = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, num_kv_heads, hidden, over_time=(i + 1) % time_every == 0)
            for i in range(depth)
        )
        self.norm = nn.RMSNorm(width)
        self.unembed = nn.Linear(width, latent_channels * patch_size**2)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.scale_outputs(self.config.depth**-0.5 / 1.5)
        for embed in (self.embed_noisy, self.embed_history):
            # A small thing in a patch must be heard beside the action and the level.
            nn.init.trunc_normal_(embed.weight, std=4 * embed.weight[0].numel() ** -0.5)
        nn.init.normal_(self.action_embedding.weight, std=0.5)
        nn.init.zeros_(self.unembed.weight)

    def new_cache(self, batch_size: int, frame_size: tuple[int, int]) -> KVCache:
        """An empty ring of the past for sessions with latent frames of the given (h, w)."""
        rows, columns = (-(-side // self.config.patch_size) for side in frame_size)
        return KVCache(
            num_layers=sum(block.time is not None for block in self.blocks),
            batch_size=batch_size,
            num_tokens=rows * columns + self.num_special,
            num_kv_heads=self.config.num_kv_heads,
            dim=self.head_dim,
            window=self.config.window,
            device=self.device,
        )

    def _level_features(self, tau: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(1_000), 32, device=tau.device))
        angles = tau[..., None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def forward(
        self,
        noisy_latents: torch.Tensor,
        tau: torch.Tensor,
        actions: torch.Tensor,
        history: torch.Tensor,
        cache: KVCache | None = None,
    ) -> DiTOutput:
        """Predict clean frames.

        Without a cache, the frames are a sequence and each sees the ``window - 1`` before it.
        With one, they are the next frame of each session (t = 1) and the cache is the past;
        its position moves on only when the caller commits.

        Args:
            noisy_latents: (b t c h w).
            tau: Noise level of each frame (b t), 0 noise to 1 clean.
            actions: The action that led into each frame (b t), ``num_actions`` where unknown.
            history: The ``num_history`` frames before each, newest first, (b t k*c h w).
            cache: Memory of the sessions.

        Returns:
            Predicted clean latents and features.
        """
        _, t, _, h, w = noisy_latents.shape
        x, (rows, columns) = self._tokens(noisy_latents, tau, actions, history)
        space = space_rotation(rows, columns, self.num_special, self.head_dim, x.device)
        layer_caches: Iterator[LayerCache | None]
        if cache is None:
            positions = torch.arange(t, device=x.device)[None]
            distance = positions[0][:, None] - positions[0]
            mask = (distance >= 0) & (distance < self.config.window)
            layer_caches = itertools.repeat(None)
        else:
            positions = cache.positions[:, None]
            mask = cache.mask()
            layer_caches = iter(cache.layers())
        time = time_rotation(positions, self.head_dim)
        for block in self.blocks:
            cached = None if block.time is None else next(layer_caches)
            x = block(x, space, time, mask, cached)
        x = self.norm(x)
        patches = rearrange(
            self.unembed(x[:, :, : rows * columns]),
            "b t (rows columns) (c ph pw) -> b t c (rows ph) (columns pw)",
            rows=rows,
            ph=self.config.patch_size,
            pw=self.config.patch_size,
        )
        return DiTOutput(patches[..., :h, :w], x[:, :, -1])

    def _tokens(
        self,
        noisy_latents: torch.Tensor,
        tau: torch.Tensor,
        actions: torch.Tensor,
        history: torch.Tensor,
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Tokens (b t n d): patches by rows, then action, level and registers."""
        b, t, _, h, w = noisy_latents.shape
        patch = self.config.patch_size
        padding = (0, -w % patch, 0, -h % patch)
        noisy, past = (
            F.pad(rearrange(a, "b t c h w -> (b t) c h w"), padding)
            for a in (noisy_latents, history)
        )
        embedded = self.embed_noisy(noisy) + self.embed_history(past)
        patches = rearrange(embedded, "(b t) d rows columns -> b t (rows columns) d", b=b)
        patches = patches + self.place_embedding(place_features(*embedded.shape[-2:], tau.device))
        action = self.action_embedding(actions)[:, :, None]
        level = self.level_embedding(self._level_features(tau))[:, :, None]
        registers = repeat(self.registers, "n d -> b t n d", b=b, t=t)
        tokens = torch.cat((patches + action + level, action, level, registers), dim=2)
        return tokens, (embedded.shape[-2], embedded.shape[-1])
