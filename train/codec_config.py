"""`worldsim codec`: its settings, which are checked before anything slow is imported."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from worldsim.data.opening import read_games
from worldsim.model.autoencoder_sizes import Compression
from worldsim.system.command_line import parse
from worldsim.system.location import Location
from worldsim.system.options import (
    Count,
    Heading,
    Minutes,
    NotNegative,
    OutFolder,
    Part,
    Positive,
    Rule,
    Seed,
    check_options,
)
from worldsim.system.settings import values_of, with_values

from .progress import duration
from .run_log import Logging, check_log

PROG = "worldsim codec"
PLACES = ("recordings", "out", "resume", "minutes", "steps")  # not those that a run began with


@dataclass(frozen=True)
class CodecTraining:
    """Crops, losses and optimizer."""

    batch_size: Count = 16
    """Crops in a step."""
    crop: Annotated[int, Rule("a multiple of 64", lambda side: side > 0 and side % 64 == 0)] = 64
    """Side of a crop in pixels, half of it for video; smaller frames are seen whole."""
    lr: Positive = 2e-3
    """Peak learning rate, of Muon and of AdamW; twice as high for video."""
    noise: NotNegative = 0.03
    """Largest standard deviation of noise on latents, whose own is 1. The decoder then forgives the
    small errors of a world."""
    moving_weight: NotNegative = 10.0
    """Extra loss weight of pixels that differ from the recording's median frame."""
    ema_decay: Part = 0.998
    """Decay of the averaged weights, which are the codec that is kept."""
    held_out: Part = 0.1
    """Fraction of the recording, in whole episodes, kept for the figures."""


@dataclass(frozen=True)
class CodecConfig:
    """Train an autoencoder on the frames of recordings, for worlds with large frames.

    A world then learns in its latents, which have far fewer cells than frames have pixels. The
    folder gets the autoencoder, its figures on held-out frames, and pictures of them.

    Examples:
        worldsim codec recordings/doom --out codecs/doom --minutes 20
        worldsim codec recordings/doom --out codecs/small --compression 1x16x16
        worldsim codec recordings/doom --out codecs/doom --resume --minutes 40
    """

    recordings: Annotated[
        tyro.conf.Positional[tuple[Location, ...]],
        Heading("what to train on, and where"),
        Rule("one recording or more", bool),
    ]
    """Folder written by `worldsim record`, or its URL. Several, also folders of pictures, train one
    codec."""
    out: OutFolder
    """Folder of the codec."""
    compression: str = "1x8x8"
    """Frames, height and width of a latent's cell: 1x8x8 is sharp, 1x16x16 has fewer cells and
    1x32x32 fewer tokens; 4x8x8 and 8x16x16 join frames, and a step holds one action for them."""
    minutes: Annotated[Minutes | None, Heading("how long")] = None
    """Minutes to train in total, also with --resume; 20 if neither this nor --steps is given."""
    steps: Count | None = None
    """Optimizer steps to train, instead of --minutes."""
    resume: bool = False
    """Continue with the codec in --out, with the settings that it began with."""
    seed: Annotated[Seed, Heading("with what")] = 0
    """Seed of the weights, of the order of the data and of all noise."""
    device: str | None = None
    """Device to train on, such as cuda or cpu; a GPU if there is one."""
    logging: tyro.conf.OmitArgPrefixes[Logging] = field(default_factory=Logging)
    training: CodecTraining = field(default_factory=CodecTraining)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return values_of(self)

    def fraction(self, step: int, seconds: float) -> float:
        """The finished share of the run, from 0 on."""
        if self.steps is not None:
            return step / self.steps
        return seconds / (60 * (self.minutes or 20.0))


def check(config: CodecConfig) -> Compression:
    """Check the settings, and return the compression.

    Raises:
        ValueError: If one is invalid or two contradict one another.
    """
    check_options(config)
    check_log(config.logging.log)
    if config.steps is not None and config.minutes is not None:
        raise ValueError(
            f"give --steps or --minutes, not both (got {config.steps} and {config.minutes})"
        )
    compression = Compression.parse(config.compression)
    for game in read_games(config.recordings):
        if game is not None and any(side % compression.side for side in game.frame_size):
            height, width = game.frame_size
            raise ValueError(
                f"--compression {compression} needs frame sides that are multiples of "
                f"{compression.side}, got {height}x{width}: record at such a size, or choose "
                "another compression"
            )
    return compression


def main(argv: Sequence[str]) -> int:
    """Run `worldsim codec`.

    Args:
        argv: Arguments after ``worldsim codec``.

    Returns:
        Exit status: 0 when the codec is trained, 130 when it was stopped.

    Raises:
        ValueError: If a recording or a setting is invalid.
    """
    config = parse(CodecConfig, argv, PROG)
    from .codec_checkpoint import find_settings  # torch takes seconds

    begun = find_settings(config.out, config.resume)
    if begun is not None:
        config = parse(CodecConfig, argv, PROG, with_values(config, begun, keep=PLACES))
        if config.compression != begun.get("compression"):
            raise ValueError(
                f"the codec in {config.out} has --compression {begun.get('compression')}, got "
                f"{config.compression}: leave the option out, or choose another --out"
            )
    check(config)
    from .codec import train_codec

    finished, step, seconds = train_codec(config)
    out = shlex.quote(str(config.out))
    if not finished:
        again = shlex.join([*PROG.split(), *argv])
        again += "" if config.resume else " --resume"
        print(f"stopped after {step:,} steps: {out} keeps them; to continue: {again}")
        return 130
    recording = shlex.quote(str(config.recordings[0]))
    print(
        f"trained {step:,} steps in {duration(seconds)}: {out}; "
        f"next: worldsim train {recording} --codec {out} --out runs/NAME"
    )
    return 0
