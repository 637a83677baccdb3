"""``worldsim play``: a world or a real game in a window."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldsim.game.config import GameConfig
from worldsim.game.policy import Policy, load_policy
from worldsim.system.command_line import parse
from worldsim.system.extras import require
from worldsim.system.options import (
    Advanced,
    Count,
    FewFrames,
    Heading,
    InFile,
    NotNegative,
    OutFolder,
    Passes,
    Range,
    Seed,
    Side,
)

from .controller import Controller
from .session import Session, format_score
from .sources import find_sources


@dataclass(frozen=True)
class PlayConfig:
    """Play a world or a game in a window; the panel there shows the keys.

    Examples:
        worldsim play runs/pong
        worldsim play pong --agent runs/pong_agent --speed 2
        worldsim play pong --start drawing.png
        worldsim play ALE/Pong-v5 --record recordings/mine
    """

    target: Annotated[str, tyro.conf.Positional, Heading("what to play")]
    """A bundled world (pong, maze, balls), the folder of a world or of a run, or the id of a
    Gymnasium environment (ALE/Pong-v5)."""
    start: InFile | None = None
    """Begin in a world from this image (a photo, a drawing, a screenshot), or from the end of this
    video."""
    prompt: str | None = None
    """What a world with text shows, in words; in the window a key writes another prompt."""
    seed: Seed | None = None
    """Seed of starts and randomness; a new one each time if not given."""
    policy: Annotated[str | None, tyro.conf.arg(aliases=["--agent"]), Heading("how")] = None
    """Who plays instead of the keys, until a key takes over: random, sticky, scripted, the folder
    of an agent (of `worldsim agent`), or module:function. An agent's folder is code: play none that
    you do not trust."""
    speed: Annotated[float, Range(0.01, 100)] = 1.0
    """Factor on the game's own pace."""
    passes: Passes | None = None
    """Denoising passes per frame; the world's own number if not given."""
    guidance_scale: Annotated[NotNegative, Advanced()] = 1.0
    """How closely a world with text follows prompts."""
    text_encoder: Annotated[str | None, Advanced()] = None
    """Folder or Hub id of the text encoder that the world was trained with, for new prompts. It is
    loaded only if you name it here."""
    steps: Count | None = None
    """Stop after so many steps."""
    headless: bool = False
    """Play without a window, at the same pace; needs --steps, and no pygame."""
    record: Annotated[OutFolder | None, Heading("what to keep")] = None
    """Record the play in this folder; the recording grows with each session."""
    screenshots: OutFolder = Path()
    """Folder for screenshots."""
    frame_size: Annotated[tuple[Side, Side], Heading("how a real game is shown")] = (64, 64)
    """Height and width of a real game's frames; a world has its own."""
    frame_skip: FewFrames | None = None
    """Game steps for one frame of a real game; the game's own number if not given."""
    grey: bool = False
    """Show and record a real game in grey."""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim play``.

    Returns:
        The exit status.

    Raises:
        ValueError: If the target or an option is invalid.
        ModuleNotFoundError: If pygame is missing and a window is needed.
    """
    print(play(parse(PlayConfig, argv, "worldsim play")))
    return 0


def play(config: PlayConfig) -> str:
    """Play until the window is closed, or for ``config.steps`` steps.

    Returns:
        A line for the user: the steps and scores, and what was recorded.
    """
    # Without a window, games drawn with pygame must not look for a display.
    if config.headless:
        if config.steps is None:
            raise ValueError("--headless has no window to close: give the steps with --steps")
        os.environ["SDL_VIDEODRIVER"] = "dummy"
    else:
        require("pygame")
    quiet_pygame()
    sources = find_sources(
        config.target,
        frame_size=config.frame_size,
        grey=config.grey,
        frame_skip=config.frame_skip,
        start=config.start,
        guidance_scale=config.guidance_scale,
        text_encoder=config.text_encoder,
    )
    if sources[0].note:
        print(sources[0].note)
    # A writer and a session are closed in any case, so that finished episodes are kept.
    make_policy = _policy_maker(config.policy, sources[-1].config)
    with ExitStack() as stack:
        writer = None
        if config.record is not None:
            from worldsim.data.writer import RecordingWriter

            writer = stack.enter_context(RecordingWriter(config.record, sources[0].config))
        nobody = "noop" if config.headless else "person"
        session = Session(
            sources,
            seed=config.seed,
            writer=writer,
            player=config.policy or nobody,
            prompt=config.prompt,
        )
        stack.callback(session.close)
        if config.passes is not None:
            session.change_passes(config.passes - (session.num_passes or 0))
        controller = Controller(
            session, speed=config.speed, make_policy=make_policy, wait_at_end=not config.headless
        )
        with suppress(KeyboardInterrupt):  # Ctrl-C closes the window
            if config.headless:
                assert config.steps is not None
                controller.run(config.steps)
            else:
                from .screen import Screen  # needs pygame, which is an extra

                screen = Screen(controller, config.screenshots)
                stack.callback(screen.close)
                screen.run(config.steps)
    return summary(session, controller.pace.reached_fps, config.record)


def quiet_pygame() -> None:
    """Keep pygame from printing its greeting and from using a sound card, and name its windows."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("SDL_VIDEO_X11_WMCLASS", "worldsim")


def summary(session: Session, fps: float | None, record: Path | None) -> str:
    """A line with the steps and scores and, if they were recorded, the next command."""
    scores = ", ".join(format_score(score) for score in session.scores[-5:])
    more = "..., " if len(session.scores) > 5 else ""
    pace = f" at {fps:.1f} frames per second" if fps else ""
    line = f"played {session.total_steps} steps{pace}"
    if session.scores:
        line += f", score {more}{scores}"
    if record is not None and not session.num_kept:
        line += f"; nothing kept in {record}"
    elif record is not None:
        line += (
            f"; {session.num_kept} episode{'s' if session.num_kept != 1 else ''} kept in {record}"
            f" (next: worldsim train {record} --out runs/{record.name})"
        )
    return line


def _policy_maker(name: str | None, game: GameConfig) -> Callable[[], Policy] | None:
    if name is None:
        return None
    load_policy(name, game)  # a wrong name is an error before a window opens
    return lambda: load_policy(name, game)
