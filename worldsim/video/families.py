"""Families of diffusers video pipelines: one record holds all that is special to a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worldsim.model.autoencoders import COMPRESSION, Config, halvings

COGVIDEOX_5B_I2V = {
    "in_channels": 32,
    "num_attention_heads": 48,
    "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}
WAN_I2V = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}  # 2.1, 14B


@dataclass(frozen=True)
class Family:
    """The pipelines around one denoiser.

    Without a ``denoiser`` they can be run, but their cost cannot be counted.
    """

    prefix: str
    """Prefix of the names of its pipelines."""
    fps: float = 16.0
    """Frames per second of the videos that it was trained on."""
    frames_decoded: int = 1
    """Latent frames that the autoencoder decodes together."""
    single_precision_vae: bool = False
    """Whether its authors run the autoencoder in single precision."""
    sibling: Callable[[str, Config], str | None] = lambda name, config: None
    """(pipeline, its config) -> the class that continues frames with the same weights."""
    level_per_token: Callable[[str, Config], bool] = lambda name, config: False
    """(pipeline, its config) -> whether each token has its own noise level."""
    denoiser: str = ""
    """Class of the denoiser."""
    vae: str = ""
    """Class of the autoencoder."""
    reductions: Callable[[Config], tuple[int, int]] = lambda config: (1, 1)
    """The autoencoder's config -> frames per latent frame and pixels per latent pixel."""
    published: Mapping[str, Config] = field(default_factory=dict)
    """Pipeline -> where its published denoiser's config differs from the class's defaults."""
    layout: str = "bcthw"
    """Axes of the noisy latents; n are tokens."""
    guided: tuple[int, int] = (2, 1)
    """With guidance: samples per forward pass, and forward passes per step."""


FAMILIES = (
    Family(
        "CogVideoX",
        fps=8.0,
        frames_decoded=2,
        denoiser="CogVideoXTransformer3DModel",
        vae="AutoencoderKLCogVideoX",
        reductions=COMPRESSION["AutoencoderKLCogVideoX"],
        published={"CogVideoXPipeline": {}, "CogVideoXImageToVideoPipeline": COGVIDEOX_5B_I2V},
        layout="btchw",
    ),
    Family(
        "LTX",
        fps=25.0,
        sibling=lambda name, _: "LTXConditionPipeline" if name == "LTXPipeline" else None,
        level_per_token=lambda name, _: name != "LTXPipeline",
        denoiser="LTXVideoTransformer3DModel",
        vae="AutoencoderKLLTXVideo",
        reductions=COMPRESSION["AutoencoderKLLTXVideo"],
        published={"LTXPipeline": {}, "LTXImageToVideoPipeline": {}, "LTXConditionPipeline": {}},
        layout="bnc",
    ),
    Family(
        "Wan",
        single_precision_vae=True,
        sibling=lambda name, c: (  # the one of 5B parameters
            "WanImageToVideoPipeline" if name == "WanPipeline" and c["expand_timesteps"] else None
        ),
        level_per_token=lambda _, c: c.get("expand_timesteps", False),
        denoiser="WanTransformer3DModel",
        vae="AutoencoderKLWan",
        reductions=COMPRESSION["AutoencoderKLWan"],
        published={"WanPipeline": {}, "WanImageToVideoPipeline": WAN_I2V},
        guided=(1, 2),
    ),
    Family(
        "HunyuanVideo",
        fps=15.0,
        denoiser="HunyuanVideoTransformer3DModel",
        vae="AutoencoderKLHunyuanVideo",
        reductions=lambda c: (c["temporal_compression_ratio"], c["spatial_compression_ratio"]),
        published={"HunyuanVideoPipeline": {}},
        guided=(1, 1),  # the strength of guidance is an input of the network
    ),
    Family(
        "Mochi",
        fps=30.0,
        denoiser="MochiTransformer3DModel",
        vae="AutoencoderKLMochi",
        reductions=lambda _: (6, 8),  # fixed in the pipeline
        published={"MochiPipeline": {}},
    ),
    Family(
        "StableVideoDiffusion",
        fps=7.0,
        denoiser="UNetSpatioTemporalConditionModel",
        vae="AutoencoderKLTemporalDecoder",
        reductions=lambda c: (1, halvings(c["block_out_channels"])),
        published={"StableVideoDiffusionPipeline": {}},
        layout="btchw",
    ),
)
_ANY = Family("")

PIPELINES = {name: family for family in FAMILIES for name in family.published}
"""Pipelines whose cost can be counted -> their family."""


def find_family(name: str) -> Family:
    """The family of a pipeline's class, or a generic one."""
    return next((family for family in FAMILIES if name.startswith(family.prefix)), _ANY)
