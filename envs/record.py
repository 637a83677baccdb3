"""The command ``worldsim record``: play a Gymnasium game and record it as a data set.

Episodes are numbered, and each draws its seeds only from the command's seed and its number. So the
same command gives the same recording, whichever worker records which episode. A stopped recording
continues with the missing numbers.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldsim.data.captions import Caption
from worldsim.data.writer import RecordingWriter
from worldsim.game.describe import describe_game
from worldsim.game.policy import load_policy
from worldsim.system.command_line import parse
from worldsim.system.devices import check_memory
from worldsim.system.extras import require
from worldsim.system.interrupt import StopOnSignal
from worldsim.system.options import (
    Advanced,
    Count,
    FewFrames,
    Heading,
    OutFolder,
    Place,
    Range,
    RayAddress,
    Seed,
    Side,
    check_place,
)

from .policies import parse_weights
from .record_progress import RecordProgress
from .record_ray import RayWorkers
from .record_source import EpisodeSource
from .record_workers import Workers

WORKER_BYTES = 60e6  # of a process with a small game in it
SECONDS_BETWEEN_INDEXES = 2.0


@dataclass(frozen=True)
class RecordConfig:
    """Record a Gymnasium game as a data set to train on: frames, actions, rewards and ends.

    Examples:
        worldsim record ALE/Pong-v5 --out recordings/pong
        worldsim record worldsim/Maze-v0 --steps 60000 --policy random=0.5 scripted=0.5
        worldsim record mygames:my/Game-v0 --policy mygames:play --frame-size 96 96
    """

    env_id: Annotated[tyro.conf.Positional[str], Heading("what to record, and where")]
    """Gymnasium id, such as ALE/Pong-v5. module:id first imports the module that registers it. The
    module may be a file in the current folder (mygames:my/Game-v0 for mygames.py)."""
    steps: Count = 20_000
    """Steps to record. The last episode is recorded to its end, so there may be a few more."""
    out: OutFolder | None = None
    """Folder of the recording; recordings/NAME if not given. An unfinished one is continued.
    A NAME that ends in -v0 is also its name in Minari."""
    policy: Annotated[tuple[str, ...], Heading("who plays")] = ("random=0.5", "sticky=0.5")
    """Who plays: random, sticky (holds random actions), scripted (the game's own policy, with one
    random move in ten), the folder of an agent, or module:function. Mix several by weight:
    random=0.3 sticky=0.7. A module may be a file in the current folder."""
    max_episode_steps: Count = 1000
    """Steps after which an episode is cut, and counts as truncated."""
    seed: Seed = 0
    """The same seed gives the same recording."""
    workers: Annotated[int, Range(1, 1024)] | None = None
    """Parallel processes; as many as there are cores if not given."""
    ray: Annotated[RayAddress | None, Advanced()] = None
    """Record on a Ray cluster, with a worker on each of its CPUs, or --workers: the cluster at
    HOST:PORT or ray://HOST:PORT; auto takes the one that RAY_ADDRESS names or that runs here, and
    starts one if there is none."""
    frame_size: Annotated[tuple[Side, Side], Heading("what the game looks like")] = (64, 64)
    """Height and width of the recorded frames."""
    frame_skip: FewFrames | None = None
    """Game steps for one recorded step; the game's own number if not given."""
    grey: bool = False
    """Record grey frames instead of colour."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Settings of the game, name=value with JSON values: continuous=false difficulty=1."""
    caption: Caption | None = None
    """What all episodes show, in words; the captions that the game tells if not given."""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Arguments after ``worldsim record``.

    Returns:
        Exit status: 0 when the recording is complete, 130 when Ctrl-C or SIGTERM stopped it.

    Raises:
        ValueError: If the game or the settings cannot be recorded.
        OSError: If the recording cannot be written.
    """
    config = parse(RecordConfig, argv, "worldsim record")
    out = config.out or Path("recordings") / _name_of(config.env_id)
    again = shlex.join(["worldsim", "record", *argv])
    try:
        steps, episodes = record(config, out)
    except KeyboardInterrupt:
        print(f"stopped: {out} keeps each finished episode; to continue: {again}")
        return 130
    run = Path("runs") / out.name
    print(
        f"recorded {steps:,} steps in {episodes:,} episodes: {out}; "
        f"next: worldsim train {shlex.quote(str(out))} --out {shlex.quote(str(run))}"
    )
    return 0


def record(config: RecordConfig, out: Path) -> tuple[int, int]:
    """Record until there are enough steps.

    Args:
        config: The settings of the command.
        out: Folder of the recording. An unfinished recording with the same settings is continued.

    Returns:
        Steps and episodes of the recording.

    Raises:
        ValueError: If the game or the settings cannot be recorded.
        OSError: If the recording cannot be written.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the finished episodes were saved.
    """
    # Check everything before a worker starts.
    check_place("--out", out, Place("folder"))
    if config.ray is None:
        num = config.workers or os.cpu_count() or 1
        check_memory(num * WORKER_BYTES, f"recording with {num} workers", "take fewer")
    else:
        require("ray")
    weights = parse_weights(config.policy)
    game = describe_game(
        config.env_id,
        frame_size=config.frame_size,
        channels=1 if config.grey else 3,
        frame_skip=config.frame_skip,
        env_kwargs=_parse_env_kwargs(config.env_kwargs),
    )
    for name in weights:
        load_policy(name, game)  # an unknown policy is an error here, not in a worker
    settings = {
        "policy": weights,
        "seed": config.seed,
        "max_episode_steps": config.max_episode_steps,
        "caption": config.caption,
    }
    source = EpisodeSource(
        game, weights, config.seed, config.max_episode_steps, caption=config.caption
    )
    with StopOnSignal() as stop, RecordingWriter(out, game, settings) as writer:
        writer.delete_leftovers()
        writer.ask_for(config.steps)
        writer.update_index()
        try:
            if _whole_episodes(writer.episode_steps(), config.steps) is None:
                workers = _make_workers(config, writer, source)
                _record_missing(writer, workers, config.steps, stop)
        finally:
            _delete_surplus(writer, source)
        episode_steps = writer.episode_steps()
        if _whole_episodes(episode_steps, config.steps) is None:
            raise KeyboardInterrupt
    return sum(episode_steps.values()), len(episode_steps)


def _make_workers(
    config: RecordConfig, writer: RecordingWriter, source: EpisodeSource
) -> Workers | RayWorkers:
    if config.ray is None:
        return Workers(writer, source, config.workers or os.cpu_count() or 1)
    return RayWorkers(writer, source, config.ray, config.workers)


def _record_missing(
    writer: RecordingWriter, workers: Workers | RayWorkers, steps: int, stop: StopOnSignal
) -> None:
    """Let workers record the missing episodes until there are enough steps on disk."""
    finished = writer.episode_steps()
    indexed, indexed_at = finished, -math.inf
    with workers, RecordProgress(steps, finished) as progress:
        while _whole_episodes(finished, steps) is None and not stop.asked:
            workers.begin_missing(finished)
            workers.wait()
            finished = writer.episode_steps()  # from disk: some may have been deleted
            progress.update(finished, workers.steps_under_way)
            if finished != indexed and time.monotonic() - indexed_at > SECONDS_BETWEEN_INDEXES:
                writer.update_index()
                indexed, indexed_at = finished, time.monotonic()


def _delete_surplus(writer: RecordingWriter, source: EpisodeSource) -> None:
    """Delete episodes that are not needed, except those that a person played."""
    episode_steps = writer.episode_steps()
    last = _whole_episodes(episode_steps, writer.steps_asked)
    for number in episode_steps:
        surplus = last is not None and number > last
        if surplus and writer.episode_seed(number) == source.env_seed(number):
            writer.delete_episode(number)


def _whole_episodes(episode_steps: dict[int, int], steps: int) -> int | None:
    """Return the number of the last episode that is needed; None if an episode is missing."""
    total, number = 0, 0
    while number in episode_steps:
        total += episode_steps[number]
        if total >= steps:
            return number
        number += 1
    return None


def _parse_env_kwargs(texts: Sequence[str]) -> dict[str, Any]:
    """Parse name=value with JSON values; a value that is not JSON is a string."""
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, has_value, value = text.partition("=")
        if not has_value or not name.isidentifier():
            raise ValueError(f"a setting of the game is written name=value, got {text!r}")
        try:
            kwargs[name] = json.loads(value)
        except json.JSONDecodeError:
            kwargs[name] = value
    return kwargs


def _name_of(env_id: str) -> str:
    """Name a folder after an id: ALE/Pong-v5 is pong."""
    name = env_id.rpartition("/")[2].rpartition(":")[2].lower()
    stem, version, digits = name.rpartition("-v")
    return stem if version and digits.isdigit() else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
