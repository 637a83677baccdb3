"""Speed: time and memory of a world's steps on this machine."""

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
    """Cost of a step of a batch of lanes, reward and end included.

    Attributes:
        first: Time of the first step in ms; on a GPU it loads kernels and captures a CUDA graph.
        p50: Median time in ms of the others.
        p95: 95th percentile of their time in ms.
        gflop: Operations of the network's matrix products and convolutions, in 10^9.
        peak_mb: Peak memory in MB: of these steps on a GPU, else of the process so far.
    """

    first: float
    p50: float
    p95: float
    gflop: float
    peak_mb: float


def begin(world: WorldModel, batch_size: int, *, compiled: bool = False) -> Rollout:
    """Begin a rollout whose lanes take the world's starts in turn."""
    rollout = Rollout(world, batch_size, compiled=compiled)
    rollout.begin(range(batch_size), range(batch_size))
    return rollout


def step_cost(rollout: Rollout, seconds: float) -> StepCost:
    """Time the steps of a rollout under random actions for about ``seconds``."""
    world, size = rollout.world, rollout.batch_size
    rng = np.random.default_rng(0)

    def play() -> float:
        actions = rng.integers(world.game.num_actions, size=size)
        begun = time.perf_counter()
        rollout.step(actions)  # ends on the CPU, so a GPU has finished by then
        return 1000 * (time.perf_counter() - begun)

    # Count the operations of one eager lane: the counter does not see into a compiled network.
    alone = begin(world, 1)
    alone.num_passes = rollout.num_passes
    with FlopCounterMode(display=False) as counter:
        alone._step()  # not as a CUDA graph, into which it does not see either
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    first = play()
    for _ in range(WARM_UP):
        play()
    times: list[float] = []
    while len(times) < 2 or sum(times) < 1000 * seconds:
        times.append(play())
    return StepCost(
        first=first,
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
    """Time steps of one lane, early and late in a rollout.

    Args:
        world: The world.
        at: Steps after the reset.
        num_passes: Denoising passes of the timed steps; None takes the world's own number.
        rounds: Rounds of 10 timed steps at each of ``at``.
        on_step: Called after each step on the way, for a progress bar.

    Returns:
        By step: the time of each timed step in ms, (10 * rounds).
    """
    rng = np.random.default_rng(0)
    rollout = Rollout(world, 1, num_passes=1)
    rollout.begin([0], [0])

    def play() -> None:
        rollout.step(rng.integers(world.game.num_actions, size=1))

    # One rollout runs to the last step, with one pass per frame to save time.
    snapshots: dict[int, RolloutState] = {}
    for step in range(max(at) + 1):
        if step in at:
            snapshots[step] = rollout.clone_state()
        play()
        if on_step is not None:
            on_step()

    # The snapshots are timed in turn, so that a slow moment of the machine affects all alike.
    rollout.num_passes = world.num_passes if num_passes is None else num_passes
    times: dict[int, list[float]] = {step: [] for step in snapshots}
    for _ in range(rounds):
        for step, snapshot in snapshots.items():
            rollout.restore_state(snapshot)
            play()  # the first step after a copy has cold caches
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
    """Measure the speed of large matrix products, in GFLOP per second of the clock."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        begun = clock()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(clock() - begun)
    return 2e-9 * side**3 / float(np.median(times))


def peak_memory(device: torch.device) -> float:
    """Peak memory in MB (10^6 bytes): of the process, or on its GPU since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # not on Windows; elsewhere psutil has no peak

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
