"""Adapter of Gymnasium's vector environments for Stable-Baselines3 (extra ``rl``).

Stable-Baselines3 has its own interface: one ``done``, automatic resets and a list of infos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv


class SB3VecEnv(VecEnv):
    """A vector environment of Gymnasium as a ``VecEnv`` of Stable-Baselines3.

    Args:
        envs: A vector environment that resets in the same step, such as a `WorldModelVectorEnv`
            with ``autoreset_mode="SameStep"``.

    Raises:
        ValueError: If it has another autoreset mode, or returns tensors.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from worldsim import WorldModelVectorEnv
        >>> envs = WorldModelVectorEnv("pong", 8, autoreset_mode="SameStep")  # doctest: +SKIP
        >>> agent = PPO("CnnPolicy", SB3VecEnv(envs))  # doctest: +SKIP
        >>> agent = agent.learn(100_000)  # doctest: +SKIP
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                "Stable-Baselines3 needs environments that reset in the same step: make them with "
                f'autoreset_mode="SameStep", got {mode}'
            )
        output = getattr(envs.unwrapped, "output", "numpy")
        if output != "numpy":
            raise ValueError(
                "Stable-Baselines3 needs environments that return arrays: make them with "
                f'output="numpy", got {output!r}'
            )
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin an episode in every lane, with the seeds and options set before."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        if any(options != self._options[0] for options in self._options):
            raise ValueError("the lanes of one batch need the same options, got different ones")
        obs, infos = self.envs.reset(seed=seeds, options=self._options[0] or None)  # type: ignore[arg-type]
        self.reset_infos = [_lane_info(infos, lane) for lane in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step with the actions of `step_async`.

        Returns:
            Observations, rewards ``float32`` (b,), dones ``bool`` (b,) and one info per lane. A
            finished lane's info has its last frame as ``terminal_observation``.
        """
        obs, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        lane_infos = [_lane_info(infos, lane) for lane in range(self.num_envs)]
        dones = terminations | truncations
        for lane in np.flatnonzero(dones):
            info = lane_infos[lane]
            info |= info.pop("final_info", {})
            info["terminal_observation"] = info.pop("final_obs")
            info["TimeLimit.truncated"] = bool(truncations[lane] and not terminations[lane])
        return obs, rewards.astype(np.float32), dones, lane_infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Each lane's newest frame in colour."""
        return self.envs.render() or [None] * self.num_envs  # type: ignore[return-value]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the batch, repeated for each of the lanes."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the batch; it cannot be set for some lanes only."""
        if len(list(self._get_indices(indices))) < self.num_envs:
            raise ValueError(f"the lanes of one batch share {attr_name!r}: set it for all of them")
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Raise: a lane of a batch is not an environment with methods."""
        raise AttributeError(f"a lane of a batch has no method {method_name!r}: call it on `envs`")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """False for each lane: a batch can only be wrapped as one."""
        return [False for _ in self._get_indices(indices)]

    def _get_indices(self, indices: Any) -> Iterable[int]:
        return super()._get_indices(indices)


def _lane_info(infos: dict[str, Any], lane: int) -> dict[str, Any]:
    """One lane's info out of a vector environment's infos."""
    info = {}
    for key, values in infos.items():
        if not key.startswith("_") and (f"_{key}" not in infos or infos[f"_{key}"][lane]):
            info[key] = _lane_info(values, lane) if isinstance(values, dict) else values[lane]
    return info
