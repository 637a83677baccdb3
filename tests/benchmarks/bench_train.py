"""Training frames per second at 64x64 on one thread, beside what the core can do.

    python tests/benchmarks/bench_train.py [RECORDING] [--size tiny] [--batch-size 4] [--steps 45]

Without a recording a short one of worldsim/Pong-v0 is made. Each round runs real training in a
process of its own, once as it is and once with malloc keeping its memory (the variables of
``KEEP_MEMORY``), and in the same process multiplies matrices: the share is the arithmetic of
training per second over that of large matrices in the precision that training has (bfloat16 where
the CPU is fast at it). The optimizer's own matrix products are not counted:
of large models they take a good part of the time, the less of it the more windows a step has. CPU
seconds tell what a quiet core would do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.envs.record import RecordConfig, record
from worldsim.eval.speed import matrix_rate
from worldsim.train import dynamics
from worldsim.train.config import RunOptions, TrainConfig
from worldsim.train.draws import draw
from worldsim.train.dynamics import train
from worldsim.train.objective import encode, objective
from worldsim.train.optim import Optim
from worldsim.train.optimizers import has_fast_bfloat16
from worldsim.train.presets import SIZES, build_world
from worldsim.train.progress import TrainProgress
from worldsim.train.recipe import Recipe
from worldsim.train.run_log import Logging

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
WARM_UP = 5  # steps that are not counted


class Enough(Exception):  # noqa: N818  # the measurement is over
    pass


def rate_of_core() -> float:
    """Measure GFLOP per CPU second of large matrix products, as precise as training's."""
    cpu = torch.device("cpu")
    dtype = torch.bfloat16 if has_fast_bfloat16(cpu) else torch.float32
    return matrix_rate(cpu, dtype, time.process_time)


def step_flops(config: TrainConfig) -> float:
    """Count the arithmetic of a training step, averaged over a run."""
    recording = Recording(config.recording)
    world = build_world(config, recording, Split.of(recording, config.run.held_out))
    length = config.model.window + world.num_history
    windows = recording.sample_windows(
        np.random.default_rng(0), config.optim.batch_size or 1, length
    )
    counts = []
    for self_rollout in (0.0, 1.0):
        with FlopCounterMode(display=False) as counter:
            recipe, batch = Recipe(self_rollout=self_rollout), encode(world, windows)
            draws = draw(world, batch.latents, recipe, (0,))
            objective(world, batch, recipe, draws).total().backward()
        counts.append(counter.get_total_flops())
    # Self-rollout begins in the second third of a run and is whole in the last: half on average.
    return counts[0] + 0.5 * config.recipe.self_rollout * (counts[1] - counts[0])


def measure(config: TrainConfig) -> dict[str, float]:
    """Train, and time the steps as they end."""
    walls, cpus = [], []

    class Clock(TrainProgress):
        def show(self, fraction: float, *_: object) -> None:  # type: ignore[override]
            walls.append(time.perf_counter())
            cpus.append(time.process_time())
            if fraction >= 1:
                raise Enough

    dynamics.TrainProgress = Clock  # type: ignore[misc]
    rates = [rate_of_core()]
    try:
        train(config)
    except Enough:
        rates.append(rate_of_core())
    frames = (config.optim.batch_size or 1) * config.model.window * (len(walls) - WARM_UP)
    wall, cpu = (times[-1] - times[WARM_UP - 1] for times in (walls, cpus))
    steps = len(walls) - WARM_UP
    return {
        "wall": frames / wall,
        "cpu": frames / cpu,
        "gflops": 1e-9 * step_flops(config) * steps / cpu,
        "matrix": statistics.fmean(rates),
    }


def run(recording: Path, options: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Measure in a process of its own, since malloc reads the environment once."""
    command = [sys.executable, __file__, str(recording), *options, "--measure"]
    clean = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    done = subprocess.run(
        command, env=clean | ONE_THREAD | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("recording", nargs="?", type=Path)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recording = arguments.recording
        if arguments.measure:
            config = TrainConfig(
                recording=recording,
                out=Path(folder) / "run",
                size=arguments.size,
                steps=arguments.steps,
                device="cpu",
                logging=Logging(wandb="disabled"),
                optim=Optim(batch_size=arguments.batch_size),
                run=RunOptions(num_evals=0),
            )
            print(json.dumps(measure(config)))
            return
        if recording is None:
            recording = Path(folder) / "pong"
            record(RecordConfig(env_id="worldsim/Pong-v0", steps=2000, workers=1), recording)
        options = ["--size", arguments.size, "--steps", str(arguments.steps)]
        options += ["--batch-size", str(arguments.batch_size)]
        for _ in range(arguments.rounds):
            for name, environment in (("as it is", {}), ("memory kept", KEEP_MEMORY)):
                figures = run(recording, options, environment)
                print(
                    f"{name:12} {figures['wall']:6.0f} frames/s, {figures['cpu']:6.0f} a CPU "
                    f"second; {figures['gflops']:5.1f} GFLOP/s, "
                    f"{figures['gflops'] / figures['matrix']:4.0%} of the core's "
                    f"{figures['matrix']:5.1f} on large matrices",
                    flush=True,
                )


if __name__ == "__main__":
    main()
