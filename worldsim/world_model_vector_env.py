"""Many lanes of one learned world, as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.data.windows import Windows
from worldsim.lanes import Lanes, LaneSteps, World, check_seed
from worldsim.start import check_actions, check_options
from worldsim.system.devices import to_device, to_host
from worldsim.system.options import Count, check_value


class WorldModelVectorEnv(Lanes, VectorEnv[Any, Any, Any]):
    """Many lanes of one learned world in one batched model.

    Lane i seeded with s equals a `WorldModelEnv` seeded with s, up to the rounding of batched
    arithmetic. No reset changes another lane.

    Finished lanes follow Gymnasium's autoreset modes. ``NEXT_STEP`` resets them in the next step.
    ``SAME_STEP`` resets at once, with ``final_obs`` and ``final_info``. ``DISABLED`` leaves them
    to ``reset(options={"reset_mask": mask})``.

    With ``output="torch"`` an agent on a GPU never leaves it: `reset` and `step` return tensors on
    the world's device, as Gymnasium's ``NumpyToTorch`` would give, but frames are never copied to
    the host. Only actions, rewards and ends are. Floats are ``float32``. ``final_obs`` is one
    tensor (b …), in which lanes outside the mask ``_final_obs`` have their newest observation.

    Args:
        world: As for `WorldModelEnv`; the lanes share it.
        num_envs: Lanes, at least 1.
        max_episode_steps: Steps after which a lane's episode is truncated, at least 1; None: no
            limit. `gymnasium.make_vec` has its own default of 1,000.
        num_passes: As for `WorldModelEnv`.
        observation: As for `WorldModelEnv`.
        starts: As for `WorldModelEnv`.
        max_uncertainty: As for `WorldModelEnv`.
        frame_skip: Predictions per step, at least 1: each repeats the action, and their rewards are
            added. A lane whose episode ends earlier waits for the others. In a world that predicts
            several frames together, ``info["frames"]`` (b p h w c) has those of the last one.
        frame_stack: Observations per lane, at least 1: those of its last steps, concatenated along
            the channels, newest last. An episode begins with its first one repeated.
        autoreset_mode: An `AutoresetMode` or its value, e.g. ``"SameStep"``.
        output: ``"numpy"`` or ``"torch"``: what `reset` and `step` return. Actions and options may
            be arrays or tensors with both.
        render_mode: ``"rgb_array"`` or None.
        device: Where a world given by name or path is loaded; None chooses.
        dtype: As for `WorldModelEnv`.
        compiled: Whether to compile the network first, see `Rollout`.
        guidance_scale: As for `WorldModelEnv`.

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
        output: str = "numpy",
        render_mode: str | None = "rgb_array",
        device: str | None = None,
        dtype: str = "auto",
        compiled: bool = False,
        guidance_scale: float = 1.0,
    ) -> None:
        check_value("num_envs", num_envs, Count)
        if output not in ("numpy", "torch"):
            raise ValueError(f"output must be 'numpy' or 'torch', got {output!r}")
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*modes, *AutoresetMode):
            raise ValueError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}")
        self.output = output
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        super().__init__(
            world,
            num_envs,
            max_episode_steps=max_episode_steps,
            num_passes=num_passes,
            observation=observation,
            starts=starts,
            max_uncertainty=max_uncertainty,
            frame_skip=frame_skip,
            frame_stack=frame_stack,
            render_mode=render_mode,
            device=device,
            dtype=dtype,
            compiled=compiled,
            guidance_scale=guidance_scale,
        )
        self.num_envs = num_envs
        self.metadata["autoreset_mode"] = self.autoreset_mode
        self.single_observation_space = self._lane_space
        self.single_action_space = spaces.Discrete(self.world.game.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each lane's generator, from which its starts are drawn."""
        return tuple(self._rng(lane) for lane in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each lane's last seed."""
        for lane in range(self.num_envs):
            self._rng(lane)  # seeds a lane that has none
        return tuple(-1 if seed is None else seed for seed in self._seeds)

    def reset(  # type: ignore[override]
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane, or in those of a mask.

        Args:
            seed: An int s seeds lane i with s + i; a sequence has one seed (or None) per lane.
            options: As for `WorldModelEnv.reset`; ``"start"`` may also be one index per lane, and
                ``"prompt"`` one text or None per lane. ``"reset_mask"``, ``bool`` (num_envs,),
                selects the lanes to reset.

        Returns:
            The newest frames of all lanes, ``uint8`` (b h w c) (or latents), and the infos of
            those reset.

        Raises:
            ValueError: If a seed or option does not fit.
            TypeError: If an option has the wrong type.
        """
        seeds = self._lane_seeds(seed)
        check_options(options)
        options = {
            name: to_host(option) if isinstance(option, torch.Tensor) else option
            for name, option in (options or {}).items()
        }
        resets = np.ones(self.num_envs, np.bool_)
        if "reset_mask" in options:
            resets = _check_mask(options.pop("reset_mask"), self.num_envs)
        lanes, indices = np.flatnonzero(resets), None
        if _is_per_lane(options.get("start")):
            indices = self._of_lanes("start", options.pop("start"), lanes)
        if isinstance(options.get("prompt"), (list, tuple)):
            options["prompt"] = self._of_lanes("prompt", options["prompt"], lanes)
        self._begin(lanes, seeds, options, indices)
        return self._returned(self._observations()), self._returned(self._infos(resets))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Imagine the next frame of every lane, or the next ``frame_skip`` frames.

        Args:
            actions: ``int`` (b,), each in 0 .. number of actions - 1, an array or a tensor on any
                device. Those of lanes that this step resets (``NEXT_STEP``) are ignored.

        Returns:
            Frames ``uint8`` (b h w c) (or latents), rewards ``float64`` (b,), terminations and
            truncations ``bool`` (b,) and the infos.

        Raises:
            ResetNeeded: If a lane has no episode yet, or (``DISABLED``) its episode is over.
            ValueError: If there is no such action.
        """
        actions = check_actions(actions, self.world, self.num_envs)
        self._check_ready()
        mode = self.autoreset_mode
        resets = self._ended & (mode is AutoresetMode.NEXT_STEP)
        steps = self._play(actions, ~resets)
        infos: dict[str, Any] = {}
        if mode is AutoresetMode.SAME_STEP and self._ended.any():
            resets = self._ended.copy()
            infos = self._final_infos(resets, steps)
        if resets.any():
            self._begin(np.flatnonzero(resets))
            steps.termination_probs[resets] = steps.uncertainties[resets] = 0.0
        infos |= self._infos(np.ones(self.num_envs, np.bool_), steps)
        return (
            self._returned(self._observations()),
            self._returned(steps.rewards),
            self._returned(steps.terminations),
            self._returned(steps.truncations),
            self._returned(infos),
        )

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """Each lane's newest frame in colour, ``uint8`` (h w 3); None without a render mode."""
        return None if self.render_mode is None else tuple(self._render())

    def _lane_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, (Sequence, np.ndarray)):
            first = check_seed(seed)
            return [first + lane for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                f"a sequence of seeds has one per lane: expected {self.num_envs}, got {len(seed)}"
            )
        return [None if one is None else check_seed(one) for one in seed]

    def _of_lanes(self, name: str, option: Sequence[Any], lanes: NDArray[np.int64]) -> list[Any]:
        """The values of these lanes in an option that has one for each lane."""
        if len(option) != self.num_envs:
            raise ValueError(
                f"the option {name!r} has one value per lane: expected {self.num_envs}, got "
                f"{len(option)}"
            )
        return [option[lane] for lane in lanes]

    def _infos(self, lanes: NDArray[np.bool_], steps: LaneSteps | None = None) -> dict[str, Any]:
        """The infos of the lanes of a mask in Gymnasium's form: arrays of all lanes, and masks."""
        infos: dict[str, Any] = {}
        for key, values in self._info(steps).items():
            infos[key] = np.where(lanes, values, np.zeros_like(values))
            infos[f"_{key}"] = lanes.copy()
        if self._clip is not None:
            frames = self._clip.clone()
            frames[to_device(~lanes, frames.device)] = 0
            infos["frames"], infos["_frames"] = frames, lanes.copy()
        return infos

    def _returned(self, value: Any) -> Any:
        """What callers get of an array or a tensor, or of those in a dictionary: see ``output``."""
        if isinstance(value, dict):
            return {key: self._returned(part) for key, part in value.items()}
        if self.output == "numpy":
            return to_host(value) if isinstance(value, torch.Tensor) else value
        if isinstance(value, torch.Tensor):
            return value
        if value.dtype == np.float64:  # which Apple's GPUs lack
            value = value.astype(np.float32)
        return to_device(value, self.world.device)

    def _final_infos(self, ended: NDArray[np.bool_], steps: LaneSteps) -> dict[str, Any]:
        """The last observations and infos of the lanes whose episodes have ended."""
        final_obs: Any = self._observations()
        if self.output == "numpy":
            lanes = np.flatnonzero(ended)
            last = to_host(final_obs[to_device(lanes, self.world.device)])
            final_obs = np.full(self.num_envs, None, dtype=object)
            # One by one: NumPy would spread an array over the lanes, not put a frame into each.
            for lane, obs in zip(lanes, last, strict=True):
                final_obs[lane] = obs
        return {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": self._infos(ended, steps),
            "_final_info": ended.copy(),
        }

    def _check_ready(self) -> None:
        self._check_begun("step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            lanes = np.flatnonzero(self._ended).tolist()
            raise ResetNeeded(
                f"the episodes of lanes {lanes} are over and automatic resets are disabled: call "
                'reset(options={"reset_mask": mask}) with the mask True for these lanes'
            )


def _is_per_lane(start: Any) -> bool:
    """Whether an option ``start`` has one index per lane, rather than one for all, or frames."""
    return isinstance(start, (np.ndarray, list, tuple)) and np.ndim(start) == 1


def _check_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Validate and return a ``reset_mask``."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"the option 'reset_mask' must be a numpy array of bool, got {kind}")
    if mask.shape != (num_envs,):
        raise ValueError(f"'reset_mask' must have the shape ({num_envs},), got {mask.shape}")
    if not mask.any():
        raise ValueError("'reset_mask' must be True for at least one lane, got none")
    return mask
