"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from worldsim.flow import ramp_weight
from worldsim.recording import Recording
from worldsim.world_model import Losses

from .card import (
    describe_recording,
    describe_run,
    evaluate_run,
    has_card,
    summarize,
    write_card,
)
from .checkpoint import (
    Progress,
    alone,
    check_finite,
    find_checkpoint,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from .interrupt import Interrupted, StopOnSignal
from .presets import build_world, has_fast_bfloat16, learning_rate_factor, make_optimizers
from .progress import TrainProgress, duration
from .run_log import RunLog, WandbMode


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a world on a recording; it can be played, stepped and evaluated at any time."""

    recording: tyro.conf.Positional[Path]
    """Folder written by `worldsim record`."""
    out: Path
    """Folder of the run: checkpoints, figures, videos."""
    minutes: float | None = None
    """How long to train, in minutes of wall clock; 30 if neither this nor --steps is given."""
    steps: int | None = None
    """How long to train, in optimizer steps; alternative to --minutes."""
    size: Literal["tiny", "small", "base"] = "tiny"
    """Size of the model: tiny for a CPU, small and base for a GPU."""
    resume: bool = False
    """Go on from the newest checkpoint in --out."""
    seed: int = 0
    """Seed of the weights, of the order of the data and of all noise."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    device: str | None = None
    """Where to train, such as cuda or cpu; a GPU if there is one."""

    batch_size: int = 4
    """Windows in a step."""
    num_frames: int = 12
    """Frames of a window that are learned; also how far the world's attention reaches back."""
    patch_size: int = 8
    """Side of a patch in pixels: smaller is sharper and slower."""
    time_every: int = 3
    """Attention over time in every so many layers: 2 is slower, better where pictures scroll."""
    lr: float = 4e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps until the learning rate has its peak."""
    decay_fraction: float = 0.4
    """Last part of the run, in which the learning rate falls to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are the world that is kept."""
    moving_weight: float = 10.0
    """Extra weight in the loss of pixels where something moves."""
    presence: float = 0.6
    """How much of that weight lies where something is, the rest on all places it may reach: less
    if things multiply in long play, more if they fade."""
    clean_fraction: float = 0.25
    """Fraction of frames trained at the clean level, as those that a session begins from."""
    noise_fraction: float = 0.35
    """Fraction of frames trained from pure noise, as every frame in play begins."""
    history_noise: float = 0.1
    """Largest noise on the frames given as history, so that small errors do not grow."""
    own_history: float = 0.5
    """Fraction of windows whose history is made by the model itself, so that it mends its errors
    instead of drifting: none in the first third of the run, all of it from the second on."""
    action_dropout: float = 0.1
    """Fraction of actions hidden."""
    held_out: float = 0.1
    """Fraction of the recording, in whole episodes, kept for evaluation."""
    save_minutes: float = 5.0
    """Minutes between checkpoints."""
    log_steps: int = 50
    """Steps between logged figures, which are their mean."""
    evals: int = 3
    """Evaluations during the run, evenly spaced, beside the one at its end."""

    def command(self) -> str:
        """The command that makes this run: what differs from the defaults."""
        words = ["worldsim", "train", str(self.recording)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and field.name != "resume":
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def settings(self) -> dict[str, Any]:
        """The run as JSON values."""
        values = dataclasses.asdict(self)
        return {**values, "recording": str(self.recording), "out": str(self.out)}

    def fraction(self, progress: Progress) -> float:
        """How much of the run is done."""
        if self.steps is not None:
            return progress.step / self.steps
        return progress.seconds / (60 * (self.minutes or 30.0))


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
    progress = read_progress(checkpoint)[0] if checkpoint else Progress()
    if checkpoint and config.fraction(progress) >= 1 and has_card(checkpoint):
        return Outcome("finished before", checkpoint, progress)

    # Data: whole episodes are held out.
    recording = Recording(config.recording)
    train_episodes, held_out_episodes = recording.split(config.held_out)

    # Model, its average, optimizer.
    torch.manual_seed(config.seed)
    world = build_world(
        config.size,
        recording,
        held_out_episodes,
        patch_size=config.patch_size,
        time_every=config.time_every,
        window=config.num_frames,
        device=config.device,
        seed=config.seed,
    )
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
            train_episodes,
            left_padding=world.num_history,
        )
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            return world.losses(
                windows,
                torch.Generator().manual_seed(int(rng.integers(2**63))),
                moving_weight=config.moving_weight,
                presence=config.presence,
                clean_fraction=config.clean_fraction,
                noise_fraction=config.noise_fraction,
                history_noise=config.history_noise,
                own_history=config.own_history * min(1.0, max(0.0, 3 * fraction - 1)),
                action_dropout=config.action_dropout,
            )

    def weigh(losses: Losses) -> torch.Tensor:
        return losses.mean(losses.frame * ramp_weight(losses.tau) + 0.1 * losses.head)

    with (
        alone(config.out),
        StopOnSignal() as stop,
        TrainProgress(config.fraction(progress)) as bar,
        RunLog(
            config.out, config.settings(), config.wandb, config.out.resolve().name, note=bar.note
        ) as log,
    ):
        # Resume.
        unlogged: list[Losses] = []
        if checkpoint:
            unlogged = load_checkpoint(checkpoint, world, ema_world, optimizers)
        begins = f"from step {progress.step:,} on" if progress.step else "from the start"
        bar.note(f"{config.out}, {begins}: {describe_run(world, recording, held_out_episodes)}")

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
                    check_finite(weigh(losses_of(step, fraction)), step, checkpoint)
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
                with contextlib.suppress(Interrupted):
                    shown = evaluate_run(
                        ema_world, recording, held_out_episodes, log, step, 16, stop.raise_if_asked
                    )
                    bar.note(f"step {step:,}: {shown.summary()}")
                    evals = evals_due
                last_log += time.monotonic() - now
                continue

            # ------------------------------------------------------------------ one step
            lr = config.lr * learning_rate_factor(
                fraction, step, config.warmup_steps, config.decay_fraction
            )
            for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
                group["lr"] = lr
            losses = losses_of(step, fraction)
            loss = weigh(losses)
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
            bar.note("evaluating the finished world on held-out episodes")
            shown = evaluate_run(
                ema_world, recording, held_out_episodes, log, step, 64, stop.raise_if_asked
            )
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


def check(config: TrainConfig) -> None:
    """Refuse settings that make no sense, in one sentence."""
    if config.steps is not None and config.minutes is not None:
        raise ValueError(
            f"give --steps or --minutes, not both (got {config.steps} and {config.minutes})"
        )
    positive = "steps minutes batch_size num_frames patch_size time_every lr clip log_steps"
    not_negative = "seed warmup_steps weight_decay moving_weight history_noise save_minutes evals"
    fractions = (
        "decay_fraction ema_decay presence clean_fraction noise_fraction own_history action_dropout"
    )
    for names, rule, holds in (
        (positive, "above 0", lambda value: 0 < value < math.inf),
        (not_negative, "0 or more", lambda value: 0 <= value < math.inf),
        (fractions, "between 0 and 1", lambda value: 0 <= value <= 1),
    ):
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not holds(value):
                raise ValueError(f"--{name.replace('_', '-')} must be {rule}, got {value}")
    if config.clean_fraction + config.noise_fraction > 1:
        raise ValueError(
            "--clean-fraction and --noise-fraction are parts of the same frames and add up to 1 at "
            f"most, got {config.clean_fraction} and {config.noise_fraction}"
        )


@torch.no_grad()
def update_ema(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's by ``1 - decay``."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def main(argv: Sequence[str]) -> int:
    """Run `worldsim train`.

    A resumed run has the settings that it began with, save those that are given again.

    Args:
        argv: Arguments after ``worldsim train``.

    Returns:
        Exit status: 0 when the world is trained, 1 when the loss was no number any more, 130 when
        the run was stopped.
    """
    config = tyro.cli(TrainConfig, args=argv, prog="worldsim train")
    if config.resume and (checkpoint := find_checkpoint(config.out, True)):
        begun = resumed_config(config, read_progress(checkpoint)[1])
        config = tyro.cli(TrainConfig, args=argv, prog="worldsim train", default=begun)
    try:
        ended, checkpoint, progress = train(config)
    except FloatingPointError as error:
        print(f"worldsim: {error}", file=sys.stderr)
        return 1
    out, length = shlex.quote(str(config.out)), f"{progress.step:,} steps"
    if ended == "stopped":
        again = shlex.join(["worldsim", "train", str(config.recording), "--out", str(config.out)])
        print(f"stopped after {length}: {checkpoint} keeps them; to continue: {again} --resume")
        return 130
    if ended == "finished before":
        print(
            f"this run was finished already, after {length}: {checkpoint}; "
            f"next: worldsim play {out}, or give more --steps or --minutes to train on"
        )
        return 0
    print(
        f"trained {length} in {duration(progress.seconds)}: {checkpoint}; next: worldsim play {out}"
    )
    return 0


def resumed_config(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings that a run began with, without its length if a new one is given."""
    names = {field.name for field in dataclasses.fields(config)} - {"recording", "out", "resume"}
    begun = {name: value for name, value in settings.items() if name in names}
    if config.steps is not None or config.minutes is not None:
        begun |= {"steps": None, "minutes": None}
    return dataclasses.replace(config, **begun)
