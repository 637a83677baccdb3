"""Trained agents as players: the folder that `worldsim agent` writes, loaded to play a game."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldsim.system.files import one_line, read_object
from worldsim.system.options import FewFrames, check_value

if TYPE_CHECKING:
    from stable_baselines3 import PPO

AGENT_FILE, SETTINGS_FILE = "agent.zip", "agent.json"  # in an agent's folder


class AgentPolicy:
    """A trained agent as a player, a `worldsim.game.policy.Policy` for one episode.

    Args:
        path: The folder of an agent, as `worldsim agent` writes it.
        frame_shape: Height, width and channels of the frames that it will see.

    Raises:
        ValueError: If there is no agent, or it was trained on other frames.
    """

    def __init__(self, path: str | os.PathLike[str], frame_shape: tuple[int, int, int]) -> None:
        self._agent, self._frame_skip = load_agent(Path(path))
        height, width, channels = frame_shape
        seen = self._agent.observation_space.shape or ()
        if len(seen) != 3 or seen[1:] != (height, width) or seen[0] % channels:
            raise ValueError(
                f"the agent in {os.fspath(path)} looks at {seen} (channels, height, width) and the "
                f"frames here are {channels}, {height}, {width}: take an agent of the same game"
            )
        self._frames = np.zeros((height, width, seen[0]), np.uint8)  # as VecFrameStack begins
        self._action = self._steps = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return what the agent thinks best, or what it has decided for a few frames."""
        if self._steps % self._frame_skip == 0:
            channels = observation.shape[-1]
            self._frames = np.roll(self._frames, -channels, axis=-1)
            self._frames[..., -channels:] = observation
            self._action = int(self._agent.predict(self._frames, deterministic=True)[0])
        self._steps += 1
        return self._action


@functools.lru_cache(maxsize=4)
def load_agent(folder: Path) -> tuple[PPO, int]:
    """Load an agent and the number of frames for which it decides.

    Stable-Baselines3 unpickles the zip, which runs whatever code is in it.

    Args:
        folder: The folder of an agent that the user has named and trusts; never one that a file
            names.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    from stable_baselines3 import PPO  # an extra, and it takes seconds

    if not (folder / AGENT_FILE).is_file():
        raise ValueError(f"no agent in {folder}: `worldsim agent WORLD --out {folder}` trains one")
    try:
        frame_skip = read_object(folder / SETTINGS_FILE)["frame_skip"]
        check_value("frame_skip", frame_skip, FewFrames)
        return PPO.load(folder / AGENT_FILE, device="cpu"), frame_skip
    except Exception as error:  # unpickling raises whatever there is
        raise ValueError(f"the agent in {folder} cannot be read ({one_line(error)})") from error
