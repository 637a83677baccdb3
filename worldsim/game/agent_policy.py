"""AgentPolicy: a trained agent of `worldsim agent` as a policy."""

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
    """A trained agent as a `worldsim.game.policy.Policy` for one episode.

    Args:
        path: An agent's folder, written by `worldsim agent`.
        frame_shape: Height, width and channels of the observations.

    Raises:
        ValueError: If there is no agent, or it was trained on frames of another shape.
    """

    def __init__(self, path: str | os.PathLike[str], frame_shape: tuple[int, int, int]) -> None:
        self._agent, self._frame_skip = load_agent(Path(path))
        height, width, channels = frame_shape
        shape = self._agent.observation_space.shape or ()
        if len(shape) != 3 or shape[1:] != (height, width) or shape[0] % channels:
            raise ValueError(
                f"the agent in {os.fspath(path)} observes {shape} (channels, height, width), the "
                f"frames here are {channels}, {height}, {width}: use an agent of the same game"
            )
        self._frames = np.zeros((height, width, shape[0]), np.uint8)  # like VecFrameStack
        self._action = self._steps = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return the agent's best action, or repeat the last one for ``frame_skip`` frames."""
        if self._steps % self._frame_skip == 0:
            channels = observation.shape[-1]
            self._frames = np.roll(self._frames, -channels, axis=-1)
            self._frames[..., -channels:] = observation
            self._action = int(self._agent.predict(self._frames, deterministic=True)[0])
        self._steps += 1
        return self._action


@functools.lru_cache(maxsize=4)
def load_agent(folder: Path) -> tuple[PPO, int]:
    """Load an agent and its frame skip.

    Stable-Baselines3 unpickles the zip, which runs any code in it.

    Args:
        folder: An agent's folder that the user has named and trusts; never one named in a file.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    from stable_baselines3 import PPO  # an extra that takes seconds to import

    if not (folder / AGENT_FILE).is_file():
        raise ValueError(f"no agent in {folder}: `worldsim agent WORLD --out {folder}` trains one")
    try:
        frame_skip = read_object(folder / SETTINGS_FILE)["frame_skip"]
        check_value("frame_skip", frame_skip, FewFrames)
        return PPO.load(folder / AGENT_FILE, device="cpu"), frame_skip
    except Exception as error:  # unpickling may raise anything
        raise ValueError(f"the agent in {folder} cannot be read ({one_line(error)})") from error
