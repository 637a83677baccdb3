"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange

from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.eval.speed import peak_memory
from worldsim.system.interrupt import StopOnSignal
from worldsim.world_model import WorldModel

from .card import describe_run, has_card, summarize
from .checkpoint import CheckpointWriter, check_finite, load_checkpoint, read_losses
from .compiling import compile_layers
from .config import TrainConfig, check, resumed_config
from .distributed import distribute, part_of_step, sharing_group
from .draws import draw
from .evaluations import evaluate_at_the_end, evaluate_on_the_way
from .objective import Losses, encode, pinned
from .optimizers import has_fast_bfloat16, make_optimizers, set_lr, update_ema
from .presets import begin_from, build_world, complete
from .processes import Processes
from .progress import TrainProgress
from .read_ahead import ReadAhead
from .run_folder import RunProgress, alone, find_checkpoint, read_progress, read_split
from .run_log import open_log
from .shards import gather_weights, is_sharded, whole

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
        windows: The windows of each round of this process, read ahead.
        processes: The processes of the run.
        step: The objective of the world in training, on these processes.
        writer: Writes checkpoints.
    """

    config: TrainConfig
    recording: Recording
    split: Split
    world: WorldModel
    ema_world: WorldModel
    optimizers: list[torch.optim.Optimizer]
    windows: ReadAhead[Windows]
    processes: Processes
    step: torch.nn.Module
    writer: CheckpointWriter

    @classmethod
    def of(
        cls, config: TrainConfig, checkpoint: Path | None, processes: Processes | None = None
    ) -> Run:
        """Build a run: its data, a fresh model and its optimizers.

        Args:
            config: The settings.
            checkpoint: From which it will go on; None for a new run.
            processes: Its processes; this one alone if not given.

        Raises:
            ValueError: If the settings contradict the checkpoint or the recording is unusable.
        """
        processes = processes or Processes(config.device)
        recording = Recording(config.recording)
        config = complete(config, recording.game.frame_size, processes.size)
        split = processes.first(lambda: pick_split(config, recording, checkpoint))
        torch.manual_seed(config.seed)
        world = build_world(config, recording, split, processes)
        if config.init is not None and checkpoint is None:
            begin_from(world, config.init)
        ema_world = copy.deepcopy(world).requires_grad_(False).eval()
        whole = copy.deepcopy(ema_world) if processes.is_first else None
        step = distribute(world, ema_world, config.engine.parallel, processes)
        optimizers = make_optimizers(world, config.optim.weight_decay, sharing_group(step))
        device, k, parts = world.device.type, world.num_history, config.engine.accumulate or 1
        part_size = (config.optim.batch_size or parts) // parts
        rounds = -(-parts // processes.size)

        def windows_at(number: int) -> Windows:
            step, round_ = divmod(number, rounds)
            part, _ = processes.part(round_, parts)
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
        writer = CheckpointWriter(config.out, world, ema_world, optimizers, whole, processes)
        return cls(
            config, recording, split, world, ema_world, optimizers, windows, processes, step, writer
        )

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return self.config.engine.accumulate or 1

    @property
    def rounds(self) -> int:
        """Parts of a step that each process computes in turn."""
        return -(-self.parts // self.processes.size)

    def losses_at(self, progress: RunProgress, round_: int = 0, mark: Mark = no_mark) -> Losses:
        """The losses of a part of a step: seed and numbers determine all that is random.

        Args:
            progress: The progress before the step.
            round_: Number of the round in which this process computes the part.
            mark: As for `take_step`.
        """
        world, recipe = self.world, self.config.recipe.at(self.config.fraction(progress))
        batch = encode(world, self.windows.at(progress.step * self.rounds + round_))
        part, _ = self.processes.part(round_, self.parts)
        key = (self.config.seed, progress.step, DRAWS_KEY)
        draws = draw(world, batch.latents, recipe, key, part, progress.code_share)
        mark("data")
        bfloat16 = has_fast_bfloat16(world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            losses: Losses = self.step(batch, recipe, draws, self.ema_world)
        return losses

    def take_step(self, progress: RunProgress, mark: Mark = no_mark) -> tuple[Losses, torch.Tensor]:
        """Train by one step, in which the host never waits for the device of one process.

        Args:
            progress: The progress before it.
            mark: Called at the end of each phase with its name: data, forward, backward, optimizer.

        Returns:
            The losses of each target of all parts, and the loss with the norm of its gradient (2).
        """
        step, optim, parts = progress.step, self.config.optim, self.parts
        set_lr(self.optimizers, optim.lr_at(step, self.config.fraction(progress)))
        done: list[torch.Tensor] = []
        # Each part begins with the same running statistics, of which the mean is kept.
        chance = self.world.dit.chance
        statistics = [torch.zeros((), device=self.world.device)]
        statistics += [] if chance is None else list(chance.buffers())
        begun, means = ([each * factor for each in statistics] for factor in (1, 0))
        for round_ in range(self.rounds):
            _, counts = self.processes.part(round_, parts)
            torch._foreach_copy_(statistics, begun)
            with part_of_step(self.step, round_ == self.rounds - 1):
                losses = self.losses_at(progress, round_, mark)
                total = losses.total() * counts / parts
                mark("forward")
                (total * self.processes.size).backward()  # the gradient becomes a mean
            mark("backward")
            statistics[0].copy_(total.detach() * parts)
            torch._foreach_add_(means, statistics, alpha=counts / parts)
            done.append(torch.stack([each.detach().float() for each in losses]))
        self.processes.sum_(means)
        torch._foreach_copy_(statistics, means)
        norm = torch.nn.utils.clip_grad_norm_(self.world.parameters(), optim.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_ema(self.ema_world, self.world, min(optim.ema_decay, (1 + step) / (10 + step)))
        mark("optimizer")
        everyone = self.processes.gather(torch.stack(done))
        fields = rearrange(everyone, "size round field b t -> field (round size) b t")[:, :parts]
        losses = Losses(*rearrange(fields, "field part b t -> field (part b) t"))
        return losses, torch.stack((statistics[0], whole(norm)))

    def advance(self, progress: RunProgress) -> RunProgress:
        """The progress after one more step; now and then it looks how many batches need codes."""
        progress = progress._replace(step=progress.step + 1)
        chance = self.world.dit.chance
        if chance is None or progress.step % CODE_SHARE_STEPS:
            return progress
        return progress._replace(code_share=chance.needed())

    def save(self, progress: RunProgress, unlogged: list[Losses], older: Path | None) -> None:
        """Begin to write a checkpoint if the loss is finite, since it replaces a good one.

        Raises:
            FloatingPointError: If the loss is not finite; the older checkpoint is kept.
            OSError: If the checkpoint before could not be written.
        """
        with torch.no_grad():
            total = self.losses_at(progress).total()
        self.processes.sum_([total])
        check_finite(total.item(), progress.step, older)
        self.writer.begin(progress, self.config.settings(), unlogged)

    def average_world(self) -> WorldModel:
        """The world of averaged weights, which is not sharded in the first process."""
        if not is_sharded(self.ema_world):
            return self.ema_world
        world = copy.deepcopy(self.writer.whole)
        if world is not None:
            world.to(self.world.device)
        gather_weights(self.ema_world, world)
        return world or self.ema_world


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
    check(config)
    with Processes(config.device) as processes:
        return train_on(processes, config)


def train_on(processes: Processes, config: TrainConfig) -> TrainResult:
    """Train a world, see `train`: all processes of the run do the same.

    The first one also writes logs, worlds and the terminal, and evaluates while the others wait.
    """
    # Find out how far the run is, before anything slow is built.
    first = processes.first
    checkpoint = first(lambda: find_checkpoint(config.out, config.resume))
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
        for context in (run.windows, run.writer, bar):
            stack.enter_context(context)
        log = stack.enter_context(open_log(config, bar.note)) if processes.is_first else None

        # Resume. Settings that do not fit the checkpoint or the recording replace none on disk.
        unlogged: list[Losses] = []
        if checkpoint:
            unlogged = load_checkpoint(
                checkpoint, run.world, run.ema_world, run.optimizers, processes
            )
        bar.note(first(lambda: describe_begin(run, progress)))
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
        frames = (config.optim.batch_size or 1) * config.model.window
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
