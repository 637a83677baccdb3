"""Chance codes: which of several possible next frames it is.

A denoiser with squared error predicts the mean of all possible frames. A code of a few bits selects
one of them, so one pass draws one outcome. In training an encoder, which sees the true frame,
writes the code. In play a prior draws it from the frame before and the action.

These are the latent actions of Genie (Bruce et al. 2024), for what a game decides by itself. Bits
are signs with straight-through gradients (LFQ, Yu et al. 2024), of values that are whitened
(Ermolov et al. 2021). No KL term keeps the encoder near the prior: with one, all frames got the
same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from worldsim.model.actions import ActionEmbedding
from worldsim.model.layers import place_features

if TYPE_CHECKING:
    from worldsim.model.dit import DiTOutput
    from worldsim.model.dit_config import DiTConfig

SURPRISE = 0.02  # mean squared residual of a patch above which a frame is a surprise
LIKELY = 0.5  # predicted probability of a surprise above which a frame always gets a code
CERTAIN = 0.1  # the same below which the next frame counts as certain
LEAST = 0.05  # share of a code that is drawn, of that of the likeliest
FORGET = 0.01  # of the running statistics, for each frame with a code
FORGET_RATE = 0.05  # of the running share of surprises, for each batch


class Codes(NamedTuple):
    """Written codes.

    Attributes:
        bits: (b t bits), with straight-through gradients.
        errors: Of what the past says (b t), to be trained on: the squared error of the predicted
            mean of the bits, and the cross-entropy of the predicted surprise.
        certain: Which frames follow from the past, as far as it says, bool (b t).
    """

    bits: torch.Tensor
    errors: torch.Tensor
    certain: torch.Tensor


class ChanceCodes(nn.Module):
    """Writes, draws and embeds the chance codes of a `VideoDiT`.

    A code is a vector of ``config.chance_bits`` values -1 or 1. Zeros stand for no code: the mean
    is predicted, which is right where only one frame is possible.

    Args:
        config: The sizes of the network.
    """

    # Running statistics: of the bits, and of what of them the past leaves open.
    mean: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    scatter: torch.Tensor
    rate: torch.Tensor  # running share of frames that are surprises

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        num_bits, width, channels = config.chance_bits, config.width, config.width // 2
        self.num_bits = num_bits
        stride = config.detail_stride
        height, across = config.patch_sides
        sides = height // stride, across // stride
        self.patch_sides = config.patch_sides
        # The encoder: convolutions down to patches, then one vector for the frame.
        self.look = nn.Conv2d(
            2 * config.channels,
            config.detail_width,
            3 * stride,
            stride=stride,
            padding=stride,
        )
        self.patch = nn.Conv2d(config.detail_width, channels, sides, stride=sides)
        self.place = nn.Linear(20, channels, bias=False)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())
        self.bits = nn.Sequential(
            nn.LayerNorm(channels, bias=False),
            nn.Linear(channels, channels),
            nn.SiLU(),
            nn.Linear(channels, num_bits, bias=False),
        )
        # What the past says: the mean of the bits, and how likely a surprise is.
        self.center = nn.Sequential(
            nn.LayerNorm(width, bias=False),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, num_bits + 1),
        )
        self.register_buffer("mean", torch.zeros(num_bits))
        self.register_buffer("scale", torch.ones(num_bits))
        self.register_buffer("offset", torch.zeros(num_bits))
        self.register_buffer("scatter", torch.eye(num_bits))
        self.register_buffer("rate", torch.tensor(0.02))
        # The prior, over all codes at once: bits drawn one by one would not fit together.
        self.features = nn.Linear(width, width)
        self.action = ActionEmbedding(config)
        self.prior = nn.Sequential(
            nn.LayerNorm(width, bias=False),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1 + 2**num_bits),
        )
        self.embed = nn.Sequential(
            nn.Linear(num_bits, width), nn.SiLU(), nn.Linear(width, 2 * width)
        )

    def encode(self, latents: torch.Tensor, expected: DiTOutput, valid: torch.Tensor) -> Codes:
        """Write the codes of true frames.

        Args:
            latents: Clean latents (b t c h w), h and w of any size.
            expected: Their prediction without a code, the mean of what is possible.
            valid: Which frames may have a code, bool (b t).

        Returns:
            Codes, and what the past says of them.
        """
        b, t = latents.shape[:2]
        residual = latents - expected.latents
        frames = rearrange(
            torch.cat((residual, expected.latents), dim=2), "b t c h w -> (b t) c h w"
        )
        ph, pw = self.patch_sides
        frames = F.pad(frames, (0, -frames.shape[-1] % pw, 0, -frames.shape[-2] % ph))
        features = self.patch(
            F.silu(self.look(frames.contiguous(memory_format=torch.channels_last)))
        )
        rows, columns = features.shape[-2:]
        features = rearrange(features, "b c rows columns -> b (rows columns) c")
        features = self.mix(features + self.place(place_features(features.device, rows, columns)))
        # Places count by their squared residual: elsewhere the next frame is certain.
        energy = frames[:, : latents.shape[2]].square().mean(1, keepdim=True)
        energy = F.avg_pool2d(energy, (ph, pw)).flatten(1)
        share = energy / (energy.sum(1, keepdim=True) + 1e-8)
        bits = self.bits((features * share[..., None]).sum(1)).float()
        center = rearrange(self.center(expected.features), "b t bits -> (b t) bits").float()
        center, logit = center[:, :-1], center[:, -1]
        # Where a surprise is likely, frames near the mean get a code too. Without one, the mean
        # would become theirs, and no longer that of all.
        surprise = energy.amax(1) > SURPRISE
        likely = logit.sigmoid()
        coded = (surprise | (likely > LIKELY)) & valid.flatten()
        # The signs are of what the past leaves open, whitened. So frames of one past get different
        # codes, and no bit repeats another or what the past says already.
        learning = self.training and torch.is_grad_enabled()  # not when a loss is only looked at
        if learning:
            self.rate.lerp_(_mean(surprise[:, None].float(), valid.flatten())[0], FORGET_RATE)
            self._note_bits(bits.detach(), coded)
        bits = (bits - self.mean) / self.scale
        rest = bits - center.detach()
        if learning:
            self._note_rest(rest.detach(), coded)
        bounded = self._whiten(rest).tanh()
        signs = torch.where(bounded > 0, 1.0, -1.0)
        codes = (signs + (bounded - bounded.detach())) * coded[:, None]
        errors = (bits.detach() - center).square().mean(1) * coded
        errors = errors + F.binary_cross_entropy_with_logits(
            logit, surprise.float(), reduction="none"
        )
        certain = (likely < CERTAIN).view(b, t)
        return Codes(codes.view(b, t, -1), errors.view(b, t), certain)

    def needed(self) -> float:
        """Share of batches whose codes are worth their time: fewer, the rarer surprises are.

        Reading it waits for the device.
        """
        return min(1.0, 0.1 + 50 * self.rate.item())

    def _note_bits(self, bits: torch.Tensor, coded: torch.Tensor) -> None:
        """Move the running mean and scale of bits (n bits) towards those of coded frames (n)."""
        rate = 1 - (1 - FORGET) ** coded.sum()
        self.mean.lerp_(_mean(bits, coded), rate)
        self.scale.lerp_(_mean((bits - self.mean).abs(), coded) + 1e-5, rate)

    def _note_rest(self, rest: torch.Tensor, coded: torch.Tensor) -> None:
        """Move the running offset and covariance towards those of coded frames (n)."""
        rate = 1 - (1 - FORGET) ** coded.sum()
        self.offset.lerp_(_mean(rest, coded), rate)
        rest = (rest - self.offset).where(coded[:, None], 0.0)
        scatter = (rest[:, :, None] * rest[:, None]).sum(0)  # no matrix product: it may be bfloat16
        self.scatter.lerp_(scatter / coded.sum().clamp_min(1), rate)

    def _whiten(self, rest: torch.Tensor) -> torch.Tensor:
        """Make uncorrelated values of variance 1 (n bits) of correlated ones."""
        scatter = self.scatter + 1e-3 * torch.eye(self.num_bits, device=rest.device)
        factor = torch.linalg.cholesky_ex(scatter).L
        white = torch.linalg.solve_triangular(factor, (rest - self.offset).T, upper=False)
        return white.T

    def prior_logits(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Predict the code of the next frame.

        Args:
            features: Those of the frame before it (… d), see `DiTOutput`.
            actions: The actions that lead into it (…), or (… patch_frames).

        Returns:
            A logit for each code (… 1 + 2**bits), by its `number`.
        """
        logits: torch.Tensor = self.prior(self.features(features) + self.action(actions))
        return logits.float()

    def number(self, codes: torch.Tensor) -> torch.Tensor:
        """The number of each code (…), from codes (… bits); 0 for no code."""
        numbers = 1 + ((codes > 0) * self._powers(codes.device)).sum(-1)
        return numbers * (codes != 0).any(-1)

    def code(self, numbers: torch.Tensor) -> torch.Tensor:
        """Each code (… bits), from its number (…)."""
        bits = (numbers[..., None] - 1) // self._powers(numbers.device) % 2
        return (2.0 * bits - 1.0) * (numbers[..., None] > 0)

    def draw(self, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Draw a code from its distribution, by inverting the cumulative one.

        Codes that are less likely than ``LEAST`` of the likeliest are left out: they are the
        prior's errors (min-p sampling, Nguyen et al. 2024).

        Args:
            logits: From `prior_logits` (b 1 + 2**bits).
            uniform: One number in [0, 1] for each draw (b).

        Returns:
            Codes (b bits).
        """
        shares = logits.softmax(-1)
        shares = shares * (shares >= LEAST * shares.amax(-1, keepdim=True))
        up_to = shares.cumsum(-1)
        total = up_to[:, -1:]
        drawn = (up_to <= uniform[:, None] * total).sum(-1)
        return self.code(torch.minimum(drawn, (up_to < total).sum(-1)))

    def _powers(self, device: torch.device) -> torch.Tensor:
        return 2 ** torch.arange(self.num_bits, device=device)


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean of the chosen rows (n) of values (n d), 0 if there are none.

    A sum over all rows has a fixed shape, so that the host need not wait for their number.
    """
    return values.where(chosen[:, None], 0.0).sum(0) / chosen.sum().clamp_min(1)
