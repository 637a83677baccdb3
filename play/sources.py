"""Sources to play: a world with its real game, or an environment."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium

from worldsim.find_world import find_world
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game, make_game

from .session import Source

ENV_ID = re.compile(r"([\w.]+:)?[\w./-]+-v\d+")


def find_sources(
    target: str,
    *,
    frame_size: tuple[int, int] = (64, 64),
    grey: bool = False,
    frame_skip: int | None = None,
    start: Path | None = None,
    guidance_scale: float = 1.0,
    text_encoder: str | None = None,
) -> list[Source]:
    """Find the sources of a name: an environment, or a world and its real game.

    Args:
        target: A Gymnasium id (``ALE/Pong-v5``), a bundled world (``pong``), or the folder of a
            world or of a run.
        frame_size: Height and width of an environment's frames; a world has its own.
        grey: Whether an environment's frames are grey.
        frame_skip: Game steps per frame of an environment; None takes its own number.
        start: An image or a video that every episode in a world begins from.
        guidance_scale: How closely a world with text follows prompts.
        text_encoder: The frozen text encoder of a world, see `worldsim.load`.

    Returns:
        The target, and for a world also its real game, which is opened only when it is played.

    Raises:
        ValueError: If the world or environment does not exist or cannot be played. If a start
            cannot be read or is given to a real game.
    """
    if ENV_ID.fullmatch(target) and not Path(target).exists():
        if start is not None:
            raise ValueError(
                f"only a world can begin from an image, and {target} is a real game: train a "
                "world of it, or leave out --start"
            )
        config = describe_game(
            target,
            frame_size=frame_size,
            channels=1 if grey else 3,
            frame_skip=frame_skip,
        )
        return [_game_source(config)]
    return _world_sources(target, start, guidance_scale, text_encoder)


def _game_source(config: GameConfig) -> Source:
    return Source(config.env_id, "real game", config, lambda: make_game(config))


def _world_sources(
    target: str, start: Path | None, guidance_scale: float, text_encoder: str | None
) -> list[Source]:
    try:
        find_world(target)
    except ValueError as error:
        raise ValueError(
            f"{error}, or the id of a Gymnasium environment such as ALE/Pong-v5"
        ) from error
    # Imported here: torch takes seconds, and a real game does not need it.
    from worldsim.media import read_frames
    from worldsim.rollout_input import check_guidance
    from worldsim.start import start_from
    from worldsim.world_folder import load
    from worldsim.world_model_env import WorldModelEnv

    world = load(target, text_encoder=text_encoder)
    check_guidance(guidance_scale, world)
    folder = Path(target)
    config = replace(
        world.game,
        env_id="worldsim/WorldModel-v0",
        env_kwargs={"world": str(folder.resolve()) if folder.exists() else target},
        frame_skip=None,
    )

    def open_world() -> gymnasium.Env[Any, Any]:
        return WorldModelEnv(world, guidance_scale=guidance_scale)

    options, note = None, None
    if start is not None:
        begun = start_from(read_frames(start, last=world.context_frames), world)
        options, note = {"start": begun.frames}, begun.note
    world_source = Source(folder.name or target, "world", config, open_world, options, note)
    return [world_source, _game_source(world.game)]
