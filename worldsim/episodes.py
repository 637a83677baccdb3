"""Episodes inside a learned world: how they begin, what their state is, and what is allowed.

`WorldModelEnv` and `WorldModelVectorEnv` share these rules.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import repeat
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.devices import check_memory
from worldsim.options import AnySeed, Count, Limit, check_value
from worldsim.rollout_state import RolloutState
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

World = str | os.PathLike[str] | WorldModel
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class EnvState:
    """Everything that decides what a `WorldModelEnv` or `WorldModelVectorEnv` does next.

    Attributes:
        rollout: The model's memory of past frames and each lane's noise generator.
        observations: What each lane shows, (b …).
        elapsed: ``int64`` (b,), steps since each lane's reset.
        ended: ``bool`` (b,), lanes whose episode is over.
        starts: ``int64`` (b,), index of the window that each lane's episode began from, or -1.
        rngs: One generator a lane, from which later episodes draw their starts.
    """

    rollout: RolloutState
    observations: NDArray[Any]
    elapsed: NDArray[np.int64]
    ended: NDArray[np.bool_]
    starts: NDArray[np.int64]
    rngs: tuple[np.random.Generator, ...]

    def branch(self, num_envs: int, lane: int = 0) -> EnvState:
        """One lane's state, many times over: lanes that go apart when their actions do.

        Args:
            num_envs: Lanes of the environment that it will be restored into, at least 1.
            lane: The lane of this state to copy.

        Raises:
            ValueError: If there is no such lane, or ``num_envs`` is below 1.
        """
        if num_envs < 1 or not 0 <= lane < len(self.elapsed):
            raise ValueError(
                f"branch wants 1 lane or more, copied from one of 0..{len(self.elapsed) - 1}, got "
                f"{num_envs} from lane {lane}"
            )
        lanes = [lane] * num_envs
        return EnvState(
            rollout=self.rollout.take_lanes(lanes),
            observations=self.observations[lanes],
            elapsed=self.elapsed[lanes],
            ended=self.ended[lanes],
            starts=self.starts[lanes],
            rngs=tuple(deepcopy(self.rngs[lane]) for lane in lanes),
        )


@dataclass(frozen=True)
class Start:
    """Where an episode begins: frames (t h w c), actions (t - 1,), index of the window or -1."""

    frames: Frames
    actions: NDArray[np.int64]
    index: int


def open_world(world: World, device: str | None) -> WorldModel:
    """Load a world given by name or path; pass a loaded one on."""
    if isinstance(world, WorldModel):
        if device is not None:
            raise ValueError(
                f"device={device!r} is for a world given by name or path; "
                "move a loaded world yourself with world.to(device)"
            )
        return world
    return load(world, device=device)


def frames_per_second(world: WorldModel) -> int:
    """The pace of the game as ``render_fps``, which clients of Gymnasium want whole."""
    return max(1, round(world.game.fps))


def observation_space_of(world: WorldModel, observation: str, stack: int = 1) -> spaces.Box:
    """Frames as observations, ``uint8`` (h w c), or latents, ``float32`` (c h w), some at once."""
    if observation not in ("frames", "latents"):
        raise ValueError(f"observation must be 'frames' or 'latents', got {observation!r}")
    if observation == "latents":
        shape = (
            stack * world.codec.latent_channels,
            *world.codec.latent_size(world.game.frame_size),
        )
        return spaces.Box(-np.inf, np.inf, shape, np.float32)
    shape = (*world.game.frame_size, stack * world.game.channels)
    return spaces.Box(low=0, high=255, shape=shape, dtype=np.uint8)


def check_starts(starts: Windows | None, world: WorldModel) -> Windows:
    """Give windows to begin from back, by default those that the world brings.

    Raises:
        ValueError: If their frames are not the world's.
    """
    if starts is None:
        return world.starts
    if not isinstance(starts, Windows):
        raise TypeError(f"starts must be Windows of a recording, got {type(starts).__name__}")
    shape = (*world.game.frame_size, world.game.channels)
    if len(starts.frames) == 0 or starts.frames.shape[2:] != shape:
        raise ValueError(
            f"starts must be windows of frames {shape}, as Recording.sample_windows gives for a "
            f"recording of the same game, got frames {starts.frames.shape}"
        )
    return starts


def choose_start(
    world: WorldModel,
    starts: Windows,
    options: Mapping[str, Any] | None,
    rng: np.random.Generator,
) -> Start:
    """Read the options of a reset; without a start, draw one of the windows."""
    options = options or {}
    unknown = sorted(set(options) - {"start", "actions"})
    if unknown:
        raise ValueError(f"reset knows the options 'start' and 'actions', got {unknown}")
    start = options.get("start")
    if isinstance(start, np.ndarray) and start.ndim > 0:
        return _own_start(world, start, options.get("actions"))
    if options.get("actions") is not None:
        raise ValueError("The option 'actions' goes with frames in 'start'")
    num_starts = len(starts.frames)
    if start is None:
        index = int(rng.integers(num_starts))
    elif isinstance(start, (int, np.integer)) and not isinstance(start, bool):
        index = int(start)
    else:
        raise TypeError(
            "The option 'start' is the index of a bundled window or an array of uint8 frames "
            f"(t h w c), got {type(start).__name__}"
        )
    if not 0 <= index < num_starts:
        raise ValueError(
            f"There are {num_starts} start windows: start must be 0 .. {num_starts - 1}, "
            f"got {index}"
        )
    return Start(starts.frames[index], starts.actions[index], index)


def _own_start(world: WorldModel, frames: NDArray[Any], actions: Any) -> Start:
    """Check frames of the caller's own and the actions between them."""
    frame_shape = (*world.game.frame_size, world.game.channels)
    if frames.dtype != np.uint8:
        raise TypeError(f"The frames of 'start' must be uint8 in 0..255, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[1:] != frame_shape or len(frames) == 0:
        raise ValueError(
            f"The frames of 'start' must have the shape (t, {', '.join(map(str, frame_shape))}) "
            f"with t at least 1, got {frames.shape}"
        )
    if actions is None:
        actions = np.full(len(frames) - 1, world.game.num_actions)  # the model's word for unknown
    else:
        actions = check_actions(actions, world, len(frames) - 1)
    newest = slice(-min(len(frames), world.window), None)
    return Start(frames[newest].copy(), actions[len(actions) + 1 - len(frames[newest]) :], -1)


def lane_options(
    options: Mapping[str, Any] | None, lane: int, num_envs: int
) -> Mapping[str, Any] | None:
    """Pick one lane's options: ``start`` may hold one index a lane."""
    start = None if options is None else options.get("start")
    if options is None or not isinstance(start, (np.ndarray, list, tuple)) or np.ndim(start) != 1:
        return options
    if len(start) != num_envs:
        raise ValueError(
            f"The option 'start' has one index a lane: expected {num_envs}, got {len(start)}"
        )
    return {**options, "start": start[lane]}


def check_actions(actions: Any, world: WorldModel, count: int = 1) -> NDArray[np.int64]:
    """Give actions back as ``int64`` (count,), or say what is wrong with them."""
    actions = np.asarray(actions)
    num_actions = world.game.num_actions
    if actions.shape != (count,):
        raise ValueError(f"Expected {count} action(s), shape ({count},), got {actions.shape}")
    if count and not np.issubdtype(actions.dtype, np.integer):
        raise TypeError(f"Actions are integers, got {actions.dtype}")
    wrong = actions[(actions < 0) | (actions >= num_actions)]
    if len(wrong):
        raise ValueError(f"This world's actions are 0 .. {num_actions - 1}, got {wrong[0]}")
    return actions.astype(np.int64)


def check_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Give a ``reset_mask`` back, or say what is wrong with it."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"The option 'reset_mask' must be a numpy array of bool, got {kind}")
    if mask.shape != (num_envs,):
        raise ValueError(f"'reset_mask' must have the shape ({num_envs},), got {mask.shape}")
    if not mask.any():
        raise ValueError("'reset_mask' must be True for at least one lane, got none")
    return mask


def check_state(state: Any, observations: NDArray[Any]) -> None:
    """Refuse a state that an environment with such observations, (b …), cannot go on from.

    Raises:
        TypeError: If it is no state.
        ValueError: If it is of another number of lanes or of other observations.
    """
    if not isinstance(state, EnvState):
        raise TypeError(
            f"an environment restores what its clone_state gave, got {type(state).__name__}"
        )
    num_envs = len(observations)
    if len(state.elapsed) != num_envs:
        raise ValueError(
            f"This environment has {num_envs} lane(s), the state was cloned from one with "
            f"{len(state.elapsed)}"
        )
    seen = state.observations
    if (seen.shape, seen.dtype) != (observations.shape, observations.dtype):
        raise ValueError(
            f"This environment observes {observations.dtype} of shape {observations.shape[1:]}, "
            f"the state was cloned from one that observes {seen.dtype} of {seen.shape[1:]}"
        )
    if not len(state.ended) == len(state.starts) == len(state.rngs) == num_envs:
        raise ValueError(f"the state has not all of its {num_envs} lane(s): take it as it was")


def in_colour(frame: Frames) -> Frames:
    """Copy a frame (h w c) as (h w 3)."""
    return repeat(frame, "h w 1 -> h w 3").copy() if frame.shape[-1] == 1 else frame.copy()


def check_seed(seed: Any) -> int:
    """Give a seed back, or say what is wrong with it."""
    check_value("seed", seed, AnySeed)
    return int(seed)


def check_options(options: Any) -> None:
    """Refuse options of a reset that are no mapping."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"the options of reset are a dict or None, got {options!r}")


def check_observations_fit(num_envs: int, frame_stack: int, space: spaces.Box) -> None:
    """Refuse more lanes, or observations at once, than there is memory for.

    Args:
        num_envs: Lanes.
        frame_stack: Observations that each of them shows at once.
        space: One observation.

    Raises:
        ValueError: In one sentence.
    """
    num_bytes = num_envs * frame_stack * math.prod(space.shape) * space.dtype.itemsize
    check_memory(
        4 * num_bytes,  # the bounds of the space, what is shown, and a copy of it
        f"what {num_envs:,} lanes show",
        "take fewer lanes (num_envs) or a smaller frame_stack",
    )


def check_arguments(
    max_episode_steps: int | None, max_uncertainty: float | None, render_mode: str | None
) -> None:
    """Refuse a limit below one step or below 0, and a render mode that does not exist."""
    check_value("max_episode_steps", max_episode_steps, Count | None)
    check_value("max_uncertainty", max_uncertainty, Limit | None)
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
