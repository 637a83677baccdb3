"""Train a PPO agent inside a world, and evaluate it in the real game.

The algorithm is Stable-Baselines3's (Schulman et al. 2017; extra ``rl``). The agent sees the last
few frames, and a decision holds for a few frames. The real game is only used for evaluation.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.error import Error as GymnasiumError
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor
from torch import nn

from worldsim.game.agent_policy import AGENT_FILE, SETTINGS_FILE
from worldsim.game.config import GameConfig
from worldsim.game.describe import RepeatAction, make_game
from worldsim.sb3 import SB3VecEnv
from worldsim.system.devices import check_memory
from worldsim.system.files import write_json, written_aside
from worldsim.system.interrupt import Interrupted, StopOnSignal
from worldsim.world_folder import load
from worldsim.world_model import WorldModel
from worldsim.world_model_vector_env import WorldModelVectorEnv

from .agent_config import BATCH, AgentConfig, check
from .progress import TrainProgress
from .run_log import RunLog, open_log

MINIBATCH = 128
EPOCHS = 10


class SmallCNN(BaseFeaturesExtractor):
    """Three convolutions, with a quarter of the operations of SB3's network for 84 pixels.

    Args:
        observation_space: Frames (c h w).
        features_dim: Number of features.
    """

    def __init__(self, observation_space: Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        cells = -(-height // 16) * -(-width // 16)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * cells, features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Map frames (b c h w) to features (b d)."""
        return self.layers(observations)


def train_agent(config: AgentConfig) -> tuple[bool, int]:
    """Train an agent.

    Args:
        config: The settings of the command.

    Returns:
        Whether it is finished, and the number of decisions that it has learned from.

    Raises:
        ValueError: If the world or a setting is invalid.
    """
    # Check the settings and the memory before anything is opened.
    check(config)
    world = load(config.world, device=config.device)
    check_memory(
        BATCH * config.frame_stack * world.background.nbytes,
        f"a batch of an agent that sees {config.frame_stack:,} frames",
        "take a smaller --frame-stack",
    )
    if world.device.type == "cpu":
        torch.set_num_threads(1)  # its network is as small as the world
    with (
        StopOnSignal() as stop,
        TrainProgress(figure="return") as bar,
        open_log(config, bar.note) as log,
        contextlib.ExitStack() as stack,
    ):
        # Train in the world or the game, and evaluate in both, each in its own environments.
        makers = {
            "world": functools.partial(make_world_envs, world, config),
            "game": functools.partial(make_game_envs, world.game, config),
        }

        def make(place: str, num_envs: int) -> VecEnv:
            envs = stack.enter_context(contextlib.closing(makers[place](num_envs)))
            return VecFrameStack(VecMonitor(envs), config.frame_stack)

        envs = make(config.learn_in, config.num_envs)
        evals = {"world": make("world", config.eval_episodes)}
        try:
            evals["game"] = make("game", config.eval_episodes)
        except (ValueError, GymnasiumError, ImportError) as error:
            bar.note(
                f"the real game cannot be opened, so the agent is not evaluated there ({error})"
            )
        # A resumed run continues with other episodes than it began with.
        agent = find_agent(config, envs, world.device)
        envs.seed(config.seed + agent.num_timesteps)

        def save() -> None:
            with written_aside(config.out / AGENT_FILE) as aside:
                agent.save(aside)

        def save_and_evaluate() -> None:
            save()
            with contextlib.suppress(Interrupted):
                evaluate()

        def evaluate() -> None:
            figures = {}
            for name, eval_envs in evals.items():
                eval_envs.seed(1_000_000 + config.seed)
                mean, _ = evaluate_policy(
                    agent,
                    eval_envs,
                    config.eval_episodes,
                    callback=lambda *_: stop.raise_if_asked(),
                    warn=False,
                )
                figures[f"return/{name}"] = float(np.mean(mean))
            log.log(figures, agent.num_timesteps)
            means = ", ".join(f"{key[7:]} {value:.2f}" for key, value in figures.items())
            bar.note(
                f"decision {agent.num_timesteps:,}, mean return of {config.eval_episodes} "
                f"episodes: {means}"
            )

        # Evaluate before the first update, at intervals, and at the end.
        write_json(config.out / SETTINGS_FILE, config.settings())
        if agent.num_timesteps == 0:
            save_and_evaluate()
        remaining = config.steps - agent.num_timesteps
        if remaining > 0:
            callback = _Callback(config, stop, bar, log, save_and_evaluate)
            agent.learn(remaining, callback=callback, reset_num_timesteps=False)
            save_and_evaluate()
    return agent.num_timesteps >= config.steps, agent.num_timesteps


def make_world_envs(world: WorldModel, config: AgentConfig, num_envs: int) -> SB3VecEnv:
    """The world as environments of Stable-Baselines3.

    Raises:
        ValueError: If a decision does not last whole steps of the world.
    """
    p = world.patch_frames
    if config.frame_skip % p:
        raise ValueError(
            f"this world predicts {p} frames in a step, so --frame-skip must be a multiple of {p}, "
            f"got {config.frame_skip}"
        )
    return SB3VecEnv(
        WorldModelVectorEnv(
            world,
            num_envs,
            max_episode_steps=-(-config.horizon // config.frame_skip),
            frame_skip=config.frame_skip // p,
            num_passes=config.passes,
            max_uncertainty=config.max_uncertainty,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    )


def make_game_envs(game: GameConfig, config: AgentConfig, num_envs: int) -> SB3VecEnv:
    """The real game as environments of Stable-Baselines3, with the world's frames.

    Raises:
        ValueError: If the game cannot be made.
    """
    makers = [lambda: RepeatAction(make_game(game), config.frame_skip)] * num_envs
    return SB3VecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))


def find_agent(config: AgentConfig, envs: VecEnv, device: torch.device) -> PPO:
    """A fresh agent, or the saved one of a resumed run."""
    path = config.out / AGENT_FILE
    if config.resume and path.exists():
        return PPO.load(path, env=envs, device=device)
    return PPO(
        "CnnPolicy",
        envs,
        learning_rate=LinearSchedule(config.ppo.lr, config.ppo.lr / 10, 1.0),
        n_steps=BATCH // config.num_envs,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        gamma=config.ppo.gamma,
        ent_coef=config.ppo.entropy,
        policy_kwargs={"features_extractor_class": SmallCNN},
        seed=config.seed,
        device=device,
    )


class _Callback(BaseCallback):
    """Called by PPO during training: shows progress, logs, evaluates, and stops on a signal."""

    def __init__(
        self,
        config: AgentConfig,
        stop: StopOnSignal,
        bar: TrainProgress,
        log: RunLog,
        evaluate: Callable[[], None],
    ) -> None:
        super().__init__()
        self._config, self._stop, self._bar, self._log = config, stop, bar, log
        self._evaluate = evaluate

    def _on_training_start(self) -> None:
        self._evals = self._evals_due()

    def _on_rollout_start(self) -> None:
        if self._evals_due() > self._evals:
            self._evals = self._evals_due()
            self._evaluate()

    def _on_step(self) -> bool:
        return not self._stop.asked

    def _on_rollout_end(self) -> None:
        steps = self.model.num_timesteps
        finished = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if finished:
            self._log.log({"return/learning": float(np.mean(finished))}, steps)
        mean = float(np.mean(finished)) if finished else math.nan
        self._bar.show(steps / self._config.steps, steps, [mean], BATCH * self._config.frame_skip)

    def _evals_due(self) -> int:
        return self.model.num_timesteps * self._config.num_evals // self._config.steps
