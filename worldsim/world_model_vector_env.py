"""Many players in one learned world, behind Gymnasium's vector interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.episodes import (
    EnvState,
    Frames,
    World,
    check_actions,
    check_arguments,
    check_mask,
    check_observations_fit,
    check_options,
    check_seed,
    check_starts,
    check_state,
    choose_start,
    frames_per_second,
    in_colour,
    lane_options,
    observation_space_of,
    open_world,
)
from worldsim.options import Count, check_value
from worldsim.rollout import Rollout


class _Played(NamedTuple):
    """What a step of each lane comes to, (b,); what did not play has 0 and False."""

    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    termination_probs: NDArray[np.float32]
    uncertainties: NDArray[np.float32]


class WorldModelVectorEnv(VectorEnv[NDArray[Any], NDArray[np.int64], NDArray[Any]]):
    """Many players in one learned world: one batched model, not many copies.

    Lane i seeded with s plays what a `WorldModelEnv` seeded with s plays (up to the rounding of
    batched arithmetic). Finished lanes follow Gymnasium's autoreset modes: ``NEXT_STEP`` resets
    them in the following step, ``SAME_STEP`` at once with ``final_obs`` and ``final_info`` in the
    info, ``DISABLED`` leaves them to ``reset(options={"reset_mask": mask})``. No reset touches
    another lane.

    Args:
        world: As for `WorldModelEnv`; the lanes share it.
        num_envs: Lanes, at least 1.
        max_episode_steps: Steps after which a lane's episode is truncated, at least 1; None: no
            limit, which `gymnasium.make_vec` makes 1,000 where it is not given.
        num_passes: Denoising passes a frame, at least 1; None takes the world's own number.
        observation: As for `WorldModelEnv`.
        starts: As for `WorldModelEnv`.
        max_uncertainty: As for `WorldModelEnv`.
        frame_skip: Frames for which each action is held, at least 1. A step adds up their rewards;
            a lane whose episode ends on the way waits there for the others.
        frame_stack: How many observations a lane shows at once, those of its last steps, at least
            1: they are concatenated along the channels, the newest last. An episode begins with
            its first one repeated.
        autoreset_mode: An `AutoresetMode` or its value, e.g. ``"SameStep"``.
        render_mode: ``"rgb_array"`` or None.
        device: Where a world given by name or path is loaded; None chooses.
        compiled: Whether to compile the network first, see `Rollout`.

    Raises:
        ValueError: If an argument is out of range or the world is not found.

    Example:
        >>> import gymnasium
        >>> envs = gymnasium.make_vec(
        ...     "worldsim/WorldModel-v0", world="pong", num_envs=8
        ... )  # doctest: +SKIP
        >>> obs, infos = envs.reset(seed=0)  # doctest: +SKIP
        >>> obs.shape  # doctest: +SKIP
        (8, 64, 64, 3)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        num_passes: int | None = None,
        observation: str = "frames",
        starts: Windows | None = None,
        max_uncertainty: float | None = None,
        frame_skip: int = 1,
        frame_stack: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = "rgb_array",
        device: str | None = None,
        compiled: bool = False,
    ) -> None:
        check_value("num_envs", num_envs, Count)
        check_value("frame_skip", frame_skip, Count)
        check_value("frame_stack", frame_stack, Count)
        check_arguments(max_episode_steps, max_uncertainty, render_mode)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.world = open_world(world, device)
        self.num_envs, self.frame_skip, self.frame_stack = num_envs, frame_skip, frame_stack
        self.max_episode_steps = max_episode_steps
        self.starts = check_starts(starts, self.world)
        self.max_uncertainty = max_uncertainty
        self.render_mode = render_mode
        self.metadata = {
            **self.metadata,
            "render_fps": frames_per_second(self.world),
            "autoreset_mode": self.autoreset_mode,
        }
        self._rollout = Rollout(
            self.world,
            num_envs,
            num_passes=num_passes,
            compiled=compiled,
            with_uncertainty=max_uncertainty is not None,
        )
        space = observation_space_of(self.world, observation)
        check_observations_fit(num_envs, frame_stack, space)
        self.single_observation_space = observation_space_of(self.world, observation, frame_stack)
        self.single_action_space = spaces.Discrete(self.world.game.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs
        self._in_latents = observation == "latents"
        self._channel_axis = 1 if self._in_latents else 3
        self._obs: NDArray[Any] = np.zeros(self.observation_space.shape or (), space.dtype)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        self._started = np.zeros(num_envs, dtype=np.bool_)
        self._start_indices = np.full(num_envs, -1)

    @property
    def num_passes(self) -> int:
        """Denoising passes a frame; may be set at any time."""
        return self._rollout.num_passes

    @num_passes.setter
    def num_passes(self, num_passes: int) -> None:
        self._rollout.num_passes = num_passes

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each lane's generator, from which its starts are drawn."""
        return tuple(self._lane_rng(lane) for lane in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each lane's last seed."""
        for lane in range(self.num_envs):
            self._lane_rng(lane)
        return tuple(self._seeds)

    def reset(  # type: ignore[override]
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode in every lane, or in those of a mask.

        Args:
            seed: An int s seeds lane i with s + i; a sequence has one seed (or None) a lane.
            options: As for `WorldModelEnv.reset`; ``"start"`` may also be one index a lane.
                ``"reset_mask"``, ``bool`` (num_envs,), names the lanes to reset; the others go on.

        Returns:
            The newest frames of all lanes, ``uint8`` (b h w c) (or latents), and the infos of
            those reset.

        Raises:
            ValueError: If a seed or option does not fit.
            TypeError: If an option has the wrong type.
        """
        seeds = self._lane_seeds(seed)
        check_options(options)
        lanes = np.arange(self.num_envs)
        if options is not None and "reset_mask" in options:
            lanes = lanes[check_mask(options["reset_mask"], self.num_envs)]
            options = {key: value for key, value in options.items() if key != "reset_mask"}
        self._reset_lanes(lanes, options, seeds)
        infos: dict[str, Any] = {}
        for lane in lanes:
            infos = self._add_info(infos, self._info(int(lane), 0.0, 0.0), int(lane))
        return self._obs.copy(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Imagine the next frame of every lane, or the next ``frame_skip`` frames.

        Args:
            actions: ``int`` (b,), each in 0 .. number of actions - 1. Those of lanes that this
                step resets (``NEXT_STEP``) are ignored.

        Returns:
            Frames ``uint8`` (b h w c) (or latents), rewards ``float64`` (b,), terminations and
            truncations ``bool`` (b,) and the infos. Rewards are those of `WorldModelEnv.step`.

        Raises:
            ResetNeeded: If a lane has no episode yet, or (``DISABLED``) its episode is over.
            ValueError: If there is no such action.
        """
        actions = check_actions(actions, self.world, self.num_envs)
        self._check_ready()
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        resets = self._ended.copy() if next_step else np.zeros_like(self._ended)
        plays = ~resets
        rewards, terminations, truncations, probs, uncertainties = self._play(actions, plays)
        self._elapsed += plays
        limit = math.inf if self.max_episode_steps is None else self.max_episode_steps
        truncations |= plays & (self._elapsed >= limit)
        self._ended = terminations | truncations
        final_obs = self._obs
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            resets = self._ended.copy()
            final_obs = self._obs.copy()
        told = [
            self._info(lane, float(probs[lane]), float(uncertainties[lane]))
            for lane in range(self.num_envs)
        ]
        if resets.any():
            self._reset_lanes(np.flatnonzero(resets))

        infos: dict[str, Any] = {}
        for lane, info in enumerate(told):
            if resets[lane]:
                if plays[lane]:
                    final = {"final_obs": final_obs[lane].copy(), "final_info": info}
                    infos = self._add_info(infos, final, lane)
                info = self._info(lane, 0.0, 0.0)
            infos = self._add_info(infos, info, lane)
        return self._obs.copy(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Frames, ...] | None:  # type: ignore[override]
        """Return each lane's newest frame in colour, ``uint8`` (h w 3); None without a mode."""
        if self.render_mode is None:
            return None
        channels = self.world.game.channels
        frames = self._rollout.frames() if self._in_latents else self._obs[..., -channels:]
        return tuple(in_colour(frame) for frame in frames)

    def clone_state(self) -> EnvState:
        """Copy the state of all lanes, later automatic resets included.

        Raises:
            ResetNeeded: If a lane has no episode yet.
        """
        self._check_started()
        return EnvState(
            rollout=self._rollout.clone_state(),
            observations=self._obs.copy(),
            elapsed=self._elapsed.copy(),
            ended=self._ended.copy(),
            starts=self._start_indices.copy(),
            rngs=deepcopy(self.np_random),
        )

    def restore_state(self, state: EnvState) -> None:
        """Go back to a state of `clone_state`; the state can be restored any number of times.

        Raises:
            TypeError: If it is no state.
            ValueError: If it is of another world, device, number of lanes or kind of observation;
                the environment stays as it is.
        """
        check_state(state, self._obs)
        self._rollout.restore_state(state.rollout)
        self._obs = state.observations.copy()
        self._elapsed = state.elapsed.copy()
        self._ended = state.ended.copy()
        self._start_indices = state.starts.copy()
        self._started[:] = True
        self._rngs = list(deepcopy(state.rngs))

    def _play(self, actions: NDArray[np.int64], plays: NDArray[np.bool_]) -> _Played:
        """Hold the actions of lanes that play for ``frame_skip`` frames, or to their end."""
        num_envs, noop = self.num_envs, self.world.game.noop_action
        played = _Played(
            rewards=np.zeros(num_envs),
            terminations=np.zeros(num_envs, np.bool_),
            truncations=np.zeros(num_envs, np.bool_),
            termination_probs=np.zeros(num_envs, np.float32),
            uncertainties=np.zeros(num_envs, np.float32),
        )
        shown = np.split(self._obs, self.frame_stack, self._channel_axis)[-1].copy()
        going = plays.copy()
        for frame in range(self.frame_skip):
            if not going.any():
                break
            # The other lanes ride along: their frames and noise are replaced by their reset.
            result = self._rollout.advance(np.where(going, actions, noop))
            played.rewards[going] += result.rewards[going]
            played.termination_probs[going] = result.termination_probs[going]
            played.terminations[going] = result.terminations[going]
            if result.uncertainties is not None and self.max_uncertainty is not None:
                played.uncertainties[going] = result.uncertainties[going]
                played.truncations[going] = result.uncertainties[going] > self.max_uncertainty
            after = going & ~played.terminations & ~played.truncations
            if frame == self.frame_skip - 1 or (after != going).any():
                shown[going] = self._look()[going]
            going = after
        kept = np.split(self._obs, self.frame_stack, self._channel_axis)[1:]
        self._obs = np.concatenate((*kept, shown), self._channel_axis)
        return played

    def _reset_lanes(
        self,
        lanes: NDArray[np.int64],
        options: Mapping[str, Any] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> None:
        """Begin an episode in these lanes alone."""
        starts = []
        for lane in lanes:
            if seeds is not None and seeds[lane] is not None:
                self._rngs[lane], self._seeds[lane] = seeding.np_random(seeds[lane])
            own_options, rng = lane_options(options, int(lane), self.num_envs), self._lane_rng(lane)
            starts.append(choose_start(self.world, self.starts, own_options, rng))
        self._rollout.reset(
            np.stack([start.frames for start in starts]),
            np.stack([start.actions for start in starts]),
            [int(self._lane_rng(lane).integers(2**62)) for lane in lanes],
            lanes=None if len(lanes) == self.num_envs else [int(lane) for lane in lanes],
        )
        first = (
            self._look()[lanes]
            if self._in_latents
            else np.stack([start.frames[-1] for start in starts])
        )
        self._obs[lanes] = np.concatenate([first] * self.frame_stack, self._channel_axis)
        self._elapsed[lanes] = 0
        self._ended[lanes] = False
        self._started[lanes] = True
        self._start_indices[lanes] = [start.index for start in starts]

    def _info(self, lane: int, termination_prob: float, uncertainty: float) -> dict[str, Any]:
        """A lane's info, with the keys that `WorldModelEnv` has."""
        start = int(self._start_indices[lane])
        info = {"start": start, "termination_prob": termination_prob}
        return info if self.max_uncertainty is None else {**info, "uncertainty": uncertainty}

    def _look(self) -> NDArray[Any]:
        """The newest observation of each lane."""
        if self._in_latents:
            return self._rollout.latents.cpu().numpy().copy()
        return self._rollout.frames()

    def _lane_rng(self, lane: int) -> np.random.Generator:
        rng = self._rngs[lane]
        if rng is None:
            rng, self._seeds[lane] = seeding.np_random()
            self._rngs[lane] = rng
        return rng

    def _lane_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, (Sequence, np.ndarray)):
            first = check_seed(seed)
            return [first + lane for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                f"A sequence of seeds has one a lane: expected {self.num_envs}, got {len(seed)}"
            )
        return [None if one is None else check_seed(one) for one in seed]

    def _check_started(self) -> None:
        if not self._started.all():
            lanes = np.flatnonzero(~self._started).tolist()
            raise ResetNeeded(f"Call reset() first: no episode yet in lanes {lanes}.")

    def _check_ready(self) -> None:
        self._check_started()
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            lanes = np.flatnonzero(self._ended).tolist()
            raise ResetNeeded(
                f"The episodes of lanes {lanes} are over and automatic resets are disabled: call "
                'reset(options={"reset_mask": mask}) with the mask True for these lanes.'
            )
