"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from worldsim.eval.speed import peak_memory
from worldsim.system.interrupt import StopOnSignal

from .auto_codec import with_codec
from .card import describe_run, has_card, summarize
from .checkpoint import load_checkpoint, read_losses
from .compiling import compile_layers
from .config import TrainConfig, check
from .evaluations import evaluate_at_the_end, evaluate_on_the_way
from .objective import Losses
from .processes import Processes
from .progress import TrainProgress
from .run import Run
from .run_folder import (
    RunProgress,
    alone,
    find_checkpoint,
    read_progress,
    read_state,
)
from .run_log import open_log
from .shards import is_sharded

READ_SECONDS = 1.0  # between two looks at the loss


class TrainResult(NamedTuple):
    """How a run ended.

    Attributes:
        ended: Whether it finished, was stopped by a signal, or had been finished before.
        checkpoint: The last checkpoint, a world folder.
        progress: The run's progress.
    """

    ended: Literal["finished", "stopped", "finished before"]
    checkpoint: Path
    progress: RunProgress


def train(config: TrainConfig) -> TrainResult:
    """Train a world.

    Args:
        config: The settings of the run.

    Returns:
        How the run ended, and its last checkpoint.

    Raises:
        ValueError: If settings contradict one another or the recording is unusable.
        OSError: If a checkpoint cannot be written; the one before is kept.
        FloatingPointError: If a loss is not finite, soon after; the checkpoint before it is kept.
        KeyboardInterrupt: On a second signal, at once; or if a codec is trained first, and that is
            stopped.
    """
    check(config)
    with Processes(config.device) as processes:
        return train_on(processes, config)


def train_on(processes: Processes, config: TrainConfig) -> TrainResult:
    """Train a world, see `train`: all processes of the run do the same.

    The first one also writes logs, worlds and the terminal, and evaluates while the others wait.
    """
    # Find out how far the run is, before anything slow is built.
    first = processes.first
    checkpoint = first(partial(find_checkpoint, config.out, config.resume))
    if checkpoint is None:
        config = with_codec(config, processes)
    progress, _ = first(lambda: read_progress(checkpoint) if checkpoint else (RunProgress(), {}))
    is_over = config.fraction(progress) >= 1
    if checkpoint and is_over and first(partial(has_card, checkpoint)):
        return TrainResult("finished before", checkpoint, progress)
    run = Run.of(config, checkpoint, processes)
    config = run.config

    with contextlib.ExitStack() as stack:
        first(lambda: stack.enter_context(alone(config.out)))
        stop = stack.enter_context(StopOnSignal())
        bar = TrainProgress(config.fraction(progress), quiet=not processes.is_first)
        for context in (run.groups, run.writer, bar):
            stack.enter_context(context)
        log = stack.enter_context(open_log(config, bar.note)) if processes.is_first else None

        # Resume. Settings that do not fit the checkpoint or the recording replace none on disk.
        unlogged: list[Losses] = []
        if checkpoint:
            unlogged = load_checkpoint(
                checkpoint, run.world, run.ema_world, run.optimizers, processes
            )
        bar.note(first(partial(describe_begin, run, progress, checkpoint)))
        first(config.write)
        if config.engine.compiles_on(run.world.device.type) and config.fraction(progress) < 1:
            bar.note("compiling the layers, about a minute (--engine.compile off: without)")
            if failure := compile_layers(run, progress):
                bar.note(failure)

        # All clocks below are of the run: what follows from them is the same in all processes.
        started = time.monotonic() - progress.seconds
        last_save = last_log = last_read = progress.seconds
        last_log_step = progress.step
        unread: list[torch.Tensor] = []
        frames = (config.optim.batch_size or 1) * config.model.window * run.world.patch_frames
        while True:
            now, stopping, is_written = processes.agree(
                time.monotonic() - started, stop.asked, run.writer.is_written
            )
            progress = progress._replace(seconds=now)
            step, fraction = progress.step, config.fraction(progress)
            last = (done := fraction >= 1) or stopping
            if is_written:
                checkpoint = run.writer.finish()

            # Log the mean of the losses since the last log.
            if unlogged and (step % config.run.log_steps == 0 or done):
                figures = summarize(unlogged)
                figures["frames_per_second"] = frames * (step - last_log_step) / (now - last_log)
                figures["waste"] = run.waste(progress)
                figures["lr"] = run.optimizers[0].param_groups[0]["lr"]
                peaks = processes.gather_objects(peak_memory(run.world.device))
                figures["peak_memory_mb"] = max(peaks)
                if log is not None:
                    log.log(figures, step)
                unlogged, last_log, last_log_step = [], now, step

            # Save, also before stopping.
            if last or now - last_save > 60 * config.run.save_minutes:
                read_losses(unread, step, checkpoint)  # a run that failed keeps the one before
                run.save(progress, unlogged, checkpoint)
                last_save = now
            if last:
                checkpoint = run.writer.finish()
                break

            # Evaluate at intervals; `started` is not moved, so that evaluations count as time.
            evals_due = int(fraction * (config.run.num_evals + 1))
            if evals_due > progress.evals:
                world = run.average_world()
                evaluate = partial(evaluate_on_the_way, run, world, log, bar, stop, step, started)
                progress = progress._replace(evals=first(partial(evaluate, evals_due)))
                last_log += time.monotonic() - started - now
                continue

            losses, loss_and_norm = run.take_step(progress)
            unlogged.append(losses)
            unread.append(loss_and_norm)
            progress = run.advance(progress)
            values: list[float] = []
            # Looking at a loss waits for the device: only before a log, and every second or so.
            if progress.step % config.run.log_steps == 0 or now - last_read >= READ_SECONDS:
                values, last_read = read_losses(unread, progress.step, checkpoint), now
            bar.show(config.fraction(progress), progress.step, values, frames)

        assert checkpoint is not None
        world = run.average_world()
        first(partial(evaluate_at_the_end, run, world, log, bar, stop, progress, checkpoint))
    # A longer run begins from a checkpoint with a card.
    finished = done and first(partial(has_card, checkpoint))
    ended: Literal["finished", "stopped"] = "finished" if finished else "stopped"
    return TrainResult(ended, checkpoint, progress)


def describe_begin(run: Run, progress: RunProgress, checkpoint: Path | None) -> str:
    """Lines on the model and its data, on processes, and on episodes that are left out.

    Raises:
        ValueError: If the recording is not the one that the run began with.
    """
    begins = f"from step {progress.step:,} on" if progress.step else "from the start"
    about = describe_run(run.world, run.data)
    optim = run.config.optim
    about += f"; batches of {optim.batch_size} windows, learning rate {optim.lr:g}"
    lines = [f"{run.config.out}, {begins}: {about}"]
    size, parts = run.processes.size, run.parts
    if size > 1:
        keeps = "a shard of the weights" if is_sharded(run.world) else "all weights"
        lines.append(f"{size} processes, each with {keeps}, share the {parts} parts of a step")
        if idle := -parts % size:
            lines[-1] += f"; in its last round {idle} have nothing to do"
    if checkpoint is not None:
        state = read_state(checkpoint)
        parts_before = state["settings"].get("engine", {}).get("accumulate") or 1
        if parts_before != parts:
            lines.append(
                f"a step had {parts_before} part{'s' * (parts_before > 1)} before and now has "
                f"{parts}: the run goes on with other random draws"
            )
        elif state.get("processes", 1) != size:
            lines.append(f"it ran on {state['processes']} before: losses go on, up to rounding")
    if new := run.data.num_new:
        lines.append(f"{new:,} episodes recorded since this run began are left out")
    return "\n".join(lines)
