"""A learned world as a Gymnasium environment, whose episodes begin from recorded frames.

`WorldModelEnv` is one lane, `WorldModelVectorEnv` many in one batched model. Both can clone and
restore their state, as ALE's emulator can, and branch it into many lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.env_state import EnvState
from worldsim.game.emulator import Emulator
from worldsim.game.keys import key_codes
from worldsim.lanes import Lanes, LaneSteps, World, check_seed
from worldsim.start import check_actions
from worldsim.system.devices import to_host
from worldsim.world_model_vector_env import WorldModelVectorEnv

__all__ = ["EnvState", "WorldModelEnv", "WorldModelVectorEnv"]


class WorldModelEnv(Lanes, Env[NDArray[Any], np.int64]):
    """A learned world as a Gymnasium environment.

    An episode begins from a window of recorded frames. It is ``terminated`` by a draw from the
    predicted probability, or ``truncated`` after ``max_episode_steps``. The seed of ``reset``
    decides the window and the noise, and so the episode.

    `gymnasium.make` limits episodes by a wrapper, to 1,000 steps by default; its count is not part
    of `clone_state`. The limit given here is.

    ``info`` always has ``start``, the index of the start window (-1 for custom frames), and
    ``termination_prob`` (0 after a reset).

    Some worlds predict several frames together, ``world.patch_frames``. A step then holds its
    action for all of them (``metadata["frames_per_step"]``), adds up their rewards and observes the
    last one. ``info["frames"]`` has them all, ``uint8`` (p h w c); after a reset, the first one
    repeated.

    Args:
        world: A bundled world's name, the path of a world or run folder, or a loaded world.
        max_episode_steps: Steps after which an episode is truncated, at least 1; None: no limit.
        num_passes: Denoising passes per frame, at least 1; None takes the world's own number.
        observation: ``"frames"``, or ``"latents"``: the newest frame as ``float32`` latents
            (c h w). Frames are then decoded only in `render`.
        starts: Windows to begin episodes from instead of the world's own few dozen, such as
            ``recording.sample_windows(rng, 1000, world.context_frames)``.
        max_uncertainty: If given, each step measures ``info["uncertainty"]`` (one more pass, see
            `Rollout`). Above this value an episode is truncated; ``math.inf`` only measures.
        render_mode: ``"rgb_array"`` or None.
        device: Where a world given by name or path is loaded; None chooses.
        dtype: The type of its weights, see `worldsim.load`.
        compiled: Whether to compile the network first, see `Rollout`.
        guidance_scale: How closely a world with text follows prompts, see `Rollout`.

    Raises:
        ValueError: If an argument is out of range or there is no such world.

    Example:
        >>> import gymnasium
        >>> env = gymnasium.make("worldsim/WorldModel-v0", world="pong")  # doctest: +SKIP
        >>> obs, info = env.reset(seed=0, options={"start": 3})  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = env.step(2)  # doctest: +SKIP
    """

    _frameskip = 1  # read by `AtariPreprocessing`: a step does not skip frames

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
        dtype: str = "auto",
        compiled: bool = False,
        guidance_scale: float = 1.0,
    ) -> None:
        super().__init__(
            world,
            1,
            max_episode_steps=max_episode_steps,
            num_passes=num_passes,
            observation=observation,
            starts=starts,
            max_uncertainty=max_uncertainty,
            render_mode=render_mode,
            device=device,
            dtype=dtype,
            compiled=compiled,
            guidance_scale=guidance_scale,
        )
        self.observation_space = self._lane_space
        self.action_space = spaces.Discrete(self.world.game.num_actions)
        self.ale = Emulator(self._screen)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Decides the episode and, without further seeds, those after it.
            options: ``{"start": i}`` begins from start window i, ``{"start": frames}`` from
                ``uint8`` frames (t h w c), newest last. ``"actions"`` may give the t - 1 actions
                between them; otherwise they are unknown. ``{"prompt": "two red balls"}`` begins a
                world with text from words alone, or with a start from both. Without it a start
                window has its own caption, if it was recorded with one.

        Returns:
            The newest frame, ``uint8`` (h w c) (or its latent), and the info.

        Raises:
            ValueError: If an option is unknown, out of range or of the wrong shape, or the world
                cannot encode the prompt.
            TypeError: If an option has the wrong type.
        """
        self._begin(np.arange(1), [None if seed is None else check_seed(seed)], options)
        return to_host(self._observations()[0]), self._lane_info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Imagine the next frame, or all frames of a step.

        Args:
            action: In 0 .. number of actions - 1.

        Returns:
            The newest frame ``uint8`` (h w c) (or its latent), reward, terminated, truncated and
            the info. The reward is the expected one, see `Outcome`.

        Raises:
            ResetNeeded: Before the first reset, or when the episode is over.
            ValueError: If there is no such action.
        """
        self._check_begun("step")
        if self._ended[0]:
            raise ResetNeeded(
                f"the episode ended after {self._elapsed[0]} steps: call reset() to begin another"
            )
        steps = self._play(check_actions([action], self.world, 1), np.ones(1, np.bool_))
        return (
            to_host(self._observations()[0]),
            float(steps.rewards[0]),
            bool(steps.terminations[0]),
            bool(steps.truncations[0]),
            self._lane_info(steps),
        )

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Return the newest frame in colour, ``uint8`` (h w 3); None without a render mode."""
        if self.render_mode is None:
            return None
        return self._screen()

    def get_action_meanings(self) -> list[str]:
        """One word for each action, as in the recorded game."""
        return list(self.world.game.action_meanings)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """The keys of each action, for `gymnasium.utils.play`."""
        return key_codes(self.world.game.key_bindings)

    @property
    def _np_random(self) -> np.random.Generator | None:
        """The lane's generator, under the name that Gymnasium reads."""
        return self._rngs[0]

    @_np_random.setter
    def _np_random(self, rng: np.random.Generator | None) -> None:
        self._rngs[0] = rng

    @property
    def _np_random_seed(self) -> int | None:
        return self._seeds[0]

    @_np_random_seed.setter
    def _np_random_seed(self, seed: int | None) -> None:
        self._seeds[0] = seed

    def _lane_info(self, steps: LaneSteps | None = None) -> dict[str, Any]:
        """The info of the only lane."""
        info: dict[str, Any] = {key: values.item() for key, values in self._info(steps).items()}
        if self._clip is not None:
            info["frames"] = to_host(self._clip[0]).copy()
        return info

    def _screen(self) -> NDArray[np.uint8]:
        """The newest frame in colour, ``uint8`` (h w 3)."""
        self._check_begun("render")
        return self._render()[0]
