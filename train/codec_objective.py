"""What a codec learns: frames from latents of mean 0 and variance 1, also from noisy ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from torch import nn

from worldsim.data.episodes import Episodes
from worldsim.frames import moving_pixels, pixels_to_latents
from worldsim.model.autoencoder_codec import AutoencoderCodec

from .codec_config import CodecTraining
from .optimizers import warm_decay

CLIP_LATENTS = 4  # of a clip of video; every second one is decoded with the one before it
BOUND = 3.0  # latents beyond it cost, so that they stay bounded
BOUND_WEIGHT = 0.025
DECAY = 0.99  # of the running statistics
CROPS_OF_A_FRAME = 4  # a frame takes longer to read than a crop to learn from


class RunningStatistics(nn.Module):
    """Mean and deviation of the channels of latents, over many steps.

    Args:
        channels: Of the latents.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1, 1))

    def normalise(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """Take in the latents (b c t h w) of a step, and normalise them.

        Values are those of the running statistics, as in play: those of a batch tell what its few
        crops have in common, and a decoder would rely on it. Gradients are those of the batch's, so
        no scale grows against the noise (batch renormalization, Ioffe 2017).
        """
        mean, std = statistics(latents)
        rate = 1 - warm_decay(DECAY, step)
        self.mean.lerp_(mean.detach(), rate)
        self.std.lerp_(std.detach(), rate)
        normal = (latents - mean) / std
        return (normal * std.detach() + mean.detach() - self.mean) / self.std


class Crops(NamedTuple):
    """Crops of recorded clips.

    Attributes:
        images: In [-1, 1], (b c t h w).
        weights: Of their pixels, with a mean of 1 (b 1 t h w).
    """

    images: torch.Tensor
    weights: torch.Tensor


def draw_crops(
    recordings: Sequence[Episodes],
    episodes: Sequence[Sequence[int]],
    backgrounds: Sequence[np.ndarray],
    config: CodecTraining,
    length: int,
    key: Sequence[int],
) -> Crops:
    """Draw crops from one of the recordings, each as likely as it is long.

    Args:
        recordings: The recordings.
        episodes: Numbers of the episodes of each.
        backgrounds: The median frame of each.
        config: Number and size of the crops.
        length: Frames of a crop.
        key: Numbers that decide every draw, such as seed and step.
    """
    rng = np.random.default_rng(key)
    steps = np.array([each.total_steps + len(each) for each in recordings])
    chosen = int(rng.choice(len(recordings), p=steps / steps.sum()))
    recording, background = recordings[chosen], backgrounds[chosen]
    # Video learns more from many small steps: at this size they are four times as fast.
    size = np.minimum(recording.game.frame_size, config.crop // 2 if length > 1 else config.crop)
    crops = CROPS_OF_A_FRAME if (size < recording.game.frame_size).all() else 1
    clips = recording.sample_windows(
        rng, -(-config.batch_size // crops), length, episodes[chosen], right_padding=length - 1
    ).frames
    rows = np.arange(config.batch_size) % len(clips)
    corners = draw_corners(rng, np.array(recording.game.frame_size), size, len(rows))
    places = [(..., slice(y, y + size[0]), slice(x, x + size[1]), slice(None)) for y, x in corners]
    frames = np.stack([clips[row][place] for row, place in zip(rows, places, strict=True)])
    behind = np.stack([background[place] for place in places])[:, None]
    moving = moving_pixels(torch.from_numpy(frames), torch.from_numpy(behind))
    weights = 1 + config.moving_weight * moving[:, None].float()
    images = rearrange(pixels_to_latents(frames), "b t c h w -> b c t h w")
    return Crops(images, weights / weights.mean())


def draw_corners(
    rng: np.random.Generator, frame_size: np.ndarray, size: np.ndarray, count: int
) -> np.ndarray:
    """Draw upper left corners of crops (count 2), whose centres are spread over the whole frame.

    Crops that would leave the frame are moved into it, so its edges are seen too.

    Args:
        rng: Decides the draws.
        frame_size: Height and width of the frames.
        size: Height and width of the crops, at most as large.
        count: Number of crops.
    """
    corners = rng.integers(-(size // 2), frame_size - size // 2 + 1, size=(count, 2))
    return np.clip(corners, 0, frame_size - size)


def encode(autoencoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Latents (b c t h w) before they are normalised, of images (b c t h w)."""
    model: Any = autoencoder
    if not is_video(autoencoder):
        output = model.encode(channels_last(images[:, :, 0]))
        latents: torch.Tensor = output.latent
        return latents[:, :, None]
    latents = model.encode(images).latent_dist.mode()
    return latents


def decode(autoencoder: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Images (b c t h w) of normalised latents (b c t h w)."""
    model: Any = autoencoder
    if not is_video(autoencoder):
        images: torch.Tensor = model.decode(channels_last(latents[:, :, 0])).sample
        return images[:, :, None]
    images = model.decode(latents).sample
    return images


def is_video(autoencoder: nn.Module) -> bool:
    """Whether latents join frames."""
    return AutoencoderCodec.factors(autoencoder)[0] > 1


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """The memory layout in which convolutions of few channels are fast."""
    return images.contiguous(memory_format=torch.channels_last)


def codec_loss(
    autoencoder: nn.Module,
    running: RunningStatistics,
    crops: Crops,
    config: CodecTraining,
    key: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a step, and the root of the mean squared error of pixels in 0..255.

    Args:
        autoencoder: The autoencoder.
        running: The statistics of its latents, which are updated.
        crops: The crops of the step.
        config: Noise of the latents.
        key: Seed and step.
    """
    device = crops.images.device
    generator = torch.Generator(device).manual_seed(
        int(np.random.default_rng((*key, 1)).integers(2**63))
    )
    latents = running.normalise(encode(autoencoder, crops.images).float(), key[1])
    outside = (latents.abs() - BOUND).clamp_min(0).square().mean()
    scale = config.noise * torch.rand(len(latents), 1, 1, 1, 1, generator=generator, device=device)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    noisy = latents + scale * noise
    error = _error(autoencoder, noisy, crops)
    return error + BOUND_WEIGHT * outside, 127.5 * error.detach().sqrt()


def _error(autoencoder: nn.Module, latents: torch.Tensor, crops: Crops) -> torch.Tensor:
    """The mean squared error of decoded latents, weighted."""
    if not is_video(autoencoder):
        return ((decode(autoencoder, latents) - crops.images).square() * crops.weights).mean()
    frames = AutoencoderCodec.factors(autoencoder)[0]
    errors = []
    for number in range(1, latents.shape[2], 2):
        decoded = decode(autoencoder, latents[:, :, number - 1 : number + 1])
        if number > 1:  # the latent before is of several frames, and decodes to one here
            decoded = decoded[:, :, 1:]
        end = 1 + frames * number
        times = slice(end - decoded.shape[2], end)
        errors.append((decoded - crops.images[:, :, times]).square() * crops.weights[:, :, times])
    return torch.cat(errors, dim=2).mean()


def statistics(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of latents (b c t h w), both (1 c 1 1 1)."""
    mean = reduce(latents, "b c t h w -> 1 c 1 1 1", "mean")
    variance = reduce((latents - mean).square(), "b c t h w -> 1 c 1 1 1", "mean")
    return mean, (variance + 1e-6).sqrt()
