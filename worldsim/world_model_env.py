"""A learned world behind Gymnasium's interfaces: an episode begins from recorded frames.

`WorldModelEnv` is one player, `WorldModelVectorEnv` many in one batched model. Both can copy their
state and go back to it, as ALE's emulator can: snapshots and branching are what a learned world
has over a console.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.emulator import Emulator
from worldsim.episodes import (
    EnvState,
    Frames,
    World,
    check_actions,
    check_arguments,
    check_options,
    check_seed,
    check_starts,
    check_state,
    choose_start,
    frames_per_second,
    in_colour,
    observation_space_of,
    open_world,
)
from worldsim.key_bindings import key_codes
from worldsim.rollout import Rollout
from worldsim.world_model_vector_env import WorldModelVectorEnv

__all__ = ["EnvState", "WorldModelEnv", "WorldModelVectorEnv"]


class WorldModelEnv(Env[NDArray[Any], np.int64]):
    """A learned world as a Gymnasium environment.

    An episode begins from a window of recorded frames and ends by ``terminated`` when the world's
    termination head says so, or by ``truncated`` after ``max_episode_steps``. The seed given to
    ``reset`` decides the window, the noise and so the whole episode.

    `gymnasium.make` limits episodes itself, to 1,000 steps where its ``max_episode_steps`` is not
    given, by a wrapper whose count is no part of `clone_state`. The limit given here is.

    ``info`` always has ``start``, the index of the window that the episode began from (-1 for
    frames of one's own), and ``termination_prob`` (0 after a reset).

    Args:
        world: A bundled world's name, the path of a world or run folder, or a loaded world.
        max_episode_steps: Steps after which an episode is truncated, at least 1; None: no limit.
        num_passes: Denoising passes a frame, at least 1; None takes the world's own number.
        observation: ``"frames"``, or ``"latents"``, what the network knows of the newest frame,
            ``float32`` (c h w): a large world's frames are then only decoded where `render` asks.
        starts: Windows to begin episodes from in place of the world's own few dozen, such as
            ``recording.sample_windows(rng, 1000, world.window)``.
        max_uncertainty: Where given, each step's info has ``"uncertainty"`` (see `Rollout`; costs
            another pass) and an episode is truncated where it is above this; ``math.inf`` only
            measures it.
        render_mode: ``"rgb_array"`` or None.
        device: Where a world given by name or path is loaded; None chooses.
        compiled: Whether to compile the network first, see `Rollout`.

    Raises:
        ValueError: If an argument is out of range or there is no such world.

    Example:
        >>> import gymnasium
        >>> env = gymnasium.make("worldsim/WorldModel-v0", world="pong")  # doctest: +SKIP
        >>> obs, info = env.reset(seed=0, options={"start": 3})  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = env.step(2)  # doctest: +SKIP
    """

    _frameskip = 1  # what `AtariPreprocessing` asks of ALE: a step shows each frame there is

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        world: World,
        *,
        max_episode_steps: int | None = None,
        num_passes: int | None = None,
        observation: str = "frames",
        starts: Windows | None = None,
        max_uncertainty: float | None = None,
        render_mode: str | None = "rgb_array",
        device: str | None = None,
        compiled: bool = False,
    ) -> None:
        check_arguments(max_episode_steps, max_uncertainty, render_mode)
        self.world = open_world(world, device)
        self.max_episode_steps = max_episode_steps
        self.starts = check_starts(starts, self.world)
        self.max_uncertainty = max_uncertainty
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": frames_per_second(self.world)}
        self.observation_space = observation_space_of(self.world, observation)
        self.action_space = spaces.Discrete(self.world.game.num_actions)
        self._rollout = Rollout(
            self.world,
            1,
            num_passes=num_passes,
            compiled=compiled,
            with_uncertainty=max_uncertainty is not None,
        )
        self.ale = Emulator(self._screen)
        self._in_latents = observation == "latents"
        self._obs: NDArray[Any] | None = None
        self._elapsed = 0
        self._ended = True
        self._start = -1

    @property
    def num_passes(self) -> int:
        """Denoising passes a frame; may be set at any time."""
        return self._rollout.num_passes

    @num_passes.setter
    def num_passes(self, num_passes: int) -> None:
        self._rollout.num_passes = num_passes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Decides the whole episode and, without further seeds, those after it.
            options: ``{"start": i}`` begins from bundled window i; ``{"start": frames}`` from
                ``uint8`` frames (t h w c), the newest last, optionally with ``"actions"``, the
                t - 1 actions between them (without, they are unknown to the world).

        Returns:
            The newest frame, ``uint8`` (h w c) (or its latent), and the info.

        Raises:
            ValueError: If an option is unknown, out of range or of the wrong shape.
            TypeError: If an option has the wrong type.
        """
        check_options(options)
        super().reset(seed=None if seed is None else check_seed(seed))
        context = choose_start(self.world, self.starts, options, self.np_random)
        noise_seed = int(self.np_random.integers(2**62))
        self._rollout.reset(context.frames[None], context.actions[None], [noise_seed])
        self._obs = self._latent() if self._in_latents else context.frames[-1]
        self._elapsed = 0
        self._ended = False
        self._start = context.index
        return self._obs.copy(), self._info(0.0, 0.0)

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Imagine the next frame.

        Args:
            action: In 0 .. number of actions - 1.

        Returns:
            The frame ``uint8`` (h w c) (or its latent), reward, terminated, truncated and the info.
            The reward is the expected one, exactly 0.0 where the world expects none.

        Raises:
            ResetNeeded: Before the first reset, or when the episode is over.
            ValueError: If there is no such action.
        """
        if self._obs is None:
            raise ResetNeeded("Call reset() before step(): there is no episode yet.")
        if self._ended:
            raise ResetNeeded(
                f"The episode ended after {self._elapsed} steps: call reset() to begin another."
            )
        result = self._rollout.advance(check_actions(np.asarray([action]), self.world))
        self._obs = self._latent() if self._in_latents else self._rollout.frames()[0]
        self._elapsed += 1
        terminated = bool(result.terminations[0])
        limit = math.inf if self.max_episode_steps is None else self.max_episode_steps
        truncated = self._elapsed >= limit
        uncertainty = 0.0 if result.uncertainties is None else float(result.uncertainties[0])
        if self.max_uncertainty is not None:
            truncated = truncated or uncertainty > self.max_uncertainty
        info = self._info(float(result.termination_probs[0]), uncertainty)
        self._ended = terminated or truncated
        return self._obs.copy(), float(result.rewards[0]), terminated, truncated, info

    def render(self) -> Frames | None:  # type: ignore[override]
        """Return the newest frame in colour, ``uint8`` (h w 3); None without a render mode."""
        if self.render_mode is None:
            return None
        return self._screen()

    def get_action_meanings(self) -> list[str]:
        """One word for each action, as the recorded game has them."""
        return list(self.world.game.action_meanings)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """The keys of each action, for `gymnasium.utils.play`."""
        return key_codes(self.world.game.key_bindings)

    def clone_state(self) -> EnvState:
        """Copy the state: the same actions after `restore_state` give the same future.

        ``state.branch(n)`` goes into a `WorldModelVectorEnv` of n lanes, to try n futures at once.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self._obs is None:
            raise ResetNeeded("Call reset() before clone_state(): there is no episode yet.")
        return EnvState(
            rollout=self._rollout.clone_state(),
            observations=self._obs[None].copy(),
            elapsed=np.array([self._elapsed]),
            ended=np.array([self._ended]),
            starts=np.array([self._start]),
            rngs=(deepcopy(self.np_random),),
        )

    def restore_state(self, state: EnvState) -> None:
        """Go back to a state of `clone_state`; the state can be restored any number of times.

        Raises:
            TypeError: If it is no state.
            ValueError: If it is of another world, device, number of lanes or kind of observation;
                the environment stays as it is.
        """
        space = self.observation_space
        check_state(state, np.zeros((1, *(space.shape or ())), space.dtype))
        self._rollout.restore_state(state.rollout)
        self._obs = state.observations[0].copy()
        self._elapsed = int(state.elapsed[0])
        self._ended = bool(state.ended[0])
        self._start = int(state.starts[0])
        self._np_random = deepcopy(state.rngs[0])

    def _info(self, termination_prob: float, uncertainty: float) -> dict[str, Any]:
        """The same keys always: some libraries learn them from the first step that they see."""
        info = {"start": self._start, "termination_prob": termination_prob}
        return info if self.max_uncertainty is None else {**info, "uncertainty": uncertainty}

    def _screen(self) -> Frames:
        if self._obs is None:
            raise ResetNeeded("Call reset() before render(): there is no frame yet.")
        return in_colour(self._rollout.frames()[0] if self._in_latents else self._obs)

    def _latent(self) -> NDArray[Any]:
        return self._rollout.latents[0].cpu().numpy().copy()
