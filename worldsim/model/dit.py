"""VideoDiT: a transformer that denoises the frames of a game, given the player's actions.

A shallow convolutional path, at half of the resolution, first reads the noisy frame and the
``num_history`` finished ones before it. Its features are cut into patches, one token each. Further
tokens hold the action that led into the frame, its noise level, and a few registers (Darcet et al.
2024). Attention is within the frame in every layer, and causal over time in every ``time_every``-th
layer. The convolutions see motion of a few pixels, which leaves time attention to the longer past.

The path skips the transformer, as in a U-Net. The transformer decides what happens in each patch;
convolutions, which are translation-equivariant, draw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn
from torch.utils.checkpoint import checkpoint

from worldsim.model.actions import ActionEmbedding
from worldsim.model.chance import ChanceCodes
from worldsim.model.conditions import Conditions
from worldsim.model.detail import DetailPath
from worldsim.model.dit_config import DiTConfig
from worldsim.model.kv_cache import KVCache, LayerCache
from worldsim.model.layers import (
    Places,
    SpaceAttention,
    SwiGLU,
    TimeAttention,
    place_features,
    space_rotation,
    spacetime_rotation,
    time_rotation,
    together,
)
from worldsim.model.layout import Layout
from worldsim.model.patterns import LayerAttention, Ring
from worldsim.model.spacetime import SpacetimeAttention, prepare_flex
from worldsim.model.text import Text
from worldsim.model.text_attention import TextAttention, TextInput


class DiTOutput(NamedTuple):
    """The output of a `VideoDiT`.

    Attributes:
        latents: Predicted clean latents (b t c h w).
        features: One vector per time (b t d), for reward and termination.
    """

    latents: torch.Tensor
    features: torch.Tensor


class Block(nn.Module):
    """Attention over space, over time or over both, to text if there is any, and a feed-forward.

    Args:
        config: The sizes of the network.
        attention: Of this layer, see `LayerAttention.parse`.
    """

    def __init__(self, config: DiTConfig, attention: str) -> None:
        super().__init__()
        sizes = config.width, config.num_heads, config.num_kv_heads
        space, over_time = LayerAttention.parse(attention)
        self.space = SpaceAttention(*sizes) if space else None
        self.time: TimeAttention | SpacetimeAttention | None = None
        self.ring: Ring | None = None
        if over_time is not None:
            self.ring = Ring.of(over_time, config.window)
            self.time = (
                TimeAttention(*sizes)
                if isinstance(over_time, str)
                else SpacetimeAttention(*sizes, over_time, config.window)
            )
        text_width = config.text_width
        self.text = TextAttention(*sizes, text_width) if text_width else None
        self.feed_forward = SwiGLU(config.width, int(config.width * config.mlp_ratio))

    def forward(
        self,
        groups: list[torch.Tensor],
        places: list[Places],
        cache: LayerCache | None,
        texts: list[Text] | None = None,
    ) -> list[torch.Tensor]:
        """Map tokens (b t n d) of each group; attention over time reads and writes the cache."""
        if self.space is not None:
            groups = _sums(groups, self.space(groups, places))
        if self.time is not None:
            groups = _sums(groups, self.time(groups, places, cache))
        if self.text is not None and texts is not None:
            groups = _sums(groups, self.text(groups, texts))
        return _sums(groups, together(self.feed_forward, groups))

    def scale_outputs(self, factor: float) -> None:
        """Scale the output of each residual part, before training."""
        attentions = [part for part in (self.space, self.time, self.text) if part is not None]
        for linear in (*(part.out for part in attentions), self.feed_forward.down):
            linear.weight.data *= factor


def _sums(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [one + other for one, other in zip(ones, others, strict=True)]


class VideoDiT(nn.Module):
    """Causal video diffusion transformer conditioned on discrete actions.

    Args:
        config: Its sizes.

    Example:
        >>> VideoDiT(DiTConfig(num_actions=3, depth=2)).config.window
        16
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, num_heads = config.width, config.num_heads
        detail_width, channels = config.detail_width, config.channels
        self.activation_checkpointing = False  # whether layers are computed again when training
        self.head_dim = width // num_heads
        self.num_special = 2 + config.num_registers + bool(config.chance_bits)
        stride = config.detail_stride
        self.detail = DetailPath(
            channels * (1 + config.num_history), channels, detail_width, stride
        )
        height, across = config.patch_sides
        self.patch = height // stride, across // stride  # sides of a patch, in features
        inside = detail_width * math.prod(self.patch)
        self.embed = nn.Linear(inside, width, bias=False)
        self.place_embedding = nn.Linear(20, width, bias=False)
        self.action_embedding = ActionEmbedding(config)
        self.level_embedding = nn.Sequential(
            nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.chance = ChanceCodes(config) if config.chance_bits else None
        self.registers = nn.Parameter(torch.empty(config.num_registers, width))
        nn.init.normal_(self.registers, std=0.02)
        self.text = TextInput(config.text_width) if config.text_width else None
        self.blocks = nn.ModuleList(Block(config, one) for one in config.layer_attentions)
        self.norm = nn.LayerNorm(width, bias=False)
        self.unembed = nn.Linear(width, 2 * inside)
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
        nn.init.normal_(self.action_embedding.weight, std=0.5)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.registers.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights, activations and cache."""
        return self.registers.dtype

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Change the type of weights, activations and cache.

        The last layer stays in float32, since frames have finer steps than bfloat16. So do chance
        codes, whose prior is a distribution.
        """
        self.to(dtype)
        self.detail.head[-1].float()
        if self.chance is not None:
            self.chance.float()

    def new_cache(self, batch_size: int, frame_size: tuple[int, int]) -> KVCache:
        """An empty cache for lanes with latent frames of the given (h, w)."""
        return KVCache(
            rings=[block.ring for block in self._blocks() if block.ring is not None],
            batch_size=batch_size,
            num_tokens=self.layout(1, frame_size).tokens_per_time,
            num_kv_heads=self.config.num_kv_heads,
            dim=self.head_dim,
            device=self.device,
            dtype=self.dtype,
        )

    def layout(self, times: int, frame_size: tuple[int, int]) -> Layout:
        """The tokens of a sequence of latent frames of the given (h, w)."""
        patch_frames = self.config.patch_frames
        patch = patch_frames, *self.config.patch_sides
        return Layout.of(1 + (times - 1) * patch_frames, frame_size, patch, self.num_special)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _level_features(self, tau: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(1_000), 32, device=tau.device))
        angles = tau[..., None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    @overload
    def forward(
        self,
        noisy_latents: torch.Tensor,
        conditions: Conditions,
        cache: KVCache | None = None,
    ) -> DiTOutput: ...

    @overload
    def forward(
        self, noisy_latents: Sequence[torch.Tensor], conditions: Sequence[Conditions]
    ) -> list[DiTOutput]: ...

    def forward(
        self,
        noisy_latents: torch.Tensor | Sequence[torch.Tensor],
        conditions: Conditions | Sequence[Conditions],
        cache: KVCache | None = None,
    ) -> DiTOutput | list[DiTOutput]:
        """Predict clean frames.

        A latent is one time: a frame, or the ``patch_frames`` frames of a patch along its channels.
        Without a cache, the frames are a sequence and each attends to the ``window - 1`` before it.
        With a cache, they are the next frame of each lane (t = 1), or the first t of empty lanes,
        a window at most. Positions advance only when the caller commits.

        Sequences of different sizes and lengths share a batch as groups: a list of tensors, each
        with its own b, t, h and w. The result for each sequence is that of the sequence alone.

        Args:
            noisy_latents: (b t c h w), or one of each group.
            conditions: Noise level, action and history of each frame, or those of each group.
            cache: Keys and values of the lanes' past frames; those of these frames are written.

        Returns:
            Predicted clean latents and features, or those of each group.
        """
        if isinstance(noisy_latents, torch.Tensor):
            assert isinstance(conditions, Conditions)
            return self._predict([noisy_latents], [conditions], cache)[0]
        return self._predict(noisy_latents, conditions, None)

    def _predict(
        self,
        noisy_latents: Sequence[torch.Tensor],
        conditions: Sequence[Any],
        cache: KVCache | None,
    ) -> list[DiTOutput]:
        features = [self._look(*both) for both in zip(noisy_latents, conditions, strict=True)]
        tokens = [self._tokens(*both) for both in zip(features, conditions, strict=True)]
        places = [self._places(latents, cache) for latents in noisy_latents]
        texts = None if self.text is None else [self._text(each) for each in conditions]
        layer_caches = iter([] if cache is None else cache.layers())
        for block in self._blocks():
            cached = None if cache is None or block.ring is None else next(layer_caches)
            if self.activation_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, places, cached, texts, use_reentrant=False)
            else:
                tokens = block(tokens, places, cached, texts)
        tokens = together(self.norm, tokens)
        patches = [
            x[:, :, : place.layout.num_patches] for x, place in zip(tokens, places, strict=True)
        ]
        modulations = together(self.unembed, patches)
        return [
            DiTOutput(self._draw(*each), x[:, :, -1].float())
            for x, *each in zip(tokens, features, modulations, noisy_latents, strict=True)
        ]

    def _text(self, conditions: Conditions) -> Text:
        """The captions of a group's sequences, which have none if none is given."""
        assert self.text is not None
        text = conditions.text
        if text is None:
            b, device = len(conditions.tau), conditions.tau.device
            empty = torch.zeros(b, 0, self.config.text_width, device=device)
            text = Text(empty, torch.zeros(b, 0, dtype=torch.bool, device=device))
        prepared: Text = self.text(text)
        return prepared

    def _look(self, noisy_latents: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Features (b*t c h w) of frames of any size, padded to multiples of a patch."""
        h, w = noisy_latents.shape[-2:]
        ph, pw = self.config.patch_sides
        frames = torch.cat((noisy_latents, conditions.history), dim=2)
        frames = rearrange(frames, "b t c h w -> (b t) c h w")
        if h % ph or w % pw:
            frames = F.pad(frames, (0, -w % pw, 0, -h % ph))
        return self.detail.look(frames.to(self.dtype))

    def _draw(
        self, features: torch.Tensor, modulation: torch.Tensor, noisy_latents: torch.Tensor
    ) -> torch.Tensor:
        """Draw clean frames: each patch's token modulates its features.

        Args:
            features: From `_look`.
            modulation: Of each patch (b t n d).
            noisy_latents: (b t c h w), of which only the size matters.
        """
        b, _, _, h, w = noisy_latents.shape
        ph, pw = self.patch
        scale, shift = rearrange(
            modulation,
            "b t (rows columns) (two ph pw d) -> two (b t) (rows ph) (columns pw) d",
            two=2,
            rows=features.shape[-2] // ph,
            ph=ph,
            pw=pw,
        ).movedim(-1, 2)  # the memory layout of the features
        clean = self.detail.draw(features, scale, shift)
        return rearrange(clean[..., :h, :w], "(b t) c h w -> b t c h w", b=b).float()

    def _places(self, latents: torch.Tensor, cache: KVCache | None) -> Places:
        """Where the tokens of latents (b t c h w) are, in a sequence or in the cache."""
        t, device = latents.shape[1], latents.device
        layout = self.layout(t, (latents.shape[-2], latents.shape[-1]))
        positions = torch.arange(t, device=device)[None]
        distance = positions[0][:, None] - positions[0]
        mask = (distance >= 0) & (distance < self.config.window)
        if cache is not None and t == 1:
            positions = cache.positions[:, None]

        def rotations(dim: int) -> tuple[torch.Tensor, torch.Tensor]:
            sizes = layout.rows, layout.columns, self.num_special, dim
            return space_rotation(device, *sizes), time_rotation(positions, dim)

        both = None
        if any(isinstance(block.time, SpacetimeAttention) for block in self._blocks()):
            prepare_flex(device)
            both = spacetime_rotation(*rotations(self.head_dim // 2))
        return Places(layout, *rotations(self.head_dim), mask, both)

    def _tokens(self, features: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Tokens (b t n d) from features (b*t c h w): patches by rows, then the special ones."""
        b, t = conditions.tau.shape
        ph, pw = self.patch
        rows, columns = features.shape[-2] // ph, features.shape[-1] // pw
        patches = rearrange(
            features,
            "(b t) c (rows ph) (columns pw) -> b t (rows columns) (ph pw c)",
            b=b,
            ph=ph,
            pw=pw,
        )
        places = place_features(features.device, rows, columns)
        place = self.place_embedding(places.to(self.dtype))
        action = self.action_embedding(conditions.actions)[:, :, None]
        levels = self._level_features(conditions.tau).to(self.dtype)
        level = self.level_embedding(levels)[:, :, None]
        registers = repeat(self.registers, "n d -> b t n d", b=b, t=t)
        patches = self.embed(patches) + place + action + level
        special = [action, level]
        if self.chance is not None:
            code = conditions.chance
            if code is None:
                code = torch.zeros(b, t, self.config.chance_bits, device=features.device)
            embedded = self.chance.embed(code).to(self.dtype)
            scale, chance = embedded[:, :, None].chunk(2, dim=-1)
            patches = patches * (1 + scale) + chance
            special.append(chance)
        return torch.cat((patches, *special, registers), dim=2)
