"""The cost of a denoiser's forward pass: tokens, FLOPs and memory, counted without weights.

The forward pass runs on fake tensors (shapes without data), so a laptop can count a model of 14
billion parameters. PyTorch's FLOP counter counts matrix products and convolutions; live storages
are tracked for the bytes. Attention is assumed to be fused (no N x N matrix in memory), as on a
GPU, unless the network writes it out.
"""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from worldsim.model.autoencoders import Config, halvings
from worldsim.video.families import PIPELINES
from worldsim.video.hub import DTYPES

Size = tuple[int, int, int]  # latent frames, rows, columns

HALVINGS = {"block_out_channels": (128, 256, 512, 512)}  # three, in every published VAE
TEXT_WIDTH = ("text_embed_dim", "caption_channels", "text_dim", "cross_attention_dim")
IMAGE_TOKENS = 257  # of an image, in CLIP


class Forward(NamedTuple):
    """Cost of one forward pass.

    Attributes:
        attention: FLOPs of the products of queries with keys and of weights with values.
        rest: FLOPs of all other matrix products and convolutions.
        activations: Peak of live bytes without the weights, inputs included.
    """

    attention: float
    rest: float
    activations: float


@dataclass(frozen=True)
class Denoiser:
    """A denoiser at one frame size, whose forward passes can be counted.

    Attributes:
        name: Name of the world, or class of the pipeline.
        network: Its network, of fake or real tensors.
        frame_size: Height and width in pixels.
        fps: Frames per second.
        window: Frames of one window.
        frame_tokens: Tokens of one layer of patches.
        steps: Denoising steps.
        forward: Number of latent frames -> cost of a forward pass.
        reduction: Frames per latent frame; the first latent frame has one.
        patch_frames: Latent frames per patch.
        forwards: Forward passes per step.
        batch: Samples per forward pass; 2 if guidance doubles the batch.
        ring: Cost of a step with a ring cache, all passes together; None without such a cache.
    """

    name: str
    network: nn.Module
    frame_size: tuple[int, int]
    fps: float
    window: int
    frame_tokens: int
    steps: int
    forward: Callable[[int], Forward]
    reduction: int = 1
    patch_frames: int = 1
    forwards: int = 1
    batch: int = 1
    ring: Forward | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return sum(parameter.nbytes for parameter in self.network.parameters())

    def latent_frames(self, frames: float) -> int:
        """Latent frames that hold at least this many frames, in whole patches."""
        latents = 1 + max(0, -(-(round(frames) - 1) // self.reduction))
        return -(-latents // self.patch_frames) * self.patch_frames

    def frames(self, latent_frames: int) -> int:
        """Frames that this many latent frames decode to."""
        return 1 + (latent_frames - 1) * self.reduction

    def tokens(self, latent_frames: int) -> int:
        """Tokens of this many latent frames."""
        return latent_frames // self.patch_frames * self.frame_tokens


class _Live(TorchDispatchMode):
    """Tracks the bytes of storages that are allocated and not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:  # of a mask: all text is read
            return torch.arange(args[0].numel(), device=args[0].device)[:, None]
        self._follow((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self._follow(out, made=True)
        return out

    def _follow(self, values: Any, made: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes() * made
                if key not in self._known:
                    self._known.add(key)
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def count(
    run: Callable[[], object],
    fake: FakeTensorMode | None = None,
    batched_is_attention: bool = False,
) -> Forward:
    """Count FLOPs and live bytes of a call, on fake tensors or, without a mode, on real ones.

    The call makes its inputs, so that they are counted. Memory inside a kernel is not counted.

    Args:
        run: The call.
        fake: The mode that makes its tensors fake.
        batched_is_attention: Whether batched products are attention, as in a world, where some
            attention is fused and some is written out. Else they are attention if none is fused.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the counter lacks it
    formulas = {flash: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    live = _Live()
    with torch.no_grad(), warnings.catch_warnings(), fake or nullcontext(), live, counter:
        warnings.simplefilter("ignore")  # of autocast, in Mochi
        run()
    counts = counter.get_flop_counts().get("Global", {})
    fused, batched = counts.get(flash, 0), counts.get(torch.ops.aten.bmm, 0)
    attention = fused + batched * (batched_is_attention or not fused)
    return Forward(attention, sum(counts.values()) - attention, live.peak)


def make_inputs(
    denoiser: Any,
    layout: str,
    batch: int,
    size: Size,
    text: int,
    dtype: torch.dtype,
    level_per_token: bool = False,
) -> dict[str, Any]:
    """Make the inputs of a denoiser's forward pass, by its signature and config.

    Args:
        denoiser: A denoiser of diffusers.
        layout: Axes of the noisy latents, of `Family.layout`.
        batch: Number of samples.
        size: Latent frames, rows and columns.
        text: Number of text tokens.
        dtype: Type of the latents and the conditions.
        level_per_token: Whether each token has its own noise level.
    """
    c = denoiser.config
    tokens = math.prod(side // patch for side, patch in zip(size, patch_of(c), strict=True))
    sides = dict(zip("bcthwn", (batch, c["in_channels"], *size, tokens), strict=True))
    latents = tuple(sides[axis] for axis in layout)
    width = next(c[key] for key in TEXT_WIDTH if key in c)
    head = c.get("use_rotary_positional_embeddings") and c["attention_head_dim"]
    # A None in a shape marks an input that this denoiser does not use.
    shapes: dict[str, tuple[tuple[Any, ...], torch.dtype]] = {
        "sample": (latents, dtype),
        "hidden_states": (latents, dtype),
        "timestep": ((batch, tokens) if level_per_token else (batch,), torch.int64),
        "encoder_hidden_states": ((batch, text, width), dtype),
        "encoder_attention_mask": ((batch, text), torch.bool),
        "encoder_hidden_states_image": ((batch, IMAGE_TOKENS, c.get("image_dim")), dtype),
        "pooled_projections": ((batch, c.get("pooled_projection_dim")), dtype),
        "added_time_ids": ((batch, 3), dtype),
        "image_rotary_emb": ((2, tokens, head or None), torch.float32),
        "ofs": ((1 if c.get("ofs_embed_dim") else None,), torch.float32),
        "guidance": ((batch if c.get("guidance_embeds") else None,), dtype),
    }
    taken = inspect.signature(denoiser.forward).parameters
    given: dict[str, Any] = {
        name: torch.ones(shape, dtype=kind)  # a mask of ones: all text is read
        for name, (shape, kind) in shapes.items()
        if name in taken and None not in shape
    }
    if "image_rotary_emb" in given:
        given["image_rotary_emb"] = tuple(given["image_rotary_emb"])
    counts = dict(zip(("num_frames", "height", "width"), size, strict=True))
    return given | {name: value for name, value in counts.items() if name in taken}


def patch_of(c: Config) -> Size:
    """Latent frames, rows and columns per token, by the denoiser's config."""
    side = c.get("patch_size", 1)
    return (c.get("patch_size_t") or 1, side, side) if isinstance(side, int) else tuple(side)


def pipeline_denoiser(
    name: str,
    configs: Mapping[str, Config] | None = None,
    *,
    frame_size: tuple[int, int] | None = None,
    dtype: str = "bf16",
    steps: int | None = None,
) -> Denoiser:
    """The denoiser of a diffusers video pipeline, without its weights.

    Args:
        name: Class of the pipeline.
        configs: Configs of the "pipeline" (its model_index.json), "denoiser" and "vae"; a missing
            one is the published model's.
        frame_size: Height and width in pixels; the pipeline's own if none.
        dtype: "fp32", "fp16" or "bf16".
        steps: Denoising steps; the pipeline's own if none.

    Raises:
        ValueError: If the pipeline is unknown or the frame does not divide into patches.
    """
    import diffusers

    if name not in PIPELINES:
        raise ValueError(f"{name} is no video pipeline known here; take {', '.join(PIPELINES)}")
    # Configs override the class's defaults, and the network is built of fake tensors.
    family, configs = PIPELINES[name], configs or {}
    defaults = _defaults(getattr(diffusers, name).__call__)
    vae = _defaults(getattr(diffusers, family.vae).__init__) | dict(configs.get("vae", HALVINGS))
    settings = dict(configs.get("denoiser", family.published[name]))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        denoiser = getattr(diffusers, family.denoiser).from_config(settings).eval()
        _set_dtype(denoiser, DTYPES[dtype])
    # Frame size and tokens follow from the autoencoder's reductions and the patches.
    c = denoiser.config
    level_per_token = family.level_per_token(name, configs.get("pipeline", {}))
    reduction, side = family.reductions(vae)
    patch = patch_of(c)
    own = c.get("sample_height", 60) * side, c.get("sample_width", 106) * side  # Mochi's: 480x848
    height, width = frame_size or (defaults["height"] or own[0], defaults["width"] or own[1])
    multiple = side * (halvings(c["block_out_channels"]) if "block_out_channels" in c else patch[1])
    if min(height, width) < 1 or height % multiple or width % multiple:
        raise ValueError(
            f"{name} needs frame sides that are multiples of {multiple}, got {height}x{width}"
        )
    rows, columns = height // side, width // side
    tokens = rows // patch[1] * (columns // patch[2])
    # Text has its full length; guidance doubles the samples or the forward passes.
    text = c.get("max_text_seq_length") or defaults.get("max_sequence_length", 1)
    guidance = defaults.get("guidance_scale") or defaults["max_guidance_scale"]
    batch, forwards = family.guided if guidance > 1 else (1, 1)

    def run(latent_frames: int) -> object:
        size = latent_frames, rows, columns
        inputs = make_inputs(
            denoiser, family.layout, batch, size, text, DTYPES[dtype], level_per_token
        )
        return denoiser(**inputs, return_dict=False)

    return Denoiser(
        name=name,
        network=denoiser,
        frame_size=(height, width),
        fps=family.fps,
        window=defaults["num_frames"] or c.get("sample_frames") or c["num_frames"],
        reduction=reduction,
        patch_frames=patch[0],
        frame_tokens=tokens,
        steps=steps or defaults["num_inference_steps"],
        forwards=forwards,
        batch=batch,
        forward=lambda t: count(lambda: run(t), fake),
    )


def _defaults(function: Callable[..., object]) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def _set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a fake model the types that ``from_pretrained`` would give it."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in model.named_modules():
        for key, value in list(module.named_parameters(recurse=False)):
            single = kept & {*name.split("."), key}
            made = torch.empty(value.shape, dtype=torch.float32 if single else dtype)
            setattr(module, key, nn.Parameter(made, requires_grad=False))
