"""What a codec costs: figures on held-out frames, a picture, and a card."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from worldsim.eval.codec_fidelity import KEPT, SMALL, WORLD_ERROR, CodecFigures, codec_figures
from worldsim.media import filmstrip
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.autoencoder_sizes import Compression
from worldsim.system.files import write_json, write_text

from .codec_checkpoint import CodecProgress
from .codec_config import CodecConfig

if TYPE_CHECKING:
    from .codec import CodecData

SHOWN = 6  # frames of the picture


def describe(
    config: CodecConfig,
    compression: Compression,
    data: CodecData,
    model: nn.Module,
    progress: CodecProgress,
) -> str:
    """A line on the codec and its data, before training."""
    begins = f"from step {progress.step:,} on" if progress.step else "from the start"
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    frames = sum(each.total_steps + len(each) for each in data.recordings)
    device = next(model.parameters()).device
    return (
        f"{config.out}, {begins}: {type(model).__name__} of {millions:.1f}M parameters on "
        f"{device.type}, {compression} with {compression.channels} channels; {frames:,} frames, "
        f"{sum(map(len, data.held_out)):,} episodes held out"
    )


def write_report(
    config: CodecConfig,
    compression: Compression,
    codec: AutoencoderCodec,
    clips: torch.Tensor,
    background: np.ndarray,
) -> CodecFigures:
    """Measure a codec, and write figures, a picture and a card into its folder.

    Args:
        config: The settings.
        compression: Its compression.
        codec: The codec.
        clips: Held-out frames, uint8 (b t h w c).
        background: The median frame.
    """
    figures, decoded = codec_figures(codec, clips, background)
    write_json(config.out / "figures.json", figures.to_json())
    real = clips.cpu().numpy()
    some = np.linspace(0, len(real) - 1, min(SHOWN, len(real))).astype(int)
    rows = [real[some, -1], decoded[some, -1], _difference(real[some, -1], decoded[some, -1])]
    labels = ["recorded", "decoded", "difference"]
    scale = max(1, 128 // real.shape[3])
    filmstrip(rows, config.out / "frames.png", scale, labels=labels)
    write_text(config.out / "README.md", card(config, compression, codec, figures, real.shape[2:4]))
    return figures


def summary(figures: CodecFigures) -> str:
    """The most important figures in one line."""
    words = f"held-out frames: {figures.psnr:.1f} dB"
    if math.isfinite(figures.psnr_moving):
        words += f", moving pixels {figures.psnr_moving:.1f} dB"
    if figures.num_small:
        words += f", {figures.small_kept:.0%} of {figures.num_small:,} small things kept"
    return (
        f"{words}; {figures.encode_ms:.0f} ms to encode a frame, {figures.decode_ms:.0f} ms to "
        "decode a latent"
    )


def card(
    config: CodecConfig,
    compression: Compression,
    codec: AutoencoderCodec,
    figures: CodecFigures,
    frame_size: tuple[int, int],
) -> str:
    """The codec's model card, Markdown."""
    height, width = codec.latent_size(frame_size)
    recordings = shlex.join(map(str, config.recordings))
    small = (
        f"{figures.small_kept:.0%} of {figures.num_small:,}"
        if figures.num_small
        else "none seen, or the view moves"
    )
    size = sum(each.numel() * each.element_size() for each in codec.autoencoder.parameters())
    frames = "a frame" if compression.frames == 1 else f"{compression.frames} frames"
    return f"""\
# A codec for {recordings}

`{type(codec.autoencoder).__name__}` of diffusers, {size / 1e6:.1f} MB. A latent is {frames} of
{frame_size[0]}×{frame_size[1]} pixels, in {height}×{width} cells of {codec.latent_channels}
channels.

![Recorded frames, decoded ones, and their difference](frames.png)

On held-out frames:

| | |
|---|---|
| PSNR, all pixels | {figures.psnr:.1f} dB |
| PSNR, pixels that differ from the median frame | {figures.psnr_moving:.1f} dB |
| PSNR, latents with noise of {WORLD_ERROR} | {figures.psnr_noisy:.1f} dB |
| SSIM | {figures.ssim:.3f} |
| energy of edges, of the recorded one | {figures.sharpness:.0%} |
| small things ({SMALL} pixels at most) with {KEPT:.0%} of their contrast | {small} |
| deviation of latents, and their largest value | {figures.latent_deviation:.2f}, \
{figures.latent_maximum:.1f} |
| time to encode a frame, to decode a latent | {figures.encode_ms:.1f} ms, \
{figures.decode_ms:.1f} ms |

Trained by `worldsim codec {recordings} --out NAME --compression {compression}`. A world takes it by
`worldsim train {recordings} --codec {shlex.quote(str(config.out))} --out runs/NAME`.
"""


def _difference(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Their difference around grey, twice as strong."""
    difference = decoded.astype(np.int16) - real
    return (128 + 2 * difference).clip(0, 255).astype(np.uint8)
