"""Starts of episodes: recorded windows, custom frames, or any image or video.

A world has learned only its recordings, and soon turns unknown content into known content. The
distance of an image from the recordings shows beforehand how much of it will last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.first_frame import first_frames
from worldsim.frame_size import fit_frame
from worldsim.model.text import Caption
from worldsim.rollout_context import prompts_of
from worldsim.rollout_input import check_prompts
from worldsim.system.devices import to_host
from worldsim.world_model import WorldModel


class StartWindows(NamedTuple):
    """The frames that the episodes of b lanes begin from.

    Attributes:
        frames: ``uint8`` (b t h w c), the newest last.
        actions: ``int64`` (b t-1), those between them, ``num_actions`` if unknown.
        indices: ``int64`` (b,), of the windows among the starts; -1 for custom frames.
        prompts: Of a world with text (b); None in a world without.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    indices: NDArray[np.int64]
    prompts: Sequence[Caption] | None = None


def check_starts(starts: Windows | None, world: WorldModel) -> Windows:
    """Validate and return the windows to begin episodes from, by default the world's own.

    Raises:
        TypeError: If they are not `Windows`.
        ValueError: If their frames do not fit the world.
    """
    if starts is None:
        return world.starts
    if not isinstance(starts, Windows):
        raise TypeError(f"starts must be Windows of a recording, got {type(starts).__name__}")
    shape = (*world.game.frame_size, world.game.channels)
    if len(starts.frames) == 0 or starts.frames.shape[2:] != shape:
        raise ValueError(
            f"starts must be windows of frames {shape}, as of Recording.sample_windows for a "
            f"recording of the same game, got frames {starts.frames.shape}"
        )
    return starts


def choose_starts(
    world: WorldModel,
    starts: Windows,
    options: Mapping[str, Any] | None,
    rngs: Sequence[np.random.Generator],
    indices: Sequence[Any] | None = None,
    guidance_scale: float = 1.0,
) -> StartWindows:
    """Return the starts that a reset's options name, or else draw windows.

    A prompt without a start begins from words alone, see `first_frames`.

    Args:
        world: The world.
        starts: The windows to choose from.
        options: Those of the reset, for all lanes.
        rngs: The generator of each lane that begins.
        indices: The window of each of these lanes, or None to draw it. They replace the option
            ``start``.
        guidance_scale: For frames from words alone.

    Raises:
        ValueError: If an option is unknown, out of range or of the wrong shape, or the world cannot
            encode a prompt.
        TypeError: If an option has the wrong type.
    """
    check_options(options)
    options = options or {}
    unknown = sorted(set(options) - {"start", "actions", "prompt"})
    if unknown:
        raise ValueError(f"reset takes the options 'start', 'actions' and 'prompt', got {unknown}")
    start, prompts = options.get("start"), options.get("prompt")
    if prompts is not None:
        prompts = [prompts] * len(rngs) if isinstance(prompts, str) else list(prompts)
        check_prompts(prompts, len(rngs))
    if isinstance(start, np.ndarray) and start.ndim > 0:
        frames, actions = _own_start(world, start, options.get("actions"))
        return StartWindows(
            frames=repeat(frames, "t h w c -> b t h w c", b=len(rngs)),
            actions=repeat(actions, "t -> b t", b=len(rngs)),
            indices=np.full(len(rngs), -1),
            prompts=prompts,
        )
    if options.get("actions") is not None:
        raise ValueError("the option 'actions' needs frames in the option 'start'")
    if prompts is not None and start is None and indices is None:
        seeds = [int(rng.integers(2**62)) for rng in rngs]
        frames = first_frames(world, prompts, seeds, guidance_scale=guidance_scale)
        nothing = np.zeros((len(rngs), 0), np.int64)
        return StartWindows(frames, nothing, np.full(len(rngs), -1), prompts)
    num_starts = len(starts.frames)
    wanted = [start] * len(rngs) if indices is None else indices
    chosen = np.array(
        [
            int(rng.integers(num_starts)) if index is None else _check_index(index, num_starts)
            for rng, index in zip(rngs, wanted, strict=True)
        ],
        np.int64,
    )
    windows = starts[chosen]
    prompts = prompts_of(windows, world) if prompts is None else prompts
    return StartWindows(windows.frames, windows.actions, chosen, prompts)


def _check_index(index: Any, num_starts: int) -> int:
    """Validate and return the index of a start window."""
    if not isinstance(index, (int, np.integer)) or isinstance(index, bool):
        raise TypeError(
            "the option 'start' is the index of a start window or an array of uint8 frames "
            f"(t h w c), got {type(index).__name__}"
        )
    if not 0 <= index < num_starts:
        raise ValueError(
            f"there are {num_starts} start windows: start must be 0 .. {num_starts - 1}, "
            f"got {index}"
        )
    return int(index)


def _own_start(
    world: WorldModel, frames: NDArray[Any], actions: Any
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Validate custom frames (t h w c) and the actions between them, and cut them to the window."""
    frame_shape = (*world.game.frame_size, world.game.channels)
    if frames.dtype != np.uint8:
        raise TypeError(f"the frames of 'start' must be uint8 in 0..255, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[1:] != frame_shape or len(frames) == 0:
        raise ValueError(
            f"the frames of 'start' must have the shape (t, {', '.join(map(str, frame_shape))}) "
            f"with t at least 1, got {frames.shape}"
        )
    if actions is None:
        actions = np.full(len(frames) - 1, world.game.num_actions)  # unknown
    else:
        actions = check_actions(actions, world, len(frames) - 1)
    newest = min(len(frames), world.context_frames)
    return frames[-newest:], actions[len(actions) + 1 - newest :]


def check_actions(actions: Any, world: WorldModel, count: int) -> NDArray[np.int64]:
    """Validate actions, an array or a tensor, and return them as ``int64`` (count,)."""
    if isinstance(actions, torch.Tensor):
        if actions.is_floating_point():  # NumPy lacks some of these types
            raise TypeError(f"actions must be integers, got {actions.dtype}")
        actions = to_host(actions)
    actions = np.asarray(actions)
    num_actions = world.game.num_actions
    if actions.shape != (count,):
        raise ValueError(f"expected {count} action(s), shape ({count},), got {actions.shape}")
    if count and not np.issubdtype(actions.dtype, np.integer):
        raise TypeError(f"actions must be integers, got {actions.dtype}")
    wrong = actions[(actions < 0) | (actions >= num_actions)]
    if len(wrong):
        raise ValueError(f"this world's actions are 0 .. {num_actions - 1}, got {wrong[0]}")
    return actions.astype(np.int64)


def check_options(options: Any) -> None:
    """Raise for options of a reset that are not a mapping."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"the options of reset must be a dict or None, got {options!r}")


class Start(NamedTuple):
    """Custom frames that fit a world, and their distance from its recordings.

    Attributes:
        frames: ``uint8`` (t h w c), in the world's size and channels.
        distance: Root mean square difference, in values of 255, between the last frame and the
            nearest of the world's start frames.
        usual_distance: The median distance of a start's last frame from the frames of other starts.
    """

    frames: NDArray[np.uint8]
    distance: float
    usual_distance: float

    @property
    def note(self) -> str:
        """How the world will continue from it, in a sentence."""
        far = (
            f"{self.distance:.0f} of 255 from the world's nearest start frame; those are "
            f"{self.usual_distance:.0f} apart"
        )
        if self.distance <= 2 * self.usual_distance:
            return (
                f"the start is like the world's recordings ({far}): play continues from it, and "
                "content foreign to this game vanishes"
            )
        return (
            f"the start is unlike the world's recordings ({far}): within some steps the world "
            "turns it into frames of its own game"
        )


def start_from(frames: NDArray[np.uint8], world: WorldModel) -> Start:
    """Fit any frames to a world: scale them, crop the longer sides, and convert to its channels.

    Args:
        frames: ``uint8`` (t h w 3), of any size; the last ``world.context_frames`` are used.
        world: The world.
    """
    game = world.game
    small = np.stack(
        [
            fit_frame(frame, game.frame_size, game.channels)
            for frame in frames[-world.context_frames :]
        ]
    )
    known = rearrange(world.starts.frames, "b t h w c -> b t (h w c)")
    usual = [_nearest(known[i, -1], np.delete(known, i, axis=0)) for i in range(len(known))]
    return Start(small, _nearest(small[-1].ravel(), known), float(np.median(usual)))


def _nearest(frame: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """The distance of a flat frame (d) from the nearest of others (b t d)."""
    squares = [
        float(np.square(other.astype(np.float32) - frame).mean(-1).min()) for other in others
    ]
    return min(squares, default=np.inf) ** 0.5
