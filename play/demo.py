"""``worldsim demo``: a bundled world in a window, or in a video if there is no display."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from worldsim.game.policy import has_script, load_policy
from worldsim.media import filmstrip, write_gif, write_mp4
from worldsim.system.command_line import parse
from worldsim.system.devices import check_memory
from worldsim.system.options import OutFile, OutFolder, Seconds, Seed

from .session import Session, Source
from .sources import find_sources
from .window import PlayConfig, play, quiet_pygame

STRIP_ROWS, STRIP_COLUMNS = 4, 10
STRIP_STRIDE = 3  # steps between neighbouring frames of the strip
VIDEO_SIZE = 512  # pixels of the longer side of the video, at least
GIF_SIZE = 256
NO_WINDOW_DRIVERS = ("dummy", "offscreen")


@dataclass(frozen=True)
class DemoConfig:
    """Play a bundled world in a window; without a display, write a video of it (demo.mp4).

    Examples:
        worldsim demo
        worldsim demo --world maze
        worldsim demo --world runs/pong --gif pong.gif
    """

    world: str = "pong"
    """A bundled world (pong, maze, balls), or the folder of a world or of a run."""
    out: OutFolder = Path()
    """Folder for demo.mp4 and demo.png."""
    gif: OutFile | None = None
    """Write the scripted play only as this GIF."""
    seconds: Seconds = 20.0
    """Length of the scripted play, in seconds of the game."""
    seed: Seed = 0
    """Seed of the scripted play."""
    window: bool = True
    """Open a window if there is a display; without one a scripted policy plays."""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim demo``.

    Returns:
        The exit status.

    Raises:
        ValueError: If the world does not exist, or an option is out of range.
    """
    config = parse(DemoConfig, argv, "worldsim demo")
    reason = None
    if config.gif is None:
        reason = "as asked" if not config.window else why_no_window()
        if reason is None:
            print(play(PlayConfig(config.world)))
            return 0
    sources = find_sources(config.world)
    player = "scripted" if has_script(sources[-1].config) else "sticky"
    if reason is not None:
        print(f"no window ({reason}): the {player} player plays the world instead")
    for line in play_into_files(config, sources, player):
        print(line)
    return 0


def why_no_window() -> str | None:
    """The reason why no window can be opened here; None if one can."""
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver in NO_WINDOW_DRIVERS:
        return f"SDL_VIDEODRIVER is {driver}"
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not driver and not any(map(os.environ.get, displays)):
        return "there is no display"
    quiet_pygame()
    try:
        from .screen import pygame
    except ModuleNotFoundError as error:
        return f'{error.name} is not installed: pip install "worldsim[play]"'
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
        return f"SDL finds only {driver}" if driver in NO_WINDOW_DRIVERS else None
    except pygame.error as error:
        return str(error)
    finally:
        pygame.display.quit()


def play_into_files(config: DemoConfig, sources: Sequence[Source], player: str) -> list[str]:
    """Let a policy play the first source, and write its frames.

    Args:
        config: The settings of the command.
        sources: A world and its real game, whose policy plays; or a real game.
        player: Name of the policy for `worldsim.game.policy.load_policy`.

    Returns:
        Lines for the user: the speed and the paths.
    """
    source = sources[0]
    game = source.config
    policy = load_policy(player, sources[-1].config)
    num_steps = max(1, round(config.seconds * game.fps))
    check_memory(
        num_steps * game.channels * math.prod(game.frame_size),
        f"a demo of {config.seconds:,} seconds",
        "take fewer --seconds",
    )
    session = Session([source], seed=config.seed)
    frames = [session.observation]
    console = Console(stderr=True)
    session.step(game.noop_action)  # the first step warms up and is not timed
    started = time.perf_counter()
    for _ in track(range(num_steps), "playing", console=console, transient=True):
        if session.is_over:
            session.restart()
        else:
            session.step(int(policy(session.observation, session.info, session.rng)))
        frames.append(session.observation)
    fps = num_steps / (time.perf_counter() - started)
    session.close()

    lines = [
        f"{source.name}: {num_steps} frames at {fps:.1f} frames per second "
        f"({1000 / fps:.1f} ms per frame); the game itself has {game.fps:g}"
    ]
    longer_side = max(game.frame_size)
    if config.gif is not None:
        path = write_gif(config.gif, frames, game.fps, max(1, GIF_SIZE // longer_side))
        return [*lines, f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)"]
    scale = max(1, VIDEO_SIZE // longer_side)
    tracked = track(frames, "writing demo.mp4", console=console, transient=True)
    video = write_mp4(config.out / "demo.mp4", tracked, game.fps, scale)
    rows, labels = strip_of(np.stack(frames), game.fps)
    strip = filmstrip(rows, config.out / "demo.png", max(1, 128 // longer_side), labels)
    return [
        *lines,
        f"wrote {video} ({config.seconds:g} s of play) and {strip} (a filmstrip of it)",
        f"next, with a display: worldsim play {config.world}",
    ]


def strip_of(frames: np.ndarray, fps: float) -> tuple[list[np.ndarray], list[str]]:
    """Pick short clips spread over all frames (t h w c), and label each with its first second."""
    length = min(len(frames), STRIP_COLUMNS * STRIP_STRIDE)
    starts = np.unique(np.linspace(0, len(frames) - length, STRIP_ROWS).astype(int))
    rows = [frames[start : start + length : STRIP_STRIDE] for start in starts]
    return rows, [f"{start / fps:.1f} s" for start in starts]
