"""How well a codec keeps frames: all pixels, moving ones, and small things."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from math import nan
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.eval.fidelity import moving_mask, psnr, ssim_map
from worldsim.model.codec import Codec

Frames = NDArray[np.uint8]

SMALL = 16  # pixels of a small thing, at most
VIEW_MOVES = 0.5  # share of pixels that differ from the median frame, above which the view moves
KEPT = 0.5  # share of a thing's contrast that must be left
WORLD_ERROR = 0.1  # standard deviation of the noise that stands for a world's errors
TIMED_RUNS = 3


@dataclass(frozen=True)
class CodecFigures:
    """Figures of a codec on held-out frames.

    Attributes:
        psnr: Of all pixels, in dB; the mean over frames.
        psnr_moving: Of the pixels that differ from the median frame, in dB; nan without any.
        psnr_noisy: Of all pixels, of latents with noise of a deviation of 0.1.
        ssim: Structural similarity.
        sharpness: Energy of the edges divided by that of the recorded ones; 1 is as sharp.
        num_small: Small things seen: connected pixels that differ from the median frame, 16 at
            most. None are counted where the view moves: there they would be texture.
        small_kept: Share of them of which half of the contrast or more is left; nan without any.
        latent_deviation: Standard deviation of the latents.
        latent_maximum: Their largest absolute value.
        encode_ms: Milliseconds to encode a frame, on one core of a CPU or on the GPU.
        decode_ms: Milliseconds to decode the frame, or the frames, of a latent.
    """

    psnr: float
    psnr_moving: float
    psnr_noisy: float
    ssim: float
    sharpness: float
    num_small: int
    small_kept: float
    latent_deviation: float
    latent_maximum: float
    encode_ms: float
    decode_ms: float

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


@torch.no_grad()
def codec_figures(
    codec: Codec, clips: torch.Tensor, background: Frames
) -> tuple[CodecFigures, Frames]:
    """Measure a codec.

    Args:
        codec: The codec.
        clips: Recorded frames, uint8 (b t h w c), on its device; t is 1 for codecs of frames.
        background: The median frame (h w c).

    Returns:
        The figures, and the decoded frames (b t h w c).
    """
    generator = torch.Generator().manual_seed(0)
    latents = codec.encode(clips)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    decoded = codec.decode(latents)
    noisy = codec.decode(latents + WORLD_ERROR * noise)
    shape = (-1, *clips.shape[2:])
    real, shown, shaken = (each.cpu().numpy().reshape(shape) for each in (clips, decoded, noisy))
    moving = moving_mask(real, real, background)
    view_moves = moving.mean() > VIEW_MOVES
    num_small, small_kept = (0, nan) if view_moves else small_things(real, shown, background)
    figures = CodecFigures(
        psnr=float(np.mean(psnr(real, shown))),
        psnr_moving=float(np.mean(psnr(real, shown, moving))),
        psnr_noisy=float(np.mean(psnr(real, shaken))),
        ssim=float(ssim_map(real, shown).mean()),
        sharpness=_edges(shown) / max(_edges(real), 1e-9),
        num_small=num_small,
        small_kept=small_kept,
        latent_deviation=float(latents.std()),
        latent_maximum=float(latents.abs().max()),
        encode_ms=_milliseconds(lambda: codec.encode(clips[:1])) / clips.shape[1],
        decode_ms=_milliseconds(lambda: _decode_last(codec, latents[:1])),
    )
    return figures, decoded.cpu().numpy()


def small_things(real: Frames, shown: Frames, background: Frames) -> tuple[int, float]:
    """Count small things in frames (n h w c), and the share of them that are kept.

    A thing is a group of connected pixels that differ from the median frame. It is kept if along
    its own difference half of the contrast is left.

    Returns:
        Their number, and the share; nan if there are none.
    """
    kept = []
    for frame, other in zip(real, shown, strict=True):
        mask = moving_mask(frame, frame, background).astype(np.uint8)
        count, labels, about, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for number in range(1, count):
            if about[number, cv2.CC_STAT_AREA] <= SMALL:
                here = labels == number
                ground = background[here].astype(np.float64)
                contrast = frame[here] - ground
                left = (contrast * (other[here] - ground)).sum() / np.square(contrast).sum()
                kept.append(left >= KEPT)
    return len(kept), float(np.mean(kept)) if kept else nan


def _edges(frames: Frames) -> float:
    """Mean squared difference of neighbouring pixels."""
    wide = frames.astype(np.float32)
    return float(np.square(np.diff(wide, axis=1)).mean() + np.square(np.diff(wide, axis=2)).mean())


def _decode_last(codec: Codec, latents: torch.Tensor) -> None:
    past = latents[:, :-1]
    codec.decode(latents[:, -1:], past[:, -codec.decode_context :] if past.shape[1] else None)


def _milliseconds(work: Any) -> float:
    """The shortest time of a piece of work, in ms; on one thread of a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        times = []
        for _ in range(TIMED_RUNS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            begun = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return 1000 * min(times)
