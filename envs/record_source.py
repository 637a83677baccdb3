"""The source of the episodes of a recording: each is a function of its number.

So it does not matter which worker plays which episode, on which machine, and how often.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gymnasium
import numpy as np

from worldsim.data.captions import caption_in
from worldsim.data.episode import MAX_REWARD, EpisodeBuilder
from worldsim.game.config import GameConfig
from worldsim.game.describe import make_game

from .policies import MixedPolicy


@dataclass(frozen=True)
class EpisodeSource:
    """Everything that determines episode number n."""

    game: GameConfig
    """The game as the user named it: each process imports its module."""
    weights: Mapping[str, float]
    """Policy -> share of the steps."""
    seed: int
    """Seed of the recording."""
    max_episode_steps: int
    """Steps after which an episode is truncated."""
    caption: str | None = None
    """Caption of all episodes; None takes those that the game tells."""

    def env_seed(self, number: int) -> int:
        """Return the seed of episode ``number``, of 31 bits, the most that some games take."""
        seeds = np.random.SeedSequence(self.seed, spawn_key=(number,))
        return int(seeds.generate_state(1)[0] >> 1)

    def play(self, env: gymnasium.Env[np.ndarray, int], number: int) -> Iterator[EpisodeBuilder]:
        """Play one episode.

        Args:
            env: The environment of `game`, as `make_game` makes it.
            number: The episode's number in the recording, from which its seeds are drawn.

        Yields:
            The episode so far, after each step; it is complete after the last one.

        Raises:
            ValueError: If a reward is not finite in float32, or the caption is not a line of text.
        """
        env_seed = self.env_seed(number)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, 0)))
        policy = MixedPolicy(self.weights, self.game)
        observation, info = env.reset(seed=env_seed)
        players = " ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
        caption = caption_in(info) if self.caption is None else self.caption
        episode = EpisodeBuilder(observation, seed=env_seed, policy=players, caption=caption)
        terminated = truncated = False
        while not (terminated or truncated):
            action = policy(observation, info, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            if not abs(float(reward)) <= MAX_REWARD:
                raise ValueError(
                    f"episode {number} has the reward {reward} at step {len(episode)}, which no "
                    f"world can learn: fix {self.game.env_id} so that rewards are finite in float32"
                )
            if len(episode) + 1 == self.max_episode_steps and not terminated:
                truncated = True
            episode.add(
                action,
                observation,
                reward=float(reward),
                terminated=terminated,
                truncated=truncated,
            )
            yield episode

    def open_game(self) -> gymnasium.Env[np.ndarray, int]:
        """Make the environment, in a worker: no display is needed, and no sound is heard."""
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # of games that are drawn with pygame
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        return make_game(self.game, trust_code=True)


def describe_error(error: Exception, number: int | None, step: int) -> Exception:
    """Name the episode and step in an error, except where the writer names the file.

    Args:
        error: What has been raised.
        number: The episode's number; None if the game could not be opened.
        step: The step.

    Returns:
        An error of a kind that every process knows.
    """
    if type(error) is OSError:
        return error
    where = f"episode {number}, step {step}" if number is not None else "the game cannot be opened"
    return ValueError(f"{where}: {error if type(error) is ValueError else repr(error)}")
