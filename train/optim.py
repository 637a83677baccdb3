"""The optimizer's settings and its learning rate over a run.

Nothing here needs torch, so that `worldsim train --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldsim.system.options import Count, Fraction, NotNegative, Number, Positive


@dataclass(frozen=True)
class Optim:
    """Batches, learning rate and averaged weights."""

    batch_size: Count | None = None
    """Windows in a step. If not given: 4; on an NVIDIA GPU 64, or as many as fit."""
    lr: Positive | None = None
    """Peak learning rate, of Muon and of AdamW; that of the size if not given."""
    warmup_steps: Number = 100
    """Steps in which the learning rate rises to its peak."""
    decay_fraction: Fraction = 0.4
    """Last part of the run, in which the learning rate falls linearly to 0."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of the matrices."""
    max_grad_norm: Positive = 1.0
    """Gradients with a larger norm are scaled down to it."""
    ema_decay: Fraction = 0.998
    """Decay of the averaged weights, which are the world that is kept."""

    def lr_at(self, step: int, fraction: float) -> float:
        """The learning rate at a step: a linear warm-up, then flat, then linearly to 0.

        Args:
            step: Steps done.
            fraction: How much of the run is done, from 0 to 1.
        """
        assert self.lr is not None, "see worldsim.train.presets.complete"
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * warmup * self._decay(fraction)

    def _decay(self, fraction: float) -> float:
        if not self.decay_fraction:
            return 1.0
        return min(1.0, max(0.0, 1 - fraction) / self.decay_fraction)
