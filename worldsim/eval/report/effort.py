"""How much `worldsim eval` measures: a study, or a quick look."""

from __future__ import annotations

from typing import NamedTuple

HORIZONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Steps after which predictions are compared with what really followed."""


class Effort(NamedTuple):
    """How much is measured; a quick look takes about a tenth of the time."""

    windows: int
    horizon: int
    flicker_windows: int
    event_stretches: int
    drift_bounds: tuple[int, ...]
    drift_rollouts: int
    shuffle_batches: int
    inverse_steps: int
    latency_steps: tuple[int, ...]

    @property
    def horizons(self) -> list[int]:
        """Steps after which predictions are compared, up to the horizon."""
        return [steps for steps in HORIZONS if steps <= self.horizon]


FULL = Effort(
    windows=32,
    horizon=256,
    flicker_windows=6,
    event_stretches=256,
    drift_bounds=(10, 100, 200, 500, 1000, 1500, 2000),
    drift_rollouts=4,
    shuffle_batches=8,
    inverse_steps=600,
    latency_steps=(10, 1000, 5000),
)
QUICK = Effort(
    windows=16,
    horizon=64,
    flicker_windows=6,
    event_stretches=64,
    drift_bounds=(10, 100, 200),
    drift_rollouts=2,
    shuffle_batches=4,
    inverse_steps=120,
    latency_steps=(10, 200),
)
