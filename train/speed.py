"""Speed: time of a training step by phase, and its memory, on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim.eval.speed import peak_memory
from worldsim.system.location import Location

from .compiling import compile_layers
from .config import Size, TrainConfig, check
from .engine import Engine
from .optim import Optim
from .run import Mark, Run, no_mark
from .run_folder import RunProgress

PHASES = ("data", "forward", "backward", "optimizer")  # as `Run.take_step` marks them
LENGTH = 1_000_000  # steps of a run; those after four fifths of it are timed
WARM_UP = 2  # more steps before the timed ones, unless one is slow
ROUNDS = 10  # about, in which the steps are timed


class TrainStepCost(NamedTuple):
    """Cost of a training step.

    Attributes:
        parameters: Number of weights in training.
        phases: By phase: median time in ms, from the end of the phase before until the device has
            finished.
        whole: Median time in ms of a step in which the host does not wait for the device. On a GPU
            it is less than the sum of the phases, since they overlap.
        frames: Frames that the step trains on.
        gflop: Operations of the step's matrix products and convolutions, in 10^9. Activations that
            are computed again count again.
        peak_mb: Peak memory in MB: of these steps on a GPU, else of the process so far.
        not_compiled: Why layers that should be could not be compiled, in a sentence; else None.
    """

    parameters: int
    phases: dict[str, float]
    whole: float
    frames: int
    gflop: float
    peak_mb: float
    not_compiled: str | None


class PhaseClock:
    """Adds up the time of each phase of a step, whose end it waits for.

    Attributes:
        ms: Time so far by phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.ms = dict.fromkeys(PHASES, 0.0)
        self._device = device
        self._begun = now_after(device)

    def __call__(self, phase: str) -> None:
        """Add the time since the end of the phase before."""
        begun, self._begun = self._begun, now_after(self._device)
        self.ms[phase] += self._begun - begun


def now_after(device: torch.device) -> float:
    """The time in ms at which the device has done all its work so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return 1000 * time.perf_counter()


def begin_run(
    recording: Location, size: Size, batch_size: int, device: torch.device, engine: Engine
) -> Run:
    """A run of `worldsim train` with fresh weights, which writes nothing.

    Raises:
        ValueError: If the recording or the device is unusable, or a step does not fit into memory.
    """
    config = TrainConfig(
        (recording,),
        out=Path(),
        steps=LENGTH,
        size=size,
        device=str(device),
        optim=Optim(batch_size=batch_size),
        engine=engine,
    )
    check(config)
    return Run.of(config, None)


def train_step_cost(run: Run, seconds: float) -> TrainStepCost:
    """Time the steps of a run for about ``seconds``, as they are in its last fifth.

    The run goes on from there: each step changes its weights.
    """
    device = run.world.device
    progress = RunProgress(step=LENGTH * 4 // 5)

    def take_step(mark: Mark = no_mark) -> int:
        nonlocal progress
        losses, _ = run.take_step(progress, mark)
        progress = run.advance(progress)
        return losses.valid.numel() * run.world.patch_frames

    def take_steps(count: int) -> float:
        """The mean time of a step in ms, with one wait at the end of them all."""
        begun = now_after(device)
        for _ in range(count):
            take_step()
        return (now_after(device) - begun) / count

    def take_steps_by_phase(count: int) -> list[dict[str, float]]:
        clocks = []
        for _ in range(count):
            clocks.append(clock := PhaseClock(device))
            take_step(clock)
        return [clock.ms for clock in clocks]

    with run.groups:
        not_compiled = None
        if run.config.engine.compiles_on(device.type):
            torch.compiler.reset()  # it keeps few shapes, all configurations together
            not_compiled = compile_layers(run, progress)
        for _ in range(WARM_UP):
            if (ms := take_steps(1)) > 1000 * seconds:
                break
        count = max(1, int(1000 * seconds / ROUNDS / ms))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        # Both kinds take turns, so that a slow moment of the machine affects both.
        wholes: list[float] = []
        by_phase: list[dict[str, float]] = []
        until = now_after(device) + 1000 * seconds
        while not wholes or now_after(device) < until:
            by_phase += (phases := take_steps_by_phase(count))
            # A CPU has always finished a phase at its end: these steps are whole ones as well.
            is_cpu = device.type == "cpu"
            wholes += [sum(ms.values()) for ms in phases] if is_cpu else [take_steps(count)]
        peak_mb = peak_memory(device)

        # The counter does not see into compiled layers, and it keeps more memory than training.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            frames = take_step()

    return TrainStepCost(
        parameters=sum(weights.numel() for weights in run.world.parameters()),
        phases={phase: float(np.median([ms[phase] for ms in by_phase])) for phase in PHASES},
        whole=float(np.median(wholes)),
        frames=frames,
        gflop=1e-9 * counter.get_total_flops(),
        peak_mb=peak_mb,
        not_compiled=not_compiled,
    )
