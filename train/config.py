"""`worldsim train`: its settings, and what is said of them before anything slow is imported."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldsim.files import naming_damage
from worldsim.options import (
    Count,
    Fraction,
    Minutes,
    NotNegative,
    Number,
    OutFolder,
    Part,
    Passes,
    Positive,
    Range,
    Seed,
    check_options,
    parse,
    with_values,
)
from worldsim.recording_metadata import read_metadata

from .progress import duration
from .recipe import Recipe
from .run_folder import Progress, find_checkpoint, read_progress
from .run_log import Logger, check_log
from .wandb_log import WandbMode


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a world on a recording; it can be played, stepped and evaluated at any time."""

    recording: tyro.conf.Positional[Path]
    """Folder written by `worldsim record`."""
    out: OutFolder
    """Folder of the run: checkpoints, figures, videos."""
    minutes: Minutes | None = None
    """How long to train, in minutes of wall clock; 30 if neither this nor --steps is given. What
    is evaluated on the way is part of it, the evaluation at the end comes after it."""
    steps: Count | None = None
    """How long to train, in optimizer steps; alternative to --minutes."""
    size: Literal["tiny", "small", "base"] = "tiny"
    """Size of the model: tiny for a CPU, small and base for a GPU."""
    resume: bool = False
    """Go on from the newest checkpoint in --out."""
    seed: Seed = 0
    """Seed of the weights, of the order of the data and of all noise."""
    log: tuple[Logger, ...] = ("wandb",)
    """Where figures and videos go beside metrics.jsonl: wandb, tensorboard, both, or neither."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    wandb_project: str | None = None
    """Where wandb files the run; WANDB_PROJECT, or worldsim, if not given."""
    wandb_entity: str | None = None
    """User or team that the run belongs to; WANDB_ENTITY if not given."""
    wandb_tags: tuple[str, ...] = ()
    """Words to find the run by; WANDB_TAGS if not given."""
    device: str | None = None
    """Where to train, such as cuda or cpu; a GPU if there is one."""

    batch_size: Count = 4
    """Windows in a step."""
    num_frames: Count = 12
    """Frames of a window that are learned; also how far the world's attention reaches back."""
    patch_size: Annotated[int, Range(1, 256)] = 8
    """Side of a patch in pixels: smaller is sharper and slower."""
    time_every: Annotated[int, Range(1, 12)] = 3
    """Attention over time in every so many layers: 2 is slower, better where pictures scroll."""
    passes: Passes = 2
    """Denoising passes of a frame in play, where no other number is asked for."""
    lr: Positive = 4e-3
    """Peak learning rate."""
    warmup_steps: Number = 100
    """Steps until the learning rate has its peak."""
    decay_fraction: Fraction = 0.4
    """Last part of the run, in which the learning rate falls to 0."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of the matrices."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    ema_decay: Fraction = 0.998
    """Decay of the averaged weights, which are the world that is kept."""
    moving_weight: NotNegative = 10.0
    """Extra weight in the loss of pixels where something moves."""
    presence: Fraction = 0.6
    """How much of that weight lies where something is, the rest on all places it may reach."""
    final_presence: Fraction | None = None
    """What --presence falls to while the learning rate falls: less if things multiply in long
    play (0.15 is low), more if they fade; as it was unless given."""
    clean_fraction: Fraction = 0.25
    """Fraction of frames trained at the clean level, as those that a session begins from."""
    noise_fraction: Fraction = 0.35
    """Fraction of frames trained from pure noise, as every frame in play begins."""
    history_noise: NotNegative = 0.1
    """Largest noise on the frames given as history, so that small errors do not grow."""
    own_history: Fraction = 0.5
    """Fraction of windows whose history is made by the model itself, so that it mends its errors
    instead of drifting: none in the first third of the run, all of it from the second on."""
    damaged_history: Fraction = 0.0
    """Fraction of windows in whose history a moving thing is missing or does not belong, so that a
    world finds again what it has lost and drops what it has drawn twice; from when on as above."""
    action_dropout: Fraction = 0.1
    """Fraction of actions hidden."""
    held_out: Part = 0.1
    """Fraction of the recording, in whole episodes, kept for evaluation."""
    save_minutes: Annotated[float, Range(0, 525_600)] = 5.0
    """Minutes between checkpoints."""
    log_steps: Count = 50
    """Steps between logged figures, which are their mean."""
    evals: Number = 3
    """Evaluations during the run, evenly spaced, beside the one at its end; none after one that
    takes over a tenth of --minutes."""

    def command(self) -> str:
        """The command that makes this run: what differs from the defaults."""
        words = ["worldsim", "train", str(self.recording)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and field.name != "resume":
                several = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, several)]
        return shlex.join(words)

    def settings(self) -> dict[str, Any]:
        """The run as JSON values."""
        values = dataclasses.asdict(self)
        return {**values, "recording": str(self.recording), "out": str(self.out)}

    def lr_at(self, step: int, fraction: float) -> float:
        """The learning rate: a linear warm-up, then flat, then linearly to 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * warmup * self._decay(fraction)

    def recipe(self) -> Recipe:
        """How windows become training examples."""
        end = self.presence if self.final_presence is None else self.final_presence
        return Recipe(
            moving_weight=self.moving_weight,
            object_focus=(self.presence, end),
            tau_mixture=(self.clean_fraction, self.noise_fraction),
            history_noise=self.history_noise,
            self_rollout=self.own_history,
            corrupt_history=self.damaged_history,
            action_dropout=self.action_dropout,
        )

    def _decay(self, fraction: float) -> float:
        """1, then linearly to 0 over the last part of the run."""
        if not self.decay_fraction:
            return 1.0
        return min(1.0, max(0.0, 1 - fraction) / self.decay_fraction)

    def fraction(self, progress: Progress) -> float:
        """How much of the run is done."""
        if self.steps is not None:
            return progress.step / self.steps
        return progress.seconds / (60 * (self.minutes or 30.0))


def check(config: TrainConfig) -> None:
    """Refuse settings that make no sense, in one sentence."""
    check_options(config)
    check_log(config.log)
    if config.steps is not None and config.minutes is not None:
        raise ValueError(
            f"give --steps or --minutes, not both (got {config.steps} and {config.minutes})"
        )
    if config.clean_fraction + config.noise_fraction > 1:
        raise ValueError(
            "--clean-fraction and --noise-fraction are parts of the same frames and add up to 1 at "
            f"most, got {config.clean_fraction} and {config.noise_fraction}"
        )


def resumed_config(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings that a run began with, without its length if a new one is given.

    Raises:
        ValueError: If one of them is no value of its option.
    """
    remedy = "delete its newest checkpoint and resume from the one before it"
    with naming_damage(f"training.json of the run in {config.out}", remedy):
        begun = with_values(config, settings, keep=("recording", "out", "resume"))
    if config.steps is not None or config.minutes is not None:
        begun = dataclasses.replace(begun, steps=None, minutes=None)
    return begun


def main(argv: Sequence[str]) -> int:
    """Run `worldsim train`.

    A resumed run has the settings that it began with, save those that are given again.

    Args:
        argv: Arguments after ``worldsim train``.

    Returns:
        Exit status: 0 when the world is trained, 1 when the loss was no number any more, 130 when
        the run was stopped.
    """
    config = parse(TrainConfig, argv, "worldsim train")
    checkpoint = find_checkpoint(config.out, config.resume)
    if checkpoint is not None:
        begun = resumed_config(config, read_progress(checkpoint)[1])
        config = parse(TrainConfig, argv, "worldsim train", begun)
    check(config)
    read_metadata(config.recording)
    from .dynamics import train  # torch takes seconds

    try:
        ended, checkpoint, progress = train(config)
    except FloatingPointError as error:
        print(f"worldsim: {error}", file=sys.stderr)
        return 1
    out, length = shlex.quote(str(config.out)), f"{progress.step:,} steps"
    if ended == "stopped":
        again = shlex.join(["worldsim", "train", str(config.recording), "--out", str(config.out)])
        todo = "evaluate it" if config.fraction(progress) >= 1 else "continue"
        print(f"stopped after {length}: {checkpoint} keeps them; to {todo}: {again} --resume")
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
