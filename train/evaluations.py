"""The evaluations of a run: a few on the way, and one at its end, which writes the world's card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from worldsim.model.codec import PixelCodec
from worldsim.system.interrupt import Interrupted, StopOnSignal
from worldsim.world_model import WorldModel

from .card import describe_recording, evaluate_run, write_card
from .progress import TrainProgress, duration
from .run_folder import RunProgress
from .run_log import RunLog

if TYPE_CHECKING:
    from .run import Run

FEW_WINDOWS, MANY_WINDOWS = 16, 64  # of an evaluation
SHORT_RUN_SECONDS = 600.0  # shorter runs are evaluated on few windows, to take less than the run
LONGEST_EVALUATION = 0.1  # of the run, for an evaluation before its end


def evaluate_on_the_way(
    run: Run,
    world: WorldModel,
    log: RunLog | None,
    bar: TrainProgress,
    stop: StopOnSignal,
    step: int,
    started: float,
    evals_due: int,
) -> int:
    """Evaluate on a few windows, and stop if that takes over a tenth of the run.

    Returns:
        The number of evaluations that count as done.
    """
    assert log is not None, "the first process evaluates"
    config = run.config

    def fraction() -> float:
        return config.fraction(RunProgress(step, time.monotonic() - started))

    until = fraction() + LONGEST_EVALUATION
    with bar.evaluating() as show:

        def on_step(part: float) -> None:
            show(part)
            stop.raise_if_asked()
            if fraction() >= until:
                raise Interrupted

        try:
            evaluation = evaluate_run(world, run.data, log, step, FEW_WINDOWS, on_step)
        except Interrupted:
            if stop.asked:
                return evals_due - 1
            bar.note(
                f"step {step:,}: an evaluation takes over a tenth of the run, so only the one at "
                "the end is done"
            )
            return config.run.num_evals
    bar.note(f"step {step:,}: {evaluation.summary()}")
    return evals_due


def evaluate_at_the_end(
    run: Run,
    world: WorldModel,
    log: RunLog | None,
    bar: TrainProgress,
    stop: StopOnSignal,
    progress: RunProgress,
    checkpoint: Path,
) -> None:
    """Evaluate the final world and write its card; after Ctrl-C it has none."""
    assert log is not None, "the first process evaluates"
    if stop.asked:
        return
    bar.note("the world is saved; evaluating it on held-out episodes (Ctrl-C skips that)")
    num_windows = FEW_WINDOWS if progress.seconds < SHORT_RUN_SECONDS else MANY_WINDOWS
    with bar.evaluating() as show:

        def on_step(part: float) -> None:
            show(part)
            stop.raise_if_asked()

        try:
            evaluation = evaluate_run(world, run.data, log, progress.step, num_windows, on_step)
        except Interrupted:
            return
    bar.note(evaluation.summary())
    threads = torch.get_num_threads()
    processes = f"{run.processes.size} processes of " if run.processes.size > 1 else ""
    facts = {
        "recording": "; ".join(map(describe_recording, run.data.recordings)),
        "command": f"`{run.config.command()}`",
        "length": f"{progress.step:,} steps in {duration(progress.seconds)} on "
        f"{run.world.device.type}, {processes}{threads} thread{'s' * (threads > 1)}",
    }
    if not isinstance(world.codec, PixelCodec):
        facts["codec"] = world.codec.describe()
    write_card(checkpoint, world, evaluation, facts)
