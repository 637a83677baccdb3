"""Whether a world's uncertainty shows where it is wrong.

python tests/benchmarks/bench_uncertainty.py [WORLD] [RECORDING] [--windows 256] [--horizon 8]

Held-out windows are continued under the recorded actions. At each step the uncertainty (`Rollout`
with ``with_uncertainty``) is compared with the squared error of that frame. Printed are Spearman's
rank correlation, and how often a step with one of the tenth of largest errors is more uncertain
than another one (AUROC; a half is chance). Quantiles of the uncertainty show what
--max-uncertainty may be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro

from worldsim.data.recording import Recording
from worldsim.eval.held_out import choose_windows
from worldsim.eval.unseen import unseen
from worldsim.rollout import Rollout
from worldsim.world_folder import load


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def main(
    world_name: str = "pong",
    recording: Path = Path("recordings/pong"),
    /,
    windows: int = 256,
    horizon: int = 8,
    passes: int | None = None,
) -> None:
    world, recorded = load(world_name), Recording(recording)
    if world.device.type == "cpu":
        torch.set_num_threads(1)
    held_out = choose_windows(
        world,
        recorded,
        unseen([world], recorded).unseen,
        horizons=(horizon,),
        num_windows=windows,
    )
    context, taken = held_out.context, held_out.windows.actions
    uncertainties, errors = [], []
    for begin in range(0, windows, 32):
        batch = slice(begin, begin + 32)
        frames = held_out.windows.frames[batch]
        rollout = Rollout(world, len(frames), num_passes=passes, with_uncertainty=True)
        rollout.reset(frames[:, :context], taken[batch, : context - 1], range(len(frames)))
        for step in range(horizon):
            made = rollout.step(taken[batch, context - 1 + step])
            real = held_out.real[batch, step]
            uncertainties.append(made.uncertainties)
            errors.append(((made.frames.astype(float) - real) ** 2).mean((1, 2, 3)))
    uncertainty, error = np.concatenate(uncertainties), np.concatenate(errors)
    bad = error >= np.quantile(error, 0.9)
    order = ranks(uncertainty)
    above = (order[bad].sum() - bad.sum() * (bad.sum() - 1) / 2) / (bad.sum() * (~bad).sum())
    print(
        f"{len(order):,} steps: rank correlation {np.corrcoef(order, ranks(error))[0, 1]:.2f}, "
        f"AUROC of the tenth of largest errors {above:.2f}; uncertainty at the 50, 90, 95, 99 %: "
        + ", ".join(f"{value:.4f}" for value in np.quantile(uncertainty, (0.5, 0.9, 0.95, 0.99)))
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
