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

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple, get_type_hints

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn
from torch.utils.checkpoint import checkpoint

from worldsim.model.chance import ChanceCodes
from worldsim.model.conditions import Conditions
from worldsim.model.kv_cache import KVCache, LayerCache
from worldsim.model.layers import (
    SpaceAttention,
    SwiGLU,
    TimeAttention,
    place_features,
    space_rotation,
    time_rotation,
)
from worldsim.system.options import Positive, Range, check_value

Size = Annotated[int, Range(1, 2**20)]


class DiTOutput(NamedTuple):
    """The output of a `VideoDiT`.

    Attributes:
        latents: Predicted clean latents (b t c h w).
        features: One vector per frame (b t d), for reward and termination.
    """

    latents: torch.Tensor
    features: torch.Tensor


class DetailPath(nn.Module):
    """Convolutions at half of the resolution, which read frames and draw the clean one.

    Args:
        in_channels: Channels of the noisy frame and the finished ones together.
        out_channels: Channels of the clean frame.
        width: Channels of a feature.
        stride: Pixels along each side of a feature.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        first = nn.Conv2d(in_channels, width, 3 * stride, stride=stride, padding=stride)
        second = nn.Conv2d(width, width, 3, padding=1)
        for convolution in (first, second):  # keeps the signal of a small object
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        self.stem = nn.Sequential(first, nn.SiLU(), second)
        last = nn.Conv2d(width, out_channels * stride**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), last)

    def look(self, frames: torch.Tensor) -> torch.Tensor:
        """Map frames (b in_channels h w) to features (b width h/stride w/stride)."""
        # Convolutions of few channels are up to three times as fast with the channels last.
        return self.stem(frames.contiguous(memory_format=torch.channels_last))

    def draw(
        self, features: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        """Map features to the clean frame (b out_channels h w).

        Args:
            features: From ``look``.
            scale: Their factor minus 1, of their shape (FiLM, Perez et al. 2018).
            shift: Their offset, of their shape.
        """
        modulated = torch.addcmul(features + shift, features, scale)
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        drawn = self.head[:-1](modulated).to(last.weight.dtype)
        return F.pixel_shuffle(last(drawn), self.stride)


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
        space: torch.Tensor,
        time: torch.Tensor,
        mask: torch.Tensor,
        cache: LayerCache | None,
    ) -> torch.Tensor:
        """Map tokens (b t n d) to tokens; attention over time reads and writes the cache."""
        x = x + self.space(x, space)
        if self.time is not None:
            x = x + self.time(x, time, mask, cache)
        return x + self.feed_forward(x)

    def scale_outputs(self, factor: float) -> None:
        """Scale the output of each residual part, before training."""
        outputs = [self.space.out, self.feed_forward.down]
        if self.time is not None:
            outputs.append(self.time.out)
        for linear in outputs:
            linear.weight.data *= factor


@dataclass(frozen=True)
class DiTConfig:
    """The arguments of a VideoDiT.

    Attributes:
        num_actions: Actions of the game; the index ``num_actions`` is an unknown action.
        latent_channels: Channels of a latent frame.
        patch_size: Side of a square patch, in latent cells. Frames of any size are padded to
            multiples of it.
        width: Channels of a token.
        depth: Layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        mlp_ratio: Hidden width of the feed-forward layers divided by ``width``.
        time_every: Layers per layer with attention over time.
        num_registers: Register tokens per frame.
        num_history: Finished frames that the convolutional path reads.
        window: Frames of attention over time, the current one included.
        detail_width: Channels of the convolutional path.
        chance_bits: Bits of a chance code, see `ChanceCodes`; 0: none.

    Raises:
        ValueError: If a size is not an integer or out of range, or width and heads do not divide.
    """

    num_actions: Size
    latent_channels: Size = 3
    patch_size: Size = 8
    width: Size = 128
    depth: Size = 6
    num_heads: Size = 4
    num_kv_heads: Size = 2
    mlp_ratio: Positive = 2.0
    time_every: Size = 3
    num_registers: Annotated[int, Range(0, 2**20)] = 2
    num_history: Size = 2
    window: Annotated[int, Range(1, 4096)] = 16  # a lane's cache grows with it
    detail_width: Size = 32
    chance_bits: Annotated[int, Range(0, 12)] = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(DiTConfig, include_extras=True).items():
            check_value(name, getattr(self, name), kind)
        if self.width % (4 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                "width must be a multiple of 4 * num_heads and num_heads one of num_kv_heads, got "
                f"width {self.width}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}"
            )


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
        width, num_heads, patch_size = config.width, config.num_heads, config.patch_size
        detail_width, latent_channels = config.detail_width, config.latent_channels
        self.activation_checkpointing = False  # whether layers are computed again when training
        self.head_dim = width // num_heads
        self.num_special = 2 + config.num_registers + bool(config.chance_bits)
        stride = 1 if patch_size % 2 else 2
        self.detail = DetailPath(
            latent_channels * (1 + config.num_history), latent_channels, detail_width, stride
        )
        self.patch = patch_size // stride  # side of a patch, in features
        self.embed = nn.Linear(detail_width * self.patch**2, width, bias=False)
        self.place_embedding = nn.Linear(20, width, bias=False)
        self.action_embedding = nn.Embedding(config.num_actions + 1, width)
        self.level_embedding = nn.Sequential(
            nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.chance = ChanceCodes(config) if config.chance_bits else None
        self.registers = nn.Parameter(torch.empty(config.num_registers, width))
        nn.init.normal_(self.registers, std=0.02)
        hidden = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                config.num_kv_heads,
                hidden,
                over_time=(i + 1) % config.time_every == 0,
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.unembed = nn.Linear(width, 2 * detail_width * self.patch**2)
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
        rows, columns = (-(-side // self.config.patch_size) for side in frame_size)
        return KVCache(
            num_layers=sum(block.time is not None for block in self.blocks),
            batch_size=batch_size,
            num_tokens=rows * columns + self.num_special,
            num_kv_heads=self.config.num_kv_heads,
            dim=self.head_dim,
            window=self.config.window,
            device=self.device,
            dtype=self.dtype,
        )

    def _level_features(self, tau: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(1_000), 32, device=tau.device))
        angles = tau[..., None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def forward(
        self,
        noisy_latents: torch.Tensor,
        conditions: Conditions,
        cache: KVCache | None = None,
    ) -> DiTOutput:
        """Predict clean frames.

        Without a cache, the frames are a sequence and each attends to the ``window - 1`` before it.
        With a cache, they are the next frame of each lane (t = 1), or the first t of empty lanes,
        a window at most. Positions advance only when the caller commits.

        Args:
            noisy_latents: (b t c h w).
            conditions: Noise level, action and history of each frame.
            cache: Keys and values of the lanes' past frames; those of these frames are written.

        Returns:
            Predicted clean latents and features.
        """
        # Frames of any size are padded to multiples of a patch, and read by the convolutions.
        b, t, _, h, w = noisy_latents.shape
        patch = self.config.patch_size
        frames = torch.cat((noisy_latents, conditions.history), dim=2)
        frames = rearrange(frames, "b t c h w -> (b t) c h w")
        if h % patch or w % patch:
            frames = F.pad(frames, (0, -w % patch, 0, -h % patch))
        rows, columns = (side // patch for side in frames.shape[-2:])
        features = self.detail.look(frames.to(self.dtype))
        x = self._tokens(features, conditions)
        # Attention over time: a mask over the sequence, or over the slots of the cache.
        space = space_rotation(x.device, rows, columns, self.num_special, self.head_dim)
        layer_caches: Iterator[LayerCache | None]
        layer_caches = itertools.repeat(None) if cache is None else iter(cache.layers())
        if cache is not None and t == 1:
            positions, mask = cache.positions[:, None], cache.mask()
        else:
            positions = torch.arange(t, device=x.device)[None]
            distance = positions[0][:, None] - positions[0]
            mask = (distance >= 0) & (distance < self.config.window)
        time = time_rotation(positions, self.head_dim)
        for block in self.blocks:
            cached = None if block.time is None else next(layer_caches)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, space, time, mask, cached, use_reentrant=False)
            else:
                x = block(x, space, time, mask, cached)
        # Each patch's token modulates its features, from which the clean frame is drawn.
        x = self.norm(x)
        scale, shift = rearrange(
            self.unembed(x[:, :, : rows * columns]),
            "b t (rows columns) (two ph pw d) -> two (b t) (rows ph) (columns pw) d",
            two=2,
            rows=rows,
            ph=self.patch,
            pw=self.patch,
        ).movedim(-1, 2)  # the memory layout of the features
        clean = self.detail.draw(features, scale, shift)
        clean = rearrange(clean[..., :h, :w], "(b t) c h w -> b t c h w", b=b)
        return DiTOutput(clean.float(), x[:, :, -1].float())

    def _tokens(self, features: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Tokens (b t n d) from features (b*t c h w): patches by rows, then the special ones."""
        b, t = conditions.tau.shape
        rows, columns = (side // self.patch for side in features.shape[-2:])
        patches = rearrange(
            features,
            "(b t) c (rows ph) (columns pw) -> b t (rows columns) (ph pw c)",
            b=b,
            ph=self.patch,
            pw=self.patch,
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
