"""EnvState: a snapshot of an environment, and the check before it is restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.rollout_state import RolloutState


@dataclass(frozen=True)
class EnvState:
    """All that decides the next steps of a `WorldModelEnv` or `WorldModelVectorEnv`.

    Attributes:
        rollout: The cache of past frames and each lane's noise generator.
        observations: The observation of each lane, (b …), on the world's device.
        elapsed: ``int64`` (b,), steps since each lane's reset.
        ended: ``bool`` (b,), lanes whose episode is over.
        starts: ``int64`` (b,), index of each lane's start window, or -1.
        rngs: One generator per lane, from which later episodes draw their starts.
    """

    rollout: RolloutState
    observations: torch.Tensor
    elapsed: NDArray[np.int64]
    ended: NDArray[np.bool_]
    starts: NDArray[np.int64]
    rngs: tuple[np.random.Generator, ...]

    def branch(self, num_envs: int, lane: int = 0) -> EnvState:
        """Copy one lane's state into many lanes, which differ once their actions do.

        Args:
            num_envs: Lanes of the environment to restore into, at least 1.
            lane: The lane of this state to copy.

        Raises:
            ValueError: If there is no such lane, or ``num_envs`` is below 1.
        """
        if num_envs < 1 or not 0 <= lane < len(self.elapsed):
            raise ValueError(
                f"branch copies a lane in 0..{len(self.elapsed) - 1} into 1 lane or more, got "
                f"lane {lane} into {num_envs}"
            )
        lanes = [lane] * num_envs
        return EnvState(
            rollout=self.rollout.take_lanes(lanes),
            observations=self.observations[lanes],
            elapsed=self.elapsed[lanes],
            ended=self.ended[lanes],
            starts=self.starts[lanes],
            rngs=(self.rngs[lane],) * num_envs,  # each lane that is restored gets a copy
        )


def copy_rng(rng: np.random.Generator) -> np.random.Generator:
    """A generator that draws the same numbers, ten times as fast as by `copy.deepcopy`."""
    bits = rng.bit_generator
    copied = type(bits)(bits.seed_seq)  # type: ignore[arg-type]  # of any kind
    copied.state = bits.state
    return np.random.Generator(copied)


def check_state(state: Any, observations: torch.Tensor) -> None:
    """Raise for a state that an environment with these observations (b …) cannot restore.

    Raises:
        TypeError: If it is not an `EnvState`.
        ValueError: If its lanes or observations differ from these.
    """
    if not isinstance(state, EnvState):
        raise TypeError(
            f"restore_state takes the result of clone_state, got {type(state).__name__}"
        )
    num_lanes = len(observations)
    if len(state.elapsed) != num_lanes:
        raise ValueError(
            f"this environment has {num_lanes} lane(s), the state was cloned from one with "
            f"{len(state.elapsed)}"
        )
    own, theirs = (
        f"{str(seen.dtype).removeprefix('torch.')} of shape {tuple(seen.shape[1:])}"
        for seen in (observations, state.observations)
    )
    if own != theirs:
        raise ValueError(
            f"this environment observes {own}, the state was cloned from one that observes {theirs}"
        )
    parts = (state.observations, state.ended, state.starts, state.rngs)
    if any(len(part) != num_lanes for part in parts):
        raise ValueError(f"the state lacks a part of its {num_lanes} lane(s): restore it unchanged")
