"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.system.interrupt import Interrupted, StopOnSignal
from worldsim.world_model import WorldModel

from .card import describe_run, has_card, summarize
from .checkpoint import check_finite, load_checkpoint, read_losses, save_checkpoint
from .compiling import compile_layers
from .config import TrainConfig, check, resumed_config
from .draws import draw
from .evaluations import evaluate_at_the_end, evaluate_on_the_way
from .objective import Losses, encode, objective, pinned
from .optimizers import has_fast_bfloat16, make_optimizers, set_lr, update_ema
from .presets import begin_from, build_world, complete
from .progress import TrainProgress
from .read_ahead import ReadAhead
from .run_folder import RunProgress, alone, find_checkpoint, read_progress, read_split
from .run_log import open_log

READ_AHEAD = {"cuda": 2}  # steps; on a CPU reading is a five-hundredth of a step
READ_SECONDS = 1.0  # between two looks at the loss
CODE_SHARE_STEPS = 50  # between two looks at how many batches need chance codes
DRAWS_KEY = 1  # keeps the draws of a step apart from those of its windows

Mark = Callable[[str], None]
"""Is called at the end of each phase of a step, with its name."""


def no_mark(phase: str) -> None:
    """Do nothing at the end of a phase, so that a device works without a pause."""


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


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings, data, models and optimizers of a run.

    Attributes:
        config: The settings.
        recording: The data.
        split: The training episodes and the held-out ones.
        world: The weights in training.
        ema_world: Their average, which becomes the world.
        optimizers: All optimizers, in a fixed order.
        windows: The windows of each step, read ahead.
    """

    config: TrainConfig
    recording: Recording
    split: Split
    world: WorldModel
    ema_world: WorldModel
    optimizers: list[torch.optim.Optimizer]
    windows: ReadAhead[Windows]

    @classmethod
    def of(cls, config: TrainConfig, checkpoint: Path | None) -> Run:
        """Build a run: its data, a fresh model and its optimizers.

        Raises:
            ValueError: If the settings contradict the checkpoint or the recording is unusable.
        """
        recording = Recording(config.recording)
        config = complete(config, recording.game.frame_size)
        split = pick_split(config, recording, checkpoint)
        torch.manual_seed(config.seed)
        world = build_world(config, recording, split)
        if config.init is not None and checkpoint is None:
            begin_from(world, config.init)
        ema_world = copy.deepcopy(world).requires_grad_(False).eval()
        optimizers = make_optimizers(world, config.optim.weight_decay)
        device, k, parts = world.device.type, world.num_history, config.engine.accumulate
        part_size = (config.optim.batch_size or parts) // parts

        def windows_at(number: int) -> Windows:
            step, part = divmod(number, parts)
            windows = recording.sample_windows(
                np.random.default_rng((config.seed, step, 0, part)),
                part_size,
                config.model.window + k,
                split.trained_on,
                left_padding=k,
                right_padding=config.model.window - 1,  # so that ends are as frequent as others
            )
            return pinned(windows) if device == "cuda" else windows

        windows = ReadAhead(windows_at, READ_AHEAD.get(device, 0))
        return cls(config, recording, split, world, ema_world, optimizers, windows)

    def losses_at(self, progress: RunProgress, part: int = 0, mark: Mark = no_mark) -> Losses:
        """The losses of a part of a step: seed and numbers determine all that is random."""
        world, recipe = self.world, self.config.recipe.at(self.config.fraction(progress))
        batch = encode(world, self.windows.at(progress.step * self.config.engine.accumulate + part))
        key = (self.config.seed, progress.step, DRAWS_KEY, part)
        draws = draw(world, batch.latents, recipe, key, progress.code_share)
        mark("data")
        bfloat16 = has_fast_bfloat16(world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            return objective(world, batch, recipe, draws, self.ema_world)

    def take_step(self, progress: RunProgress, mark: Mark = no_mark) -> tuple[Losses, torch.Tensor]:
        """Train by one step, in which the host never waits for the device.

        Args:
            progress: The progress before it.
            mark: Called at the end of each phase with its name: data, forward, backward, optimizer.

        Returns:
            The losses of each target, and the loss with the norm of its gradient (2).
        """
        step, optim, parts = progress.step, self.config.optim, self.config.engine.accumulate
        set_lr(self.optimizers, optim.lr_at(step, self.config.fraction(progress)))
        done: list[Losses] = []
        loss = torch.zeros((), device=self.world.device)
        for part in range(parts):
            losses = self.losses_at(progress, part, mark)
            total = losses.total() / parts
            mark("forward")
            total.backward()
            mark("backward")
            loss += total.detach()
            done.append(Losses(*(each.detach() for each in losses)))
        norm = torch.nn.utils.clip_grad_norm_(self.world.parameters(), optim.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_ema(self.ema_world, self.world, min(optim.ema_decay, (1 + step) / (10 + step)))
        mark("optimizer")
        losses = Losses(*(torch.cat(parts) for parts in zip(*done, strict=True)))
        return losses, torch.stack((loss, norm))

    def advance(self, progress: RunProgress) -> RunProgress:
        """The progress after one more step; now and then it looks how many batches need codes."""
        progress = progress._replace(step=progress.step + 1)
        chance = self.world.dit.chance
        if chance is None or progress.step % CODE_SHARE_STEPS:
            return progress
        return progress._replace(code_share=chance.needed())

    def save(self, progress: RunProgress, unlogged: list[Losses], older: Path | None) -> Path:
        """Write a checkpoint if the loss is finite, since it replaces a good one.

        Raises:
            FloatingPointError: If the loss is not finite; the older checkpoint is kept.
            OSError: If it cannot be written.
        """
        with torch.no_grad():
            losses = self.losses_at(progress)
        check_finite(losses.total().item(), progress.step, older)
        return save_checkpoint(
            self.config.out,
            progress,
            self.config.settings(),
            self.world,
            self.ema_world,
            self.optimizers,
            unlogged,
        )


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
        KeyboardInterrupt: On a second signal, at once.
    """
    # Find out how far the run is, before anything slow is built.
    check(config)
    checkpoint = find_checkpoint(config.out, config.resume)
    progress, _ = read_progress(checkpoint) if checkpoint else (RunProgress(), {})
    if checkpoint and config.fraction(progress) >= 1 and has_card(checkpoint):
        return TrainResult("finished before", checkpoint, progress)
    run = Run.of(config, checkpoint)
    config = run.config

    with (
        alone(config.out),
        run.windows,
        StopOnSignal() as stop,
        TrainProgress(config.fraction(progress)) as bar,
        open_log(config, bar.note) as log,
    ):
        # Resume. Settings that do not fit the checkpoint or the recording replace none on disk.
        unlogged: list[Losses] = []
        if checkpoint:
            unlogged = load_checkpoint(checkpoint, run.world, run.ema_world, run.optimizers)
        bar.note(describe_begin(run, progress))
        config.write()
        if config.engine.compiles_on(run.world.device.type) and config.fraction(progress) < 1:
            bar.note("compiling the layers, about a minute (--engine.compile off: without)")
            if failure := compile_layers(run, progress):
                bar.note(failure)

        started = time.monotonic() - progress.seconds
        last_save = last_log = last_read = time.monotonic()
        last_log_step = progress.step
        unread: list[torch.Tensor] = []
        frames = (config.optim.batch_size or 1) * config.model.window
        while True:
            now = time.monotonic()
            progress = progress._replace(seconds=now - started)
            step, fraction = progress.step, config.fraction(progress)
            last = (done := fraction >= 1) or stop.asked

            # Log the mean of the losses since the last log.
            if unlogged and (step % config.run.log_steps == 0 or done):
                figures = summarize(unlogged)
                figures["frames_per_second"] = frames * (step - last_log_step) / (now - last_log)
                figures["lr"] = run.optimizers[0].param_groups[0]["lr"]
                log.log(figures, step)
                unlogged, last_log, last_log_step = [], now, step

            # Save, also before stopping.
            if last or now - last_save > 60 * config.run.save_minutes:
                read_losses(unread, step, checkpoint)  # a run that failed keeps the one before
                checkpoint = run.save(progress, unlogged, checkpoint)
                last_save = now
            if last:
                break

            # Evaluate at intervals; `started` is not moved, so that evaluations count as time.
            evals_due = int(fraction * (config.run.num_evals + 1))
            if evals_due > progress.evals:
                evals = evaluate_on_the_way(run, log, bar, stop, step, started, evals_due)
                progress = progress._replace(evals=evals)
                last_log += time.monotonic() - now
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
        with contextlib.suppress(Interrupted):
            stop.raise_if_asked()
            evaluate_at_the_end(run, log, bar, stop, progress, checkpoint)
    finished = done and has_card(checkpoint)  # a longer run begins from a checkpoint with a card
    ended: Literal["finished", "stopped"] = "finished" if finished else "stopped"
    return TrainResult(ended, checkpoint, progress)


def pick_split(config: TrainConfig, recording: Recording, checkpoint: Path | None) -> Split:
    """Choose the held-out episodes, which stay the same in a resumed run.

    Raises:
        ValueError: If a resumed run requests another fraction than it began with.
    """
    held_out = config.run.held_out
    if checkpoint is None:
        return Split.of(recording, held_out)
    begun = resumed_config(config, read_progress(checkpoint)[1]).run.held_out
    split = read_split(checkpoint)
    if split is not None and held_out != begun:
        raise ValueError(
            f"this run began with --run.held-out {begun}, and {held_out} would measure it on "
            "trained episodes: leave the option out, or start a new run"
        )
    return split or Split.of(recording, held_out)


def describe_begin(run: Run, progress: RunProgress) -> str:
    """A line with the model and its data, and one with the episodes that are left out.

    Raises:
        ValueError: If the recording is not the one that the run began with.
    """
    begins = f"from step {progress.step:,} on" if progress.step else "from the start"
    about = describe_run(run.world, run.recording, run.split)
    optim = run.config.optim
    about += f"; batches of {optim.batch_size} windows, learning rate {optim.lr:g}"
    new = run.split.num_new(run.recording)
    left_out = f"\n{new:,} episodes recorded since this run began are left out" if new else ""
    return f"{run.config.out}, {begins}: {about}{left_out}"
