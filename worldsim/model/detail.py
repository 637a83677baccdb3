"""The convolutional path of a `VideoDiT`, which reads and draws the details of frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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
