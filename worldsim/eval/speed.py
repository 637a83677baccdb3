"""Speed: how fast a world steps on this machine, and how much memory that takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from worldsim.rollout import Rollout, RolloutState
from worldsim.world_model import WorldModel

WARM_UP = 3  # steps that are not timed


class StepCost(NamedTuple):
    """What a step of a batch of sessions costs, reward and end included.

    Attributes:
        p50: Milliseconds, median.
        p95: Milliseconds, 95th percentile.
        gflop: Arithmetic of the network's products and convolutions, in 10^9 operations.
        peak_mb: Most memory in use up to now, in MB: of the process, or on its GPU.
    """

    p50: float
    p95: float
    gflop: float
    peak_mb: float


def begin(world: WorldModel, batch_size: int, *, compiled: bool = False) -> Rollout:
    """Sessions from the world's starts in turn."""
    rollout = Rollout(world, batch_size, compiled=compiled)  # refuses what does not fit
    rollout.begin(range(batch_size), range(batch_size))
    return rollout


def step_cost(rollout: Rollout, seconds: float) -> StepCost:
    """Time the steps of sessions under random actions for about so many seconds."""
    world, size = rollout.world, rollout.batch_size
    rng = np.random.default_rng(0)

    def play() -> float:
        actions = rng.integers(world.game.num_actions, size=size)
        begun = time.perf_counter()
        rollout.step(actions)  # ends on the CPU, so a GPU has finished by then
        return 1000 * (time.perf_counter() - begun)

    alone = begin(world, 1)  # eager, since the counter does not see into what is compiled
    alone.num_passes = rollout.num_passes
    with FlopCounterMode(display=False) as counter:
        alone.step(np.zeros(1, np.int64))
    for _ in range(WARM_UP):
        play()
    times: list[float] = []
    while len(times) < 2 or sum(times) < 1000 * seconds:
        times.append(play())
    return StepCost(
        p50=float(np.percentile(times, 50)),
        p95=float(np.percentile(times, 95)),
        gflop=1e-9 * size * counter.get_total_flops(),
        peak_mb=peak_memory(world.device),
    )


def step_latency(
    world: WorldModel,
    at: Sequence[int] = (10, 1000),
    *,
    num_passes: int | None = None,
    rounds: int = 8,
    on_step: Callable[[], None] | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Measure the milliseconds of a step of one session, early and late.

    One session walks to the last of ``at`` (with a single denoising pass a frame, which fills the
    same memory sooner) and leaves a snapshot at each. Then each snapshot in turn is restored and
    timed for a few steps, ``rounds`` times over, so that a machine that slows down for a moment
    slows all of them alike.

    Args:
        world: The world.
        at: Steps after the reset.
        num_passes: Denoising passes of the timed steps; None takes the world's own number.
        rounds: Times each is measured, 10 steps each.
        on_step: Called after each step on the way, for a progress bar.

    Returns:
        By step: the milliseconds of each step that was timed, (10 * rounds).
    """
    rng = np.random.default_rng(0)
    rollout = Rollout(world, 1, num_passes=1)
    rollout.begin([0], [0])

    def play() -> None:
        rollout.step(rng.integers(world.game.num_actions, size=1))

    snapshots: dict[int, RolloutState] = {}
    for step in range(max(at) + 1):
        if step in at:
            snapshots[step] = rollout.clone_state()
        play()
        if on_step is not None:
            on_step()

    rollout.num_passes = world.num_passes if num_passes is None else num_passes
    times: dict[int, list[float]] = {step: [] for step in snapshots}
    for _ in range(rounds):
        for step, snapshot in snapshots.items():
            rollout.restore_state(snapshot)
            play()  # the first step after a copy finds cold caches
            for _ in range(10):
                begin = time.perf_counter()
                play()
                times[step].append(1000 * (time.perf_counter() - begin))
    return {step: np.array(ms) for step, ms in times.items()}


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure how fast large matrices are multiplied, in GFLOP per second of the clock."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        begun = clock()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(clock() - begun)
    return 2e-9 * side**3 / float(np.median(times))


def peak_memory(device: torch.device) -> float:
    """Most memory in use up to now, in MB (10^6 bytes): of the process, or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # not there on Windows, and psutil knows no peak elsewhere

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
