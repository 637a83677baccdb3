"""Checks of what a rollout is given: context frames, actions and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from worldsim.game.config import GameConfig
from worldsim.model.text import Caption
from worldsim.system.devices import check_memory
from worldsim.system.options import NotNegative, Range, check_value
from worldsim.world_model import WorldModel

LaneSeed = Annotated[int, Range(0, 2**63 - 1)]  # the range of torch's generators and of int64


def check_context(
    game: GameConfig,
    frames: np.ndarray,
    actions: np.ndarray,
    seeds: Sequence[int],
    lanes: Sequence[int],
    batch_size: int,
) -> None:
    """Check the frames that lanes begin from.

    Args:
        game: The world's game.
        frames: uint8 (b t h w c), t of at least 1.
        actions: The actions between them (b t-1), ``num_actions`` if unknown.
        seeds: One for each lane.
        lanes: The lanes to begin.
        batch_size: Lanes of the rollout.

    Raises:
        ValueError: If shapes do not fit the game or one another, or actions, lanes or seeds are out
            of range.
    """
    height, width, channels = expected = (*game.frame_size, game.channels)
    b, t = frames.shape[:2] if frames.ndim == 5 else (0, 0)
    if frames.shape[2:] != expected or frames.dtype != np.uint8 or t < 1:
        raise ValueError(
            f"context frames must be uint8 of shape (b t {height} {width} {channels}), got "
            f"{frames.dtype} {frames.shape}"
        )
    if actions.shape != (b, t - 1) or not b == len(seeds) == len(lanes):
        raise ValueError(
            f"{len(lanes)} lanes with {t} context frames need {t - 1} actions and a seed each, "
            f"got {b} rows of frames, actions {actions.shape} and {len(seeds)} seeds"
        )
    if not ((actions >= 0) & (actions <= game.num_actions)).all():
        raise ValueError(
            f"context actions must be in 0..{game.num_actions - 1}, or {game.num_actions} "
            f"if unknown, got {actions.min()}..{actions.max()}"
        )
    if len(set(lanes)) < len(lanes) or not set(lanes) <= set(range(batch_size)):
        raise ValueError(
            f"lanes must be different numbers in 0..{batch_size - 1}, got {list(lanes)}"
        )
    for seed in seeds:
        check_value("seeds", seed, LaneSeed)


def check_actions(
    game: GameConfig, actions: np.ndarray, batch_size: int, patch_frames: int = 1
) -> np.ndarray:
    """Check the actions of a step, and return them as an array (b), or (b patch_frames) if more.

    Raises:
        ValueError: If they are not one integer for each lane, or for each of its frames, in
            0..``num_actions``.
    """
    actions = np.asarray(actions)
    if patch_frames > 1 and actions.shape == (batch_size,):
        actions = np.repeat(actions[:, None], patch_frames, axis=1)  # the action is held
    if (
        actions.shape != ((batch_size,) if patch_frames == 1 else (batch_size, patch_frames))
        or not np.issubdtype(actions.dtype, np.integer)
        or not ((actions >= 0) & (actions <= game.num_actions)).all()
    ):
        raise ValueError(
            f"actions must be {batch_size} integers in 0..{game.num_actions - 1}, or "
            f"{game.num_actions} if unknown, got {actions!r}"
        )
    return actions


def check_prompts(prompts: Sequence[Caption], num_lanes: int) -> None:
    """Check that there is a prompt, or None, for each lane that begins.

    Raises:
        TypeError: If a prompt is not a text.
        ValueError: If there are more prompts or fewer.
    """
    for prompt in prompts:
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"a prompt is a text or None, got {prompt!r}")
    if isinstance(prompts, str) or len(prompts) != num_lanes:
        given = f"the text {prompts!r}" if isinstance(prompts, str) else f"{len(prompts)} prompts"
        raise ValueError(f"{num_lanes} lanes need a list of a prompt for each, got {given}")


def check_guidance(guidance_scale: float, world: WorldModel) -> None:
    """Check the scale of guidance by prompts.

    Raises:
        ValueError: If it is negative, or not 1 in a world without text.
    """
    check_value("guidance_scale", guidance_scale, NotNegative)
    if guidance_scale != 1 and world.text is None:
        raise ValueError(
            f"guidance follows the prompts of a world with text, got guidance_scale "
            f"{guidance_scale:g} for a world without: leave it out"
        )


def check_room(world: WorldModel, batch_size: int, num_caches: int) -> None:
    """Check that what lanes keep fits into memory.

    Args:
        world: The world.
        batch_size: Lanes.
        num_caches: Caches of each lane.

    Raises:
        ValueError: If it does not fit.
    """
    size = world.codec.latent_size(world.game.frame_size)
    history = 4 * world.dit.config.channels * world.num_kept * math.prod(size)
    check_memory(
        batch_size * (num_caches * world.dit.new_cache(1, size).num_bytes + history),
        f"the cache of {batch_size:,} lanes",
        "take fewer lanes",
        world.device,
    )
