"""`worldsim train`: its settings, which are checked before anything slow is imported."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro

from worldsim.data.mixture import check_shares
from worldsim.data.opening import read_games
from worldsim.system.command_line import parse
from worldsim.system.files import naming_damage, write_text
from worldsim.system.location import Location
from worldsim.system.options import (
    Advanced,
    Count,
    Heading,
    InFile,
    Minutes,
    Number,
    OutFolder,
    Part,
    Passes,
    Range,
    Rule,
    Seed,
    check_options,
)
from worldsim.system.settings import (
    command_words,
    current_names,
    read_settings,
    settings_text,
    values_of,
    with_values,
)

from .engine import Engine
from .optim import Optim
from .progress import duration
from .recipe import Recipe
from .run_folder import RunProgress, find_checkpoint, read_progress
from .run_log import Logging, check_log

Share = Annotated[float, Range(0, 1, above=True)]
PatchSize = Annotated[
    tuple[Annotated[int, Range(1, 256)], ...],
    Rule("a side, or a height and a width", lambda sides: len(sides) in (1, 2)),
]
Size = Literal["tiny", "small", "base", "large", "xl"]
PROG = "worldsim train"
SETTINGS_FILE = "config.toml"
NO_TEXT, VOCABULARY = "none", "vocabulary"  # other values of --model.text name an encoder
PIXELS = "pixels"  # other values of --codec name an autoencoder
PLACES = ("recordings", "out", "resume", "config")  # of one run only, so not in a settings file
RENAMED = MappingProxyType(
    {
        "num_frames": "model.window",
        "patch_size": "model.patch_size",
        "time_every": "model.time_every",
        "passes": "model.passes",
        "batch_size": "optim.batch_size",
        "lr": "optim.lr",
        "warmup_steps": "optim.warmup_steps",
        "decay_fraction": "optim.decay_fraction",
        "weight_decay": "optim.weight_decay",
        "clip": "optim.max_grad_norm",
        "ema_decay": "optim.ema_decay",
        "moving_weight": "recipe.moving_weight",
        "presence": "recipe.object_focus",
        "final_presence": "recipe.object_focus",
        "clean_fraction": "recipe.tau_mixture",
        "noise_fraction": "recipe.tau_mixture",
        "history_noise": "recipe.history_noise",
        "own_history": "recipe.self_rollout",
        "damaged_history": "recipe.corrupt_history",
        "action_dropout": "recipe.action_dropout",
        "held_out": "run.held_out",
        "save_minutes": "run.save_minutes",
        "log_steps": "run.log_steps",
        "evals": "run.num_evals",
    }
)
"""Old names of options -> current names, on the command line, in files and in checkpoints.

Two old names with one new name are its two values in turn.
"""


@dataclass(frozen=True)
class Model:
    """The shape of the network, and its denoising passes."""

    window: Count = 12
    """Frames of a training window, and of the world's memory; the current frame included."""
    patch_size: PatchSize | None = None
    """Side of a patch, or its height and width: smaller is sharper and slower. It counts pixels, or
    cells of the latents with --codec. Not given: 8 pixels, or as many cells as span 16 pixels."""
    time_every: Annotated[int, Range(1, 12)] = 3
    """One layer in so many attends over time: 2 is slower, and better if the view scrolls."""
    attention: tuple[str, ...] = ()
    """Attention of the layers, in turn, instead of --model.time-every: space, time, full, local or
    strided, or space with one of them, such as: space space+local:near=8,reach=2."""
    patch_frames: Annotated[int, Range(1, 16)] = 1
    """Frames of a patch, predicted together: with 2, half of the tokens and of the steps. A step of
    play then has 2 frames; a window has --model.window patches."""
    chance_bits: Annotated[int, Range(0, 12)] = 0
    """Bits of the code that selects one of several possible next frames. With 0 (none), what the
    game draws at random is blurred; 6 suit a game that draws lots, and hours of training."""
    text: str = NO_TEXT
    """Text that the world follows, from the recording's captions: none; vocabulary, words that are
    learned with the world; or a frozen T5 or CLIP encoder (folder, or id on the Hub)."""
    passes: Passes = 2
    """Denoising passes per frame, unless `play --passes` gives another number."""

    def patch_sides(self, space_factor: int = 1) -> tuple[int, int]:
        """Height and width of a patch, in cells of so many pixels along each side."""
        usual = 8 if space_factor == 1 else max(1, 16 // space_factor)
        sides = self.patch_size or (usual,)
        return sides[0], sides[-1]


@dataclass(frozen=True)
class RunOptions:
    """Held-out share, checkpoints, logs and evaluations."""

    held_out: Part = 0.1
    """Fraction of the recording, in whole episodes, kept for evaluation."""
    save_minutes: Annotated[float, Range(0, 525_600)] = 5.0
    """Minutes between checkpoints."""
    log_steps: Count = 50
    """Steps between logged figures, which are their mean."""
    num_evals: Number = 3
    """Evaluations during the run, evenly spaced, in addition to the one at its end. With
    --minutes they stop after one that takes over a tenth of the run."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a world on recordings. Play it, step it or evaluate it at any time.

    A run writes its settings to config.toml in --out. Given to --config, they repeat the run.

    Examples:
        worldsim train recordings/pong --out runs/pong --minutes 30
        worldsim train recordings/pong --out runs/pong --resume --minutes 60
        worldsim train recordings/pong --out runs/again --config runs/pong/config.toml
        worldsim train recordings/pong --out runs/sharp --size small --model.patch-size 4
    """

    recordings: Annotated[
        tyro.conf.Positional[tuple[Location, ...]],
        Heading("what to train on, and where"),
        Rule("one recording or more", bool),
    ]
    """Folder written by `worldsim record`, or its URL, such as s3://BUCKET/pong. Several, also
    folders of pictures, train one world."""
    out: OutFolder
    """Folder of the run: checkpoints, figures, videos."""
    config: InFile | None = None
    """Settings in TOML, such as config.toml of another run. They replace the defaults; options
    given with it replace them."""
    minutes: Annotated[Minutes | None, Heading("how long")] = None
    """Minutes to train in total, also with --resume; 30 if neither this nor --steps is given.
    Evaluations count, except the one at the end."""
    steps: Count | None = None
    """Optimizer steps to train, instead of --minutes."""
    resume: bool = False
    """Continue from the newest checkpoint in --out, with the settings that it began with."""
    mix: Annotated[tuple[Share, ...] | None, Advanced()] = None
    """Share of each recording in a batch, such as 0.5 0.3 0.2; equal shares if not given."""
    init: Annotated[str | None, Advanced(), tyro.conf.arg(metavar="WORLD")] = None
    """World to begin from: a name or a folder. Weights that fit are taken, the others are new."""
    size: Annotated[Size, Heading("what to train, and with what")] = "tiny"
    """Size of the model: tiny (1 M parameters) for a CPU; small (6 M), base (33 M), large
    (250 M) and xl (1 G) for a GPU."""
    codec: Annotated[str | None, Advanced(), tyro.conf.arg(metavar="FOLDER")] = None
    """Codec in whose latents the world lives: a folder, an id on the Hub, or pixels for none. Not
    given: frames as large as 128x128 get one that is trained first, for half as long."""
    seed: Seed = 0
    """Seed of the weights, of the order of the data and of all noise."""
    device: str | None = None
    """Device to train on, such as cuda or cpu; a GPU if there is one."""
    logging: tyro.conf.OmitArgPrefixes[Logging] = field(default_factory=Logging)
    recipe: Recipe = field(default_factory=Recipe)
    optim: Optim = field(default_factory=Optim)
    model: Model = field(default_factory=Model)
    engine: Engine = field(default_factory=Engine)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def recording(self) -> Location:
        """The first recording."""
        return self.recordings[0]

    def command(self) -> str:
        """The command of this run, with the options that differ from the defaults."""
        words = command_words(self, TrainConfig(self.recordings, Path()), ("resume", "config"))
        return shlex.join([*PROG.split(), *words])

    def settings(self) -> dict[str, Any]:
        """The run as JSON values."""
        return values_of(self)

    def write(self) -> None:
        """Write the settings into the run's folder, for `--config` and for people."""
        about = f"Settings of a run: {PROG} RECORDINGS --out FOLDER --config {SETTINGS_FILE}"
        write_text(self.out / SETTINGS_FILE, settings_text(self, about, PLACES))

    def fraction(self, progress: RunProgress) -> float:
        """The finished share of the run, from 0 on."""
        if self.steps is not None:
            return progress.step / self.steps
        return progress.seconds / (60 * (self.minutes or 30.0))


def check(config: TrainConfig) -> None:
    """Check the settings.

    Raises:
        ValueError: If one is invalid or two contradict one another.
    """
    check_options(config)
    check_log(config.logging.log)
    if config.steps is not None and config.minutes is not None:
        raise ValueError(
            f"give --steps or --minutes, not both (got {config.steps} and {config.minutes})"
        )
    check_shares(config.mix, len(config.recordings))
    parts = config.engine.accumulate or 1
    if config.optim.batch_size is not None and config.optim.batch_size % parts:
        raise ValueError(
            "--engine.accumulate must divide --optim.batch-size, got "
            f"{parts} and {config.optim.batch_size}"
        )


def resumed_config(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings that a run began with, also of an older version.

    Raises:
        ValueError: If a value is invalid.
    """
    remedy = "delete its newest checkpoint and resume from the one before it"
    with naming_damage(f"training.json of the run in {config.out}", remedy):
        return with_values(config, current_names(settings, RENAMED, config), keep=PLACES)


def read_config(argv: Sequence[str]) -> TrainConfig:
    """Read the settings of a resumed run, ``--config`` and the command line; the later one wins.

    Raises:
        ValueError: If one of the three cannot be read.
    """
    words = parse(TrainConfig, argv, PROG, renamed=RENAMED)
    checkpoint = find_checkpoint(words.out, words.resume)
    config = words
    if checkpoint is not None:
        config = resumed_config(config, read_progress(checkpoint)[1])
    if words.config is not None:
        values = read_settings(words.config, TrainConfig, RENAMED, PLACES)
        if values.keys() & {"steps", "minutes"}:  # one replaces the other
            config = dataclasses.replace(config, steps=None, minutes=None)
        try:
            config = with_values(config, values)
        except ValueError as error:
            raise ValueError(f"{words.config}: {error}") from error
    if words.steps is not None or words.minutes is not None:
        config = dataclasses.replace(config, steps=None, minutes=None)
    return parse(TrainConfig, argv, PROG, config)


def main(argv: Sequence[str]) -> int:
    """Run `worldsim train`.

    Args:
        argv: Arguments after ``worldsim train``.

    Returns:
        Exit status: 0 when the world is trained, 1 when the loss is not finite, 130 when the run
        was stopped.
    """
    config = read_config(argv)
    check(config)
    read_games(config.recordings)
    from .dynamics import train  # torch takes seconds

    is_first = int(os.environ.get("RANK", "0")) == 0  # of `torchrun`: only this one prints
    try:
        ended, checkpoint, progress = train(config)
    except FloatingPointError as error:
        if is_first:
            print(f"worldsim: {error}", file=sys.stderr)
        return 1
    if not is_first:
        return 130 if ended == "stopped" else 0
    out, length = shlex.quote(str(config.out)), f"{progress.step:,} steps"
    if ended == "stopped":
        again = shlex.join([*PROG.split(), *map(str, config.recordings), "--out", str(config.out)])
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
