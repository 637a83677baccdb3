"""Episodes: frames, actions, rewards and ends, and how a recorder collects them.

The fields of an episode are listed only here; files and windows iterate over `STEP_TYPES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

MAX_REWARD = float(np.finfo(np.float32).max)


@dataclass
class Episode:
    """One episode of T steps: T actions and T + 1 frames, see `worldsim` for the order of time.

    Raises:
        ValueError: If the lengths do not fit one another.
    """

    frames: np.ndarray
    """``uint8`` of shape (t+1 h w c)."""
    actions: np.ndarray = field(metadata={"step": np.int64})
    """``int64`` of shape (t,)."""
    rewards: np.ndarray = field(metadata={"step": np.float32})
    """``float32`` of shape (t,)."""
    terminations: np.ndarray = field(metadata={"step": np.bool_})
    """``bool`` of shape (t,)."""
    truncations: np.ndarray = field(metadata={"step": np.bool_})
    """``bool`` of shape (t,)."""
    seed: int | None = None
    """Seed of the episode's ``reset``."""
    policy: str = ""
    """Name of the policy."""
    caption: str | None = None
    """What the episode shows, in words: a line of up to 2,000 characters."""

    def __post_init__(self) -> None:
        """Check that there is one more frame than steps."""
        num_steps = len(self.actions)
        if num_steps < 1:
            raise ValueError("an episode needs at least one step, got none")
        if len(self.frames) != num_steps + 1:
            raise ValueError(
                f"an episode of {num_steps} actions has {num_steps + 1} frames, "
                f"got {len(self.frames)}"
            )
        for name, values in self.steps.items():
            if len(values) != num_steps:
                raise ValueError(
                    f"an episode of {num_steps} actions has as many {name}, got {len(values)}"
                )

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """The fields of the steps by name: arrays of shape (t,)."""
        return {name: getattr(self, name) for name in STEP_TYPES}


STEP_TYPES: dict[str, type[np.generic]] = {
    one.name: one.metadata["step"] for one in fields(Episode) if "step" in one.metadata
}
"""Fields with one value per step, in the order of a shard's checksum, and their types."""


class EpisodeBuilder:
    """Collects an episode while it is played.

    Args:
        first_frame: The frame of ``reset``, ``uint8`` (h w c).
        seed: Seed of ``reset``.
        policy: Name of the policy.
        caption: What the episode shows, in words.

    Example:
        >>> black = np.zeros((2, 2, 3), np.uint8)
        >>> builder = EpisodeBuilder(black, seed=0, policy="random")
        >>> builder.add(2, black, reward=1.0, terminated=True)
        >>> builder.build().actions
        array([2])
    """

    def __init__(
        self,
        first_frame: np.ndarray,
        *,
        seed: int | None = None,
        policy: str = "",
        caption: str | None = None,
    ) -> None:
        self._frames = [first_frame.copy()]
        self._steps: dict[str, list[float]] = {name: [] for name in STEP_TYPES}
        self.seed = seed
        self.policy = policy
        self.caption = caption

    def __len__(self) -> int:
        """Return the number of steps so far."""
        return len(self._frames) - 1

    def add(
        self,
        action: int,
        frame: np.ndarray,
        *,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        """Add one step.

        Args:
            action: The action.
            frame: The frame after it, ``uint8`` (h w c).
            reward: Reward of the step.
            terminated: Whether the game ended with it.
            truncated: Whether the episode was cut off after it.
        """
        self._frames.append(frame.copy())
        step = {
            "actions": action,
            "rewards": reward,
            "terminations": terminated,
            "truncations": truncated,
        }
        for name, value in step.items():
            self._steps[name].append(value)

    def cut_off(self) -> None:
        """Mark the last step as truncated."""
        self._steps["truncations"][-1] = True

    def build(self) -> Episode:
        """Return the episode so far.

        Raises:
            ValueError: If it has no step.
        """
        steps = {name: np.array(self._steps[name], kind) for name, kind in STEP_TYPES.items()}
        frames = np.stack(self._frames)
        return Episode(frames, **steps, seed=self.seed, policy=self.policy, caption=self.caption)


def check_steps(steps: Mapping[str, np.ndarray], num_actions: int) -> None:
    """Check all of an episode except its frames.

    Args:
        steps: `Episode.steps`.
        num_actions: Actions of the game.

    Raises:
        ValueError: If an action is out of range, a reward is not finite, or a step follows the
            end.
    """
    low, high = int(steps["actions"].min()), int(steps["actions"].max())
    if low < 0 or high >= num_actions:
        raise ValueError(f"actions must be 0 … {num_actions - 1}, got {low} … {high}")
    are_wrong = ~(np.abs(steps["rewards"]) <= MAX_REWARD)
    if are_wrong.any():
        step = int(are_wrong.argmax())
        raise ValueError(f"rewards must be finite, got {steps['rewards'][step]} at step {step}")
    for name in ("terminations", "truncations"):
        if steps[name][:-1].any():
            raise ValueError(
                f"only an episode's last step may be its end, but {name} has one at step "
                f"{int(steps[name].argmax())} of {len(steps[name])}"
            )
