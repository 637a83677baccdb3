"""Lanes: parallel episodes in one world, each with its own start, seed, length and end.

`WorldModelEnv` is one lane and `WorldModelVectorEnv` many; both add a Gymnasium interface.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.env_state import EnvState, check_state, copy_rng
from worldsim.rollout import Rollout
from worldsim.rollout_context import Context, prompts_of
from worldsim.rollout_state import weight_versions
from worldsim.start import check_starts, choose_starts
from worldsim.system.devices import check_memory, to_device, to_host
from worldsim.system.options import AnySeed, Count, Limit, check_value
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

World = str | os.PathLike[str] | WorldModel


class LaneSteps(NamedTuple):
    """The result of a step of each lane, (b,); lanes that did not step have 0 and False."""

    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    termination_probs: NDArray[np.float32]
    uncertainties: NDArray[np.float32]


class Lanes:
    """The state of b episodes in one batched model, the base of both environments.

    Arguments and errors are those of `WorldModelVectorEnv`, with ``num_lanes`` for ``num_envs``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        world: World,
        num_lanes: int,
        *,
        max_episode_steps: int | None,
        num_passes: int | None,
        observation: str,
        starts: Windows | None,
        max_uncertainty: float | None,
        render_mode: str | None,
        device: str | None,
        dtype: str,
        compiled: bool,
        guidance_scale: float,
        frame_skip: int = 1,
        frame_stack: int = 1,
    ) -> None:
        check_value("frame_skip", frame_skip, Count)
        check_value("frame_stack", frame_stack, Count)
        check_value("max_episode_steps", max_episode_steps, Count | None)
        check_value("max_uncertainty", max_uncertainty, Limit | None)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.world = _open_world(world, device, dtype)
        self.starts = check_starts(starts, self.world)
        self.max_episode_steps = max_episode_steps
        self.max_uncertainty = max_uncertainty
        self.frame_skip, self.frame_stack = frame_skip, frame_stack
        self.render_mode = render_mode
        # A step holds its action and shows the last of its frames. Clients need an int of fps.
        frames = frame_skip * self.world.patch_frames
        fps = max(1, round(self.world.game.fps / frames))
        self.metadata = {**self.metadata, "render_fps": fps, "frames_per_step": frames}
        self._rollout = Rollout(
            self.world,
            num_lanes,
            num_passes=num_passes,
            compiled=compiled,
            with_uncertainty=max_uncertainty is not None,
            guidance_scale=guidance_scale,
        )
        self._in_latents = observation == "latents"
        self._channel_axis = 1 if self._in_latents else 3
        self._lane_space = _lane_space(self.world, observation, num_lanes, frame_stack)
        # The newest frames (b h w c) or latents (b c h w) of all lanes, stacked along the channels.
        # They stay on the world's device, and callers get copies.
        empty = np.zeros((num_lanes, *self._lane_space.shape), self._lane_space.dtype)
        self._stacked = to_device(empty, self.world.device)
        # All frames of the newest step (b p h w c), where a step predicts several.
        self._clip: torch.Tensor | None = None
        if self.world.patch_frames > 1 and not self._in_latents:
            shape = (num_lanes, self.world.patch_frames, *self.world.background.shape)
            self._clip = torch.zeros(shape, dtype=torch.uint8, device=self.world.device)
        self._read: tuple[list[tuple[int, int]], Context] | None = None
        self._elapsed = np.zeros(num_lanes, np.int64)
        self._ended = np.zeros(num_lanes, np.bool_)
        self._begun = np.zeros(num_lanes, np.bool_)
        self._start_indices = np.full(num_lanes, -1)
        self._rngs: list[np.random.Generator | None] = [None] * num_lanes
        self._seeds: list[int | None] = [None] * num_lanes

    @property
    def num_passes(self) -> int:
        """Denoising passes per frame; may be set at any time."""
        return self._rollout.num_passes

    @num_passes.setter
    def num_passes(self, num_passes: int) -> None:
        self._rollout.num_passes = num_passes

    def clone_state(self) -> EnvState:
        """Copy the state of all lanes, with the randomness of later resets.

        The same actions after `restore_state` give the same future. ``state.branch(n)`` fits a
        `WorldModelVectorEnv` of n lanes, for n futures in parallel.

        Raises:
            ResetNeeded: If a lane has no episode yet.
        """
        self._check_begun("clone_state")
        return EnvState(
            rollout=self._rollout.clone_state(),
            observations=self._observations(),
            elapsed=self._elapsed.copy(),
            ended=self._ended.copy(),
            starts=self._start_indices.copy(),
            rngs=tuple(copy_rng(self._rng(lane)) for lane in range(len(self._rngs))),
        )

    def restore_state(self, state: EnvState) -> None:
        """Restore a state of `clone_state`, any number of times.

        Raises:
            TypeError: If it is not an `EnvState`.
            ValueError: If its world, device, number of lanes or observations differ. The
                environment then stays unchanged.
        """
        check_state(state, self._stacked)
        self._rollout.restore_state(state.rollout)
        self._stacked.copy_(state.observations)
        self._elapsed = state.elapsed.copy()
        self._ended = state.ended.copy()
        self._start_indices = state.starts.copy()
        self._begun[:] = True
        self._rngs = [copy_rng(rng) for rng in state.rngs]
        self._seeds = [-1 if seed is None else seed for seed in self._seeds]  # -1: unknown

    def _begin(
        self,
        lanes: NDArray[np.int64],
        seeds: Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
        indices: Sequence[Any] | None = None,
    ) -> None:
        """Begin an episode in these lanes only.

        Args:
            lanes: Numbers of the lanes that begin, (n,), in rising order.
            seeds: One for each of all lanes; None leaves a lane's generator as it is.
            options: Those of `WorldModelEnv.reset`, for all lanes that begin.
            indices: The start window of each of the n lanes, see `choose_starts`.
        """
        numbers: list[int] = lanes.tolist()
        if seeds is not None:
            for lane in numbers:
                if seeds[lane] is not None:
                    self._rngs[lane], self._seeds[lane] = seeding.np_random(seeds[lane])
        rngs = [self._rng(lane) for lane in numbers]
        scale = self._rollout.guidance_scale
        starts = choose_starts(self.world, self.starts, options, rngs, indices, scale)
        noise = [int(rng.integers(2**62)) for rng in rngs]
        are_known = (starts.indices >= 0).all() and not (options or {}).get("prompt")
        if len(self._rngs) >= len(self.starts.frames) and are_known:
            self._rollout.enter(self._read_starts(), starts.indices.tolist(), noise, numbers)
        else:
            self._rollout.reset(starts.frames, starts.actions, noise, numbers, starts.prompts)
        # A start is observed as given: its codec would change the frame.
        index = to_device(lanes, self.world.device)
        if self._in_latents:
            first = self._rollout.latents[index]
        else:
            first = to_device(starts.frames[:, -1], self.world.device)
        self._stacked[index] = torch.cat([first] * self.frame_stack, self._channel_axis)
        if self._clip is not None:
            self._clip[index] = first[:, None]
        self._elapsed[lanes] = 0
        self._ended[lanes] = False
        self._begun[lanes] = True
        self._start_indices[lanes] = starts.indices

    def _read_starts(self) -> Context:
        """All start windows, read once, since some of many lanes begin in nearly every step."""
        versions = weight_versions(self.world)
        if self._read is None or self._read[0] != versions:
            prompts = prompts_of(self.starts, self.world)
            read = self._rollout.read(self.starts.frames, self.starts.actions, prompts)
            self._read = versions, read
        return self._read[1]

    def _play(self, actions: NDArray[np.int64], plays: NDArray[np.bool_]) -> LaneSteps:
        """Repeat the actions of the lanes that play for ``frame_skip`` frames, or to their end."""
        steps, noop = _no_steps(len(plays)), self.world.game.noop_action
        clip = self._newest()[:, None]
        going = plays.copy()
        for frame in range(self.frame_skip):
            if not going.any():
                break
            # The other lanes step too; their reset replaces their frames and noise.
            outcome = self._rollout.advance(np.where(going, actions, noop))
            steps.rewards[going] += outcome.rewards[going]
            steps.termination_probs[going] = outcome.termination_probs[going]
            steps.terminations[going] = outcome.terminations[going]
            if outcome.uncertainties is not None and self.max_uncertainty is not None:
                steps.uncertainties[going] = outcome.uncertainties[going]
                steps.truncations[going] = outcome.uncertainties[going] > self.max_uncertainty
            after = going & ~steps.terminations & ~steps.truncations
            # Decoding costs time: only the last frame of the step or of an episode is decoded.
            if frame == self.frame_skip - 1 or (after != going).any():
                previous = clip
                clip = self._rollout.latents[:, None] if self._in_latents else self._rollout.clip()
                if not going.all():
                    seen = to_device(going, clip.device)
                    clip = torch.where(rearrange(seen, "b -> b 1 1 1 1"), clip, previous)
            going = after
        newest = clip[:, -1]
        if self._clip is not None:
            self._clip.copy_(clip)
        axis, size = self._channel_axis, newest.shape[self._channel_axis]
        older = self._stacked.narrow(axis, size, self._stacked.shape[axis] - size)
        self._stacked.copy_(torch.cat((older, newest), axis))
        self._elapsed += plays
        limit = math.inf if self.max_episode_steps is None else self.max_episode_steps
        np.logical_or(steps.truncations, plays & (self._elapsed >= limit), out=steps.truncations)
        self._ended = steps.terminations | steps.truncations
        return steps

    def _info(self, steps: LaneSteps | None = None) -> dict[str, NDArray[Any]]:
        """The info of all lanes after a step or a reset, (b,) each.

        Some libraries need the same keys after both: what only a step gives is 0 after a reset.
        """
        steps = steps or _no_steps(len(self._elapsed))
        info = {
            "start": self._start_indices,
            "termination_prob": steps.termination_probs.astype(np.float64),
        }
        if self.max_uncertainty is not None:
            info["uncertainty"] = steps.uncertainties.astype(np.float64)
        return info

    def _render(self) -> list[NDArray[np.uint8]]:
        """The newest frame of each lane in colour, ``uint8`` (h w 3)."""
        frames = self._rollout.frames() if self._in_latents else to_host(self._newest())
        if self.world.game.channels == 1:
            frames = repeat(frames, "b h w 1 -> b h w 3")
        return [frame.copy() for frame in frames]

    def _observations(self) -> torch.Tensor:
        """A copy of the observations of all lanes, on the world's device."""
        return self._stacked.clone()

    def _newest(self) -> torch.Tensor:
        """The part of the stack that the newest step has shown, (b h w c) or (b c h w)."""
        size = self._stacked.shape[self._channel_axis] // self.frame_stack
        return self._stacked.narrow(self._channel_axis, -size, size)

    def _rng(self, lane: int) -> np.random.Generator:
        """The generator of a lane, seeded from entropy if no seed was given."""
        rng = self._rngs[lane]
        if rng is None:
            rng, self._seeds[lane] = seeding.np_random()
            self._rngs[lane] = rng
        return rng

    def _check_begun(self, method: str) -> None:
        """Raise ResetNeeded if a lane has no episode yet."""
        if not self._begun.all():
            lanes = np.flatnonzero(~self._begun).tolist()
            where = f" in lanes {lanes}" if len(self._begun) > 1 else ""
            raise ResetNeeded(f"Call reset() before {method}(): there is no episode yet{where}.")


def _no_steps(num_lanes: int) -> LaneSteps:
    """The result of lanes that did not step."""
    return LaneSteps(
        rewards=np.zeros(num_lanes, np.float64),
        terminations=np.zeros(num_lanes, np.bool_),
        truncations=np.zeros(num_lanes, np.bool_),
        termination_probs=np.zeros(num_lanes, np.float32),
        uncertainties=np.zeros(num_lanes, np.float32),
    )


def check_seed(seed: Any) -> int:
    """Validate and return a seed."""
    check_value("seed", seed, AnySeed)
    return int(seed)


def _open_world(world: World, device: str | None, dtype: str) -> WorldModel:
    """Load a world given by name or path; pass a loaded one on."""
    if not isinstance(world, WorldModel):
        return load(world, device=device, dtype=dtype)
    if dtype != "auto":
        raise ValueError(
            f"dtype={dtype!r} is for a world given by name or path: load it with "
            f"worldsim.load(..., dtype={dtype!r})"
        )
    if device is not None:
        raise ValueError(
            f"device={device!r} is for a world given by name or path: "
            "move a loaded world with world.to(device)"
        )
    return world


def _lane_space(
    world: WorldModel, observation: str, num_lanes: int, frame_stack: int
) -> spaces.Box:
    """The observations of one lane: frames, ``uint8`` (h w c), or latents, ``float32`` (c h w).

    Raises:
        ValueError: If there is no such observation, or too little memory for all lanes.
    """
    if observation not in ("frames", "latents"):
        raise ValueError(f"observation must be 'frames' or 'latents', got {observation!r}")
    game, codec = world.game, world.codec
    shape = (*game.frame_size, frame_stack * game.channels)
    low, high = 0.0, 255.0
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    if observation == "latents":
        shape = (frame_stack * codec.latent_channels, *codec.latent_size(game.frame_size))
        low, high = -math.inf, math.inf
        dtype = np.dtype(np.float32)
    subject = f"the observations of {num_lanes:,} lanes"
    remedy = "take fewer lanes (num_envs) or a smaller frame_stack"
    num_bytes = num_lanes * math.prod(shape) * dtype.itemsize
    check_memory(4 * num_bytes, subject, remedy)  # the space's bounds, the batch, a copy
    if world.patch_frames > 1:
        num_bytes += num_lanes * world.patch_frames * world.background.nbytes
    check_memory(2 * num_bytes, subject, remedy, world.device)  # the batch, a copy
    return spaces.Box(low, high, shape, dtype)
