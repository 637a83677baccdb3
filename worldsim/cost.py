"""What a video costs: tokens, arithmetic and memory of a denoiser that is never run.

A forward is done on fake tensors, which have shapes and no contents, so that a model of 14 billion
parameters is counted on a laptop. PyTorch's FLOP counter counts the products and convolutions, and
the bytes of the storages that are alive are followed beside it. Attention is taken to be fused
(it does not keep the matrix of N x N), as on a GPU, except where a network writes it out.
A closed form (``rule``) says the same on the back of an envelope.
"""

from __future__ import annotations

import inspect
import math
import re
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

from worldsim.pretrained import DTYPES, fps_of

Config = Mapping[str, Any]
Size = tuple[int, int, int]  # latent frames, rows, columns

HALVINGS = {"block_out_channels": (128, 256, 512, 512)}  # three, in every published VAE
TEXT_WIDTH = ("text_embed_dim", "caption_channels", "text_dim", "cross_attention_dim")
IMAGE_TOKENS = 257  # of a picture, as CLIP sees it
COGVIDEOX_5B_I2V = {
    "in_channels": 32,
    "num_attention_heads": 48,
    "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}
WAN_I2V = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}  # 2.1, 14B
PER_TOKEN = re.compile(r"\w*blocks\.(?!.*(norm|context|add_|attn2\.to_[kv]))")  # not of text


class Forward(NamedTuple):
    """What one forward costs.

    Attributes:
        attention: FLOPs of the products of queries with keys and of weights with values.
        rest: FLOPs of all other products and convolutions.
        activations: Most bytes alive at once beside the weights, inputs included.
    """

    attention: float
    rest: float
    activations: float


@dataclass(frozen=True)
class Denoiser:
    """A denoiser at one frame size, whose forwards can be counted.

    Attributes:
        name: What it is called.
        frame_size: Height and width.
        fps: Frames a second.
        window: Frames of a video of its own length.
        reduction: Frames to a latent frame, of which the first has one alone.
        patch_frames: Latent frames to a patch.
        frame_tokens: Tokens of a layer of patches.
        steps: Denoising steps.
        forwards: Forwards a step.
        batch: Samples in a forward, 2 where guidance is in the batch.
        parameters: Their number.
        weights: Their bytes.
        forward: Latent frames to the cost of a forward.
        rule: Latent frames to its attention and the rest by closed form; None if there is none.
        ring: Cost of a step with a ring cache, all passes together; None without such a cache.
    """

    name: str
    frame_size: tuple[int, int]
    fps: float
    window: int
    reduction: int
    patch_frames: int
    frame_tokens: int
    steps: int
    forwards: int
    batch: int
    parameters: int
    weights: int
    forward: Callable[[int], Forward]
    rule: Callable[[int], tuple[float, float]] | None = None
    ring: Forward | None = None

    def latent_frames(self, frames: float) -> int:
        """Latent frames that hold at least so many frames, a whole number of patches."""
        latents = 1 + max(0, -(-(round(frames) - 1) // self.reduction))
        return -(-latents // self.patch_frames) * self.patch_frames

    def frames(self, latent_frames: int) -> int:
        """Frames that so many latent ones decode to."""
        return 1 + (latent_frames - 1) * self.reduction

    def tokens(self, latent_frames: int) -> int:
        """N = T/p_t * H/p_h * W/p_w, in latent frames and latent pixels."""
        return latent_frames // self.patch_frames * self.frame_tokens


class _Live(TorchDispatchMode):
    """Follows the bytes of the storages that are made and not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:  # of a mask: all text is heard
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


def count(run: Callable[[], object], fake: FakeTensorMode | None = None) -> Forward:
    """Count what a call computes and holds, on fake tensors or, without a mode, for real.

    The call makes its inputs, so that they are counted; what a kernel needs within is not seen.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the counter lacks it
    formulas = {flash: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    live = _Live()
    with torch.no_grad(), warnings.catch_warnings(), fake or nullcontext(), live, counter:
        warnings.simplefilter("ignore")  # of autocast, in Mochi
        run()
    counts = counter.get_flop_counts().get("Global", {})
    # Beside fused attention a batched product is a linear layer; without, it is attention.
    attention = counts.get(flash) or counts.get(torch.ops.aten.bmm, 0)
    return Forward(attention, sum(counts.values()) - attention, live.peak)


@dataclass(frozen=True)
class Family:
    """What diffusers' pipelines around one denoiser have in common.

    Attributes:
        denoiser: Class of the denoiser.
        vae: Class of the autoencoder.
        reductions: The VAE's config to frames a latent frame and pixels a latent pixel.
        published: By pipeline: in what its published model differs from the class's defaults.
        layout: Axes of the noisy latents.
        joint: Whether the text is in the same sequence as the video.
        guided: With guidance, samples in a forward and forwards a step.
    """

    denoiser: str
    vae: str
    reductions: Callable[[Config], tuple[int, int]]
    published: dict[str, dict[str, Any]]
    layout: str = "bcthw"
    joint: bool = False
    guided: tuple[int, int] = (2, 1)

    def patch(self, c: Config) -> Size:
        """Latent frames, rows and columns to a token, by the denoiser's config."""
        side = c.get("patch_size", 1)
        return (c.get("patch_size_t") or 1, side, side) if isinstance(side, int) else tuple(side)

    def inputs(
        self, c: Config, batch: int, size: Size, text: int, dtype: torch.dtype
    ) -> dict[str, Any]:
        """What a forward is given, by latent frames, rows and columns and tokens of text."""
        tokens = math.prod(side // patch for side, patch in zip(size, self.patch(c), strict=True))
        sides = dict(zip("bcthwn", (batch, c["in_channels"], *size, tokens), strict=True))
        per_token = (batch, tokens) if c.get("level_per_token") else (batch,)
        width = next(c[key] for key in TEXT_WIDTH if key in c)
        latents = torch.zeros([sides[axis] for axis in self.layout], dtype=dtype)
        given: dict[str, Any] = {
            "sample" if self.denoiser.startswith("UNet") else "hidden_states": latents,
            "timestep": torch.zeros(per_token, dtype=torch.int64),
            "encoder_hidden_states": torch.zeros(batch, text, width, dtype=dtype),
        }
        if self.denoiser.startswith(("LTX", "Hunyuan", "Mochi")):
            given["encoder_attention_mask"] = torch.ones(batch, text, dtype=torch.bool)
        if self.denoiser.startswith("LTX"):
            given |= dict(zip(("num_frames", "height", "width"), size, strict=True))
        if self.denoiser.startswith("Hunyuan"):
            given["pooled_projections"] = torch.zeros(
                batch, c["pooled_projection_dim"], dtype=dtype
            )
        if self.denoiser.startswith("UNet"):
            given["added_time_ids"] = torch.zeros(batch, 3, dtype=dtype)
        if c.get("use_rotary_positional_embeddings"):
            given["image_rotary_emb"] = tuple(torch.zeros(2, tokens, c["attention_head_dim"]))
        if c.get("ofs_embed_dim"):
            given["ofs"] = torch.zeros(1)
        if c.get("guidance_embeds"):
            given["guidance"] = torch.zeros(batch, dtype=dtype)
        if c.get("image_dim"):
            image = batch, IMAGE_TOKENS, c["image_dim"]
            given["encoder_hidden_states_image"] = torch.zeros(image, dtype=dtype)
        return given

    def rule(self, denoiser: Any, batch: int, tokens: int, text: int) -> tuple[float, float]:
        """Attention and the rest by closed form: 4 N² d layers, and 2 P N."""
        c = denoiser.config
        width = c["num_attention_heads"] * c["attention_head_dim"]
        layers = c["num_layers"] + c.get("num_single_layers", 0)
        queries = tokens + text * self.joint
        keys = tokens + text + (IMAGE_TOKENS if c.get("image_dim") else 0)
        weights = weights_per_token(denoiser)
        return 4.0 * batch * queries * keys * width * layers, 2.0 * batch * weights * queries


def weights_per_token(denoiser: nn.Module) -> int:
    """Weights of the linear layers in a transformer's blocks that each token passes through."""
    return sum(
        module.weight.numel()
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and PER_TOKEN.match(name)
    )


def _halvings(c: Config) -> int:
    return 2 ** (len(c["block_out_channels"]) - 1)


def _ltx_reductions(c: Config) -> tuple[int, int]:
    factor = 2 ** sum(c["spatio_temporal_scaling"])
    frames = c["temporal_compression_ratio"] or c["patch_size_t"] * factor
    return frames, c["spatial_compression_ratio"] or c["patch_size"] * factor


FAMILIES = (
    Family(
        "CogVideoXTransformer3DModel",
        "AutoencoderKLCogVideoX",
        reductions=lambda c: (int(c["temporal_compression_ratio"]), _halvings(c)),
        published={"CogVideoXPipeline": {}, "CogVideoXImageToVideoPipeline": COGVIDEOX_5B_I2V},
        layout="btchw",
        joint=True,
    ),
    Family(
        "LTXVideoTransformer3DModel",
        "AutoencoderKLLTXVideo",
        reductions=_ltx_reductions,
        published={"LTXPipeline": {}, "LTXImageToVideoPipeline": {}, "LTXConditionPipeline": {}},
        layout="bnc",
    ),
    Family(
        "WanTransformer3DModel",
        "AutoencoderKLWan",
        reductions=lambda c: (c["scale_factor_temporal"], c["scale_factor_spatial"]),
        published={"WanPipeline": {}, "WanImageToVideoPipeline": WAN_I2V},
        guided=(1, 2),
    ),
    Family(
        "HunyuanVideoTransformer3DModel",
        "AutoencoderKLHunyuanVideo",
        reductions=lambda c: (c["temporal_compression_ratio"], c["spatial_compression_ratio"]),
        published={"HunyuanVideoPipeline": {}},
        joint=True,
        guided=(1, 1),  # how much guidance is an input of the network
    ),
    Family(
        "MochiTransformer3DModel",
        "AutoencoderKLMochi",
        reductions=lambda c: (6, 8),  # fixed in the pipeline
        published={"MochiPipeline": {}},
        joint=True,
    ),
    Family(
        "UNetSpatioTemporalConditionModel",
        "AutoencoderKLTemporalDecoder",
        reductions=lambda c: (1, _halvings(c)),
        published={"StableVideoDiffusionPipeline": {}},
        layout="btchw",
    ),
)
PIPELINES = {name: family for family in FAMILIES for name in family.published}


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
        configs: Config of the "pipeline" (its model_index.json), "denoiser" and "vae"; where there
            is none, the published model's.
        frame_size: Height and width in pixels; the pipeline's own if none.
        dtype: "fp32", "fp16" or "bf16".
        steps: Denoising steps; the pipeline's own if none.

    Raises:
        ValueError: If the pipeline is unknown or the frame does not divide into patches.
    """
    import diffusers

    if name not in PIPELINES:
        raise ValueError(f"{name} is no video pipeline known here; take {', '.join(PIPELINES)}")
    family, configs = PIPELINES[name], configs or {}
    defaults = _defaults(getattr(diffusers, name).__call__)
    vae = _defaults(getattr(diffusers, family.vae).__init__) | dict(configs.get("vae", HALVINGS))
    settings = dict(configs.get("denoiser", family.published[name]))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        denoiser = getattr(diffusers, family.denoiser).from_config(settings).eval()
        _set_dtype(denoiser, DTYPES[dtype])
    c = dict(denoiser.config)
    c["level_per_token"] = name in ("LTXImageToVideoPipeline", "LTXConditionPipeline") or (
        configs.get("pipeline", {}).get("expand_timesteps", False)
    )
    reduction, side = family.reductions(vae)
    patch = family.patch(c)
    own = c.get("sample_height", 60) * side, c.get("sample_width", 106) * side  # Mochi's: 480x848
    height, width = frame_size or (defaults["height"] or own[0], defaults["width"] or own[1])
    multiple = side * (_halvings(c) if "block_out_channels" in c else patch[1])
    if min(height, width) < 1 or height % multiple or width % multiple:
        raise ValueError(
            f"{name} wants frame sides that are multiples of {multiple}, got {height}x{width}"
        )
    rows, columns = height // side, width // side
    tokens = rows // patch[1] * (columns // patch[2])
    text = c.get("max_text_seq_length") or defaults.get("max_sequence_length", 1)
    guidance = defaults.get("guidance_scale") or defaults["max_guidance_scale"]
    batch, forwards = family.guided if guidance > 1 else (1, 1)

    def run(latent_frames: int) -> object:
        size = latent_frames, rows, columns
        return denoiser(**family.inputs(c, batch, size, text, DTYPES[dtype]), return_dict=False)

    return Denoiser(
        name=name,
        frame_size=(height, width),
        fps=fps_of(name),
        window=defaults["num_frames"] or c.get("sample_frames") or c["num_frames"],
        reduction=reduction,
        patch_frames=patch[0],
        frame_tokens=tokens,
        steps=steps or defaults["num_inference_steps"],
        forwards=forwards,
        batch=batch,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        weights=sum(parameter.nbytes for parameter in denoiser.parameters()),
        forward=lambda t: count(lambda: run(t), fake),
        rule=None  # the levels of a U-Net differ in tokens
        if "block_out_channels" in c
        else lambda t: family.rule(denoiser, batch, t // patch[0] * tokens, text),
    )


def _defaults(function: Callable[..., object]) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def _set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a fake model the types that ``from_pretrained`` would."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in model.named_modules():
        for key, value in list(module.named_parameters(recurse=False)):
            single = kept & {*name.split("."), key}
            made = torch.empty(value.shape, dtype=torch.float32 if single else dtype)
            setattr(module, key, nn.Parameter(made, requires_grad=False))
