"""How like the real frames a rollout is: PSNR, SSIM, LPIPS by horizon, and Frechet distances.

Metrics are those of torchmetrics; each has a confidence band over episodes (`worldsim.bands`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

from worldsim.bands import Estimate, estimate
from worldsim.files import one_line
from worldsim.frames import pixels_to_latents
from worldsim.held_out import HeldOutWindows
from worldsim.metrics import moving_mask, psnr, to_decibels

Frames = NDArray[np.uint8]
Lpips = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Fidelity = dict[str, dict[str, Estimate]]  # by metric and predictor

HORIZONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CLIP = 16  # frames, as FVD is usually measured


def fidelity(
    predictions: Mapping[str, Frames],
    held_out: HeldOutWindows,
    median: Frames,
    horizons: Sequence[int] = HORIZONS,
    lpips: Lpips | None = None,
) -> dict[int, Fidelity]:
    """Measure predictions of the same windows.

    Args:
        predictions: By name, ``uint8`` (b horizon h w c) or of a shape that broadcasts to it.
        held_out: What really followed.
        median: The recording's median frame, which tells what moves.
        horizons: Steps after which to measure; those beyond the windows' are left out.
        lpips: From `load_lpips`, where it can be had.

    Returns:
        By horizon, metric and name: ``psnr`` (dB) and ``ssim`` over all pixels, ``psnr_moving``
        and ``ssim_moving`` over the pixels that move, pooled, and ``lpips``.
    """
    results: dict[int, Fidelity] = {}
    episodes = held_out.episodes
    for horizon in sorted(h for h in set(horizons) if h <= held_out.horizon):
        real = held_out.real[:, horizon - 1]
        mask = moving_mask(real, held_out.last_context, median)
        ones = np.ones(len(real))
        row: Fidelity = {}
        for name, frames in predictions.items():
            shown = np.array(np.broadcast_to(frames, held_out.real.shape)[:, horizon - 1])
            squares = np.square(real.astype(np.float64) - shown).mean(-1) * mask
            similar = ssim_map(real, shown)
            moving = mask.sum((1, 2))
            figures = {
                "psnr": estimate(np.asarray(psnr(real, shown)), ones, episodes),
                "psnr_moving": estimate(squares.sum((1, 2)), moving, episodes, to_decibels),
                "ssim": estimate(similar.mean((1, 2)), ones, episodes),
                "ssim_moving": estimate((similar * mask).sum((1, 2)), moving, episodes),
            }
            if lpips is not None:
                pair = [_three_channels(pixels_to_latents(side)) for side in (real, shown)]
                figures["lpips"] = estimate(lpips(*pair).cpu().numpy(), ones, episodes)
            for metric, figure in figures.items():
                row.setdefault(metric, {})[name] = figure
        results[horizon] = row
    return results


def ssim_map(real: Frames, shown: Frames) -> NDArray[np.float64]:
    """Structural similarity of each pixel (Wang et al. 2004), (b h w), of frames (b h w c).

    A Gaussian of standard deviation 1.5 over 11 pixels, as in the paper.
    """
    sides = [pixels_to_latents(side).add(1).div(2) for side in (real, shown)]
    result = structural_similarity_index_measure(
        sides[1], sides[0], data_range=1.0, reduction="none", return_full_image=True
    )
    return np.asarray(result[1].mean(1).double().numpy())


def load_lpips() -> tuple[Lpips | None, str]:
    """LPIPS (Zhang et al. 2018) by torchmetrics, or why it cannot be had here.

    Its network comes with torchvision, and its weights from the network or from torch's cache.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        net = LearnedPerceptualImagePatchSimilarity("squeeze").net
    except Exception as error:  # no torchvision, one of another torch, no network: each its own
        reason = one_line(error)
        return None, f"LPIPS is not measured, since its network cannot be had here: {reason}"

    @torch.no_grad()
    def lpips(real: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        size = [max(64, side) for side in real.shape[-2:]]  # smaller ones vanish on the way
        pair = [torch.nn.functional.interpolate(side, size) for side in (real, shown)]
        return torch.stack([net(a[None], b[None]).flatten()[0] for a, b in zip(*pair, strict=True)])

    return lpips, ""


def frechet(real: torch.Tensor, imagined: torch.Tensor) -> float:
    """Frechet distance between Gaussians of two sets of features (n d) (Heusel et al. 2017).

    It is nan where a set has fewer than two members, which have no covariance.
    """
    if min(len(real), len(imagined)) < 2:
        return float("nan")
    identity = torch.nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    distance = FrechetInceptionDistance(feature=identity)
    distance.set_dtype(torch.float64)
    distance.update(real.double().cpu(), real=True)
    distance.update(imagined.double().cpu(), real=False)
    return max(0.0, float(distance.compute()))  # rounding takes equal sets below 0


def frechet_video_distance(
    i3d: str | PathLike[str], real: Frames, imagined: Frames, *, batch_size: int = 4
) -> float:
    """FVD (Unterthiner et al. 2019): the Frechet distance of features of an I3D network.

    Args:
        i3d: The network as the TorchScript file ``i3d_torchscript.pt`` that is in common use (of
            StyleGAN-V, Skorokhodov et al. 2022), which is not part of worldsim. TorchScript is a
            program, which runs when it is loaded: give only a file that you trust.
        real: Videos, ``uint8`` (b t h w c), cut into clips of 16 frames.
        imagined: The same.
        batch_size: Clips looked at together.

    Returns:
        The distance; nan if the videos are shorter than a clip.

    Raises:
        ValueError: If there is no such file, or it is no such network.
    """
    try:
        if not Path(i3d).is_file():
            raise ValueError("it is no file")
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
            seen = rearrange(large, "(n t) c h w -> n c t h w", t=CLIP)
            with torch.no_grad():
                parts.append(network(seen, rescale=False, resize=False, return_features=True))
        features.append(torch.cat(parts))
    return frechet(*features)


def _three_channels(images: torch.Tensor) -> torch.Tensor:
    return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)
