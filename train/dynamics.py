"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from worldsim.interrupt import Interrupted, StopOnSignal
from worldsim.recording import Recording
from worldsim.split import Split

from .card import (
    Evaluation,
    describe_recording,
    describe_run,
    evaluate_run,
    has_card,
    summarize,
    write_card,
)
from .checkpoint import check_finite, load_checkpoint, save_checkpoint
from .config import TrainConfig, check
from .objective import Losses, encode, objective
from .presets import build_world, has_fast_bfloat16, make_optimizers
from .progress import TrainProgress, duration
from .run_folder import Progress, alone, find_checkpoint, read_progress, read_split
from .run_log import open_log

FEW_WINDOWS, MANY_WINDOWS = 16, 64  # of an evaluation
SHORT_RUN_SECONDS = 600.0  # whose last evaluation has few windows, not to take longer than it
LONGEST_EVALUATION = 0.1  # of --minutes, on the way


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        ended: Whether it finished, was stopped by a signal, or had been finished before.
        checkpoint: The last checkpoint, a world folder.
        progress: How far the run is.
    """

    ended: Literal["finished", "stopped", "finished before"]
    checkpoint: Path
    progress: Progress


def train(config: TrainConfig) -> Outcome:
    """Train a world.

    Args:
        config: The run.

    Returns:
        How it ended and its last checkpoint.

    Raises:
        ValueError: If the settings contradict one another or the recording does not serve.
        OSError: If a checkpoint cannot be written; the one before is kept.
        FloatingPointError: If the loss is no longer a number; the last checkpoint is kept.
        KeyboardInterrupt: On a second signal, at once.
    """
    check(config)
    checkpoint = find_checkpoint(config.out, config.resume)
    progress, settings = read_progress(checkpoint) if checkpoint else (Progress(), {})
    if checkpoint and config.fraction(progress) >= 1 and has_card(checkpoint):
        return Outcome("finished before", checkpoint, progress)

    # Data: whole episodes are held out, and those stay so for as long as the run goes on.
    recording = Recording(config.recording)
    split = read_split(checkpoint) if checkpoint else None
    if split is not None and settings.get("held_out", config.held_out) != config.held_out:
        raise ValueError(
            f"this run began with --held-out {settings['held_out']}, so it has been trained on "
            f"what --held-out {config.held_out} holds out: leave the option out, or begin a new run"
        )
    split = split or Split.of(recording, config.held_out)
    left_aside = split.num_new(recording)

    # Model, its average, optimizer.
    torch.manual_seed(config.seed)
    world = build_world(config, recording, split)
    ema_world = copy.deepcopy(world).requires_grad_(False).eval()
    optimizers = make_optimizers(world, config.weight_decay)
    bfloat16 = has_fast_bfloat16(world.device)

    def losses_of(step: int, fraction: float) -> Losses:
        """A step's losses; the seed and the number of the step decide its batch and its noise."""
        rng = np.random.default_rng((config.seed, step))
        windows = recording.sample_windows(
            rng,
            config.batch_size,
            config.num_frames + world.num_history,
            split.trained_on,
            left_padding=world.num_history,
            right_padding=config.num_frames - 1,  # so that ends are seen as often as all else
        )
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            return objective(
                world,
                encode(world, windows),
                config.recipe().at(fraction),
                torch.Generator().manual_seed(int(rng.integers(2**63))),
            )

    with (
        alone(config.out),
        StopOnSignal() as stop,
        TrainProgress(config.fraction(progress)) as bar,
        open_log(config, bar.note) as log,
    ):
        # Resume.
        unlogged: list[Losses] = []
        if checkpoint:
            unlogged = load_checkpoint(checkpoint, world, ema_world, optimizers)
        begins = f"from step {progress.step:,} on" if progress.step else "from the start"
        bar.note(f"{config.out}, {begins}: {describe_run(world, recording, split)}")
        if left_aside:
            bar.note(f"the {left_aside:,} episodes recorded since this run began are left aside")

        def evaluate(num_windows: int, until: float = math.inf) -> Evaluation:
            """Evaluate, unless asked to stop or the run comes to a part of it all."""

            def watch(part: float) -> None:
                show(part)
                stop.raise_if_asked()
                if config.fraction(Progress(step, time.monotonic() - started)) >= until:
                    raise Interrupted

            with bar.evaluating() as show:
                return evaluate_run(ema_world, recording, log, step, num_windows, watch)

        step, seconds, evals = progress
        started = time.monotonic() - seconds
        last_save = last_log = time.monotonic()
        last_log_step = step
        while True:
            now = time.monotonic()
            seconds = now - started
            fraction = config.fraction(Progress(step, seconds))
            done = fraction >= 1
            last = done or stop.asked

            if unlogged and (step % config.log_steps == 0 or done):
                figures = summarize(unlogged)
                trained = (step - last_log_step) * config.batch_size * config.num_frames
                figures["frames_per_second"] = trained / (now - last_log)
                figures["lr"] = optimizers[0].param_groups[0]["lr"]
                log.log(figures, step)
                unlogged, last_log, last_log_step = [], now, step

            if last or now - last_save > 60 * config.save_minutes:
                with torch.no_grad():  # weights that have gone bad replace no good ones
                    check_finite(losses_of(step, fraction).total(), step, checkpoint)
                checkpoint = save_checkpoint(
                    config.out,
                    Progress(step, seconds, evals),
                    config.settings(),
                    world,
                    ema_world,
                    optimizers,
                    unlogged,
                )
                last_save = now
            if last:
                break

            evals_due = int(fraction * (config.evals + 1))
            if evals_due > evals:
                try:
                    shown = evaluate(FEW_WINDOWS, until=fraction + LONGEST_EVALUATION)
                    bar.note(f"step {step:,}: {shown.summary()}")
                    evals = evals_due
                except Interrupted:
                    if not stop.asked:
                        evals = config.evals
                        bar.note(
                            f"step {step:,}: an evaluation takes over a tenth of --minutes, so "
                            "there is only the one at the end"
                        )
                last_log += time.monotonic() - now
                continue

            # ------------------------------------------------------------------ one step
            lr = config.lr_at(step, fraction)
            for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
                group["lr"] = lr
            losses = losses_of(step, fraction)
            loss = losses.total()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(world.parameters(), config.clip)
            check_finite(loss.detach() + norm, step, checkpoint)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            update_ema(ema_world, world, min(config.ema_decay, (1 + step) / (10 + step)))
            step += 1
            unlogged.append(Losses(*(part.detach() for part in losses)))
            # ---------------------------------------------------------------------------
            frames = config.batch_size * config.num_frames
            bar.show(config.fraction(Progress(step, seconds)), step, loss.item(), frames)

        assert checkpoint is not None
        with contextlib.suppress(Interrupted):
            stop.raise_if_asked()
            bar.note("the world is saved; evaluating it on held-out episodes (Ctrl-C leaves that)")
            shown = evaluate(FEW_WINDOWS if seconds < SHORT_RUN_SECONDS else MANY_WINDOWS)
            bar.note(shown.summary())
            facts = {
                "recording": describe_recording(recording),
                "command": f"`{config.command()}`",
                "length": f"{step:,} steps in {duration(seconds)} on {world.device.type}, "
                f"{torch.get_num_threads()} threads",
            }
            write_card(checkpoint, ema_world, shown, facts)
    ended: Literal["finished", "stopped"] = "finished" if has_card(checkpoint) else "stopped"
    return Outcome(ended, checkpoint, Progress(step, seconds, evals))


@torch.no_grad()
def update_ema(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's by ``1 - decay``."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
