"""Fidelity: how close a rollout is to the real frames.

Measured are PSNR, SSIM and LPIPS by horizon, and Frechet distances, by torchmetrics. There are two
baselines: *copy-last* repeats the last context frame, and *median* is the world's background, the
median frame of its training episodes. On Pong an empty court already scores 34 dB over all pixels.
So figures are also given on **moving pixels**: those where the real frame or the last context frame
differs from the background. Each figure has a confidence interval over episodes
(`worldsim.eval.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from worldsim.eval.bootstrap import Estimate, estimate
from worldsim.eval.held_out import HeldOutWindows
from worldsim.frames import MOVING_THRESHOLD, pixels_to_latents
from worldsim.system.files import one_line

Frames = NDArray[np.uint8]
Lpips = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Scores = dict[str, Estimate]
"""A metric by predictor, such as world, copy_last and median."""

CLIP = 16  # frames, as FVD is usually measured
ROUNDING_ERROR = 1 / 12  # mean squared error of rounding to integer pixel values


@dataclass(frozen=True)
class HorizonScores:
    """How close predictions are to the real frames at one horizon.

    Attributes:
        moving_fraction: Share of moving pixels, from 0 to 1.
        psnr: Over all pixels, mean over the windows, in dB.
        psnr_moving: Of the error pooled over the moving pixels of all windows, in dB; nan if there
            are none.
        ssim: Over all pixels; empty if not measured.
        ssim_moving: Over the moving pixels.
        lpips: Over complete frames, lower is better; empty if its network is not available.
    """

    moving_fraction: float
    psnr: Scores
    psnr_moving: Scores
    ssim: Scores = field(default_factory=dict)
    ssim_moving: Scores = field(default_factory=dict)
    lpips: Scores = field(default_factory=dict)

    def by_metric(self) -> dict[str, Scores]:
        """The metrics that were measured, by name."""
        every = {
            "psnr": self.psnr,
            "psnr_moving": self.psnr_moving,
            "ssim": self.ssim,
            "ssim_moving": self.ssim_moving,
            "lpips": self.lpips,
        }
        return {metric: scores for metric, scores in every.items() if scores}


def with_baselines(
    imagined: Frames, held_out: HeldOutWindows, background: Frames
) -> dict[str, Frames]:
    """A rollout and the two baselines, for `fidelity`."""
    return {
        "world": imagined,
        "copy_last": held_out.last_context[:, None],
        "median": background,
    }


def fidelity(
    predictions: Mapping[str, Frames],
    held_out: HeldOutWindows,
    background: Frames,
    horizons: Sequence[int],
    *,
    lpips: Lpips | None = None,
    with_ssim: bool = True,
) -> dict[int, HorizonScores]:
    """Measure predictions of the same windows.

    Args:
        predictions: Frames by name, ``uint8`` (b horizon h w c) or of a shape that broadcasts.
        held_out: The windows, with their true continuations.
        background: The world's background, ``uint8`` (h w c), for the moving pixels.
        horizons: Steps after which to measure; those beyond the windows are left out.
        lpips: From `load_lpips`; None leaves LPIPS out.
        with_ssim: Whether to measure SSIM, for which torchmetrics is imported (seconds).

    Returns:
        The scores by horizon, ascending.
    """
    results: dict[int, HorizonScores] = {}
    episodes = held_out.episodes
    for horizon in sorted(h for h in set(horizons) if h <= held_out.horizon):
        real = held_out.real[:, horizon - 1]
        mask = moving_mask(real, held_out.last_context, background)
        ones, moving = np.ones(len(real)), mask.sum((1, 2))
        scores = HorizonScores(float(mask.mean()), {}, {})
        for name, frames in predictions.items():
            predicted = np.array(np.broadcast_to(frames, held_out.real.shape)[:, horizon - 1])
            squares = np.square(real.astype(np.float64) - predicted).mean(-1) * mask
            scores.psnr[name] = estimate(np.asarray(psnr(real, predicted)), ones, episodes)
            scores.psnr_moving[name] = estimate(squares.sum((1, 2)), moving, episodes, to_decibels)
            if with_ssim:
                similar = ssim_map(real, predicted)
                scores.ssim[name] = estimate(similar.mean((1, 2)), ones, episodes)
                scores.ssim_moving[name] = estimate((similar * mask).sum((1, 2)), moving, episodes)
            if lpips is not None:
                pair = [_three_channels(pixels_to_latents(side)) for side in (real, predicted)]
                scores.lpips[name] = estimate(lpips(*pair).cpu().numpy(), ones, episodes)
        results[horizon] = scores
    return results


def moving_mask(real: Frames, last_context: Frames, background: Frames) -> NDArray[np.bool_]:
    """Find the pixels where an object is, or was in the last context frame.

    Args:
        real: ``uint8`` (... h w c), the recorded frames at the horizon.
        last_context: ``uint8`` (... h w c), the frames that predictions start from.
        background: ``uint8`` (h w c), the world's background.

    Returns:
        ``bool`` (... h w): whether a channel of either frame differs from the background by more
        than 12 of 255.

    Example:
        >>> black, grey = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 100, np.uint8)
        >>> moving_mask(grey, black, black).tolist(), moving_mask(black, black, black).tolist()
        ([[True, True]], [[False, False]])
    """
    ground = background.astype(np.int16)
    differs = np.abs(real.astype(np.int16) - ground) > MOVING_THRESHOLD
    differed = np.abs(last_context.astype(np.int16) - ground) > MOVING_THRESHOLD
    return (differs | differed).any(axis=-1)


def psnr(
    real: Frames, predicted: Frames, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64] | float:
    """Peak signal-to-noise ratio in dB, higher is better.

    The mean squared error counts as at least 1/12, the error of rounding to integer pixels. So
    equal frames have 58.9 dB, not infinity.

    Args:
        real: ``uint8`` (b h w c).
        predicted: ``uint8``, of a shape that broadcasts to the same.
        mask: ``bool`` (b h w), the pixels that count.

    Returns:
        Without a mask one value per frame, (b,). With a mask a single value, of the error pooled
        over its pixels; nan if there are none.

    Example:
        >>> frames = np.zeros((1, 8, 8, 3), np.uint8)
        >>> psnr(frames, frames).round(1).tolist(), psnr(frames, frames + 255).tolist()
        ([58.9], [0.0])
    """
    error = (real.astype(np.float64) - predicted.astype(np.float64)) ** 2
    if mask is None:
        return to_decibels(error.mean(axis=(1, 2, 3)))
    if not mask.any():
        return float("nan")
    return float(to_decibels(error[mask].mean()))


def to_decibels(error: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """PSNR in dB of a mean squared error, which counts as at least 1/12."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, ROUNDING_ERROR)))


def ssim_map(real: Frames, predicted: Frames) -> NDArray[np.float64]:
    """Structural similarity of each pixel (Wang et al. 2004), (b h w), of frames (b h w c).

    The window is a Gaussian of standard deviation 1.5 over 11 pixels, as in the paper.
    """
    sides = [pixels_to_latents(side).add(1).div(2) for side in (real, predicted)]
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

    result = structural_similarity_index_measure(
        sides[1], sides[0], data_range=1.0, reduction="none", return_full_image=True
    )
    return np.asarray(result[1].mean(1).double().numpy())


def load_lpips() -> tuple[Lpips | None, str]:
    """LPIPS (Zhang et al. 2018) by torchmetrics, or None and the reason why not.

    The network comes with torchvision, its weights from the internet or from torch's cache.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        net = LearnedPerceptualImagePatchSimilarity("squeeze").net
    except Exception as error:  # torchvision missing or unfit, no internet: all differ in class
        reason = one_line(error)
        return None, f"LPIPS is not measured, since its network is not available here: {reason}"

    @torch.no_grad()
    def lpips(real: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        size = [max(64, side) for side in real.shape[-2:]]  # smaller frames shrink to nothing
        pair = [torch.nn.functional.interpolate(side, size) for side in (real, predicted)]
        return torch.stack([net(a[None], b[None]).flatten()[0] for a, b in zip(*pair, strict=True)])

    return lpips, ""


def frechet(real: torch.Tensor, imagined: torch.Tensor) -> float:
    """Frechet distance between Gaussians of two sets of features (n d) (Heusel et al. 2017).

    It is nan if a set has fewer than two members, and so no covariance.
    """
    if min(len(real), len(imagined)) < 2:
        return float("nan")
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds

    identity = torch.nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    distance = FrechetInceptionDistance(feature=identity)
    distance.set_dtype(torch.float64)
    distance.update(real.double().cpu(), real=True)
    distance.update(imagined.double().cpu(), real=False)
    return max(0.0, float(distance.compute()))  # rounding makes it negative for equal sets


def frechet_video_distance(
    i3d: str | PathLike[str], real: Frames, imagined: Frames, *, batch_size: int = 4
) -> float:
    """FVD (Unterthiner et al. 2019): the Frechet distance of features of an I3D network.

    Args:
        i3d: The commonly used TorchScript file ``i3d_torchscript.pt`` (of StyleGAN-V, Skorokhodov
            et al. 2022). It is not part of worldsim. TorchScript is a program that runs when it is
            loaded: give only a file that you trust.
        real: Videos, ``uint8`` (b t h w c), cut into clips of 16 frames.
        imagined: The same.
        batch_size: Clips per forward pass.

    Returns:
        The distance; nan if the videos are shorter than a clip.

    Raises:
        ValueError: If the file does not exist or is not a TorchScript file.
    """
    try:
        if not Path(i3d).is_file():
            raise ValueError("not a file")
        network = torch.jit.load(str(i3d), map_location="cpu").eval()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"no I3D network at {i3d} ({one_line(error)}): give the TorchScript file "
            "i3d_torchscript.pt"
        ) from error
    whole = real.shape[1] // CLIP * CLIP
    if not whole:
        return float("nan")
    features = []
    for videos in (real, imagined):
        clips = rearrange(videos[:, :whole], "b (n t) h w c -> (b n) t h w c", t=CLIP)
        parts = []
        for begin in range(0, len(clips), batch_size):
            some = rearrange(clips[begin : begin + batch_size], "n t h w c -> (n t) h w c")
            latents = _three_channels(pixels_to_latents(some))
            large = torch.nn.functional.interpolate(latents, (224, 224), mode="bilinear")
            inputs = rearrange(large, "(n t) c h w -> n c t h w", t=CLIP)
            with torch.no_grad():
                parts.append(network(inputs, rescale=False, resize=False, return_features=True))
        features.append(torch.cat(parts))
    return frechet(*features)


def _three_channels(images: torch.Tensor) -> torch.Tensor:
    return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)
