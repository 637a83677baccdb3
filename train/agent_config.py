"""`worldsim agent`: its settings, and what is said of them before anything slow is imported."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from worldsim.agent_policy import AGENT_FILE, SETTINGS_FILE
from worldsim.extras import require
from worldsim.files import read_object, reading
from worldsim.find_world import find_world
from worldsim.options import (
    Count,
    FewFrames,
    Fraction,
    NotNegative,
    OutFolder,
    Passes,
    Positive,
    Seed,
    check_options,
    parse,
    with_values,
)

from .run_log import Logger, check_log
from .wandb_log import WandbMode

BATCH = 1024  # decisions between two updates


@dataclass(frozen=True)
class AgentConfig:
    """Train a PPO agent inside a world; it is tried in the real game as it learns."""

    world: tyro.conf.Positional[str]
    """A world that ships (pong, maze, balls), or the folder of a world or of a run."""
    out: OutFolder
    """Folder of the agent: agent.zip, which Stable-Baselines3 reads, and its figures. The zip holds
    pickled code: resume or play none that you do not trust."""
    steps: Count = 60_000
    """Decisions to learn from, over all environments."""
    learn_in: Literal["world", "game"] = "world"
    """Where it learns: in the world, or, to compare, in the world's real game."""
    num_envs: Count = 16
    """Environments played at once: lanes of one batch in the world."""
    frame_skip: FewFrames = 3
    """Frames for which a decision holds."""
    frame_stack: FewFrames = 2
    """Frames that the agent sees, those of its last decisions."""
    horizon: Count = 500
    """Frames after which an episode in the world is cut off."""
    max_uncertainty: Positive | None = None
    """Cut an episode off where the uncertainty is above this; half as fast."""
    passes: Passes | None = None
    """Denoising passes a frame; none: the world's own number."""
    lr: Positive = 5e-4
    """Learning rate at first; it falls to a tenth."""
    gamma: Fraction = 0.985
    """Discount of a decision."""
    entropy: NotNegative = 0.005
    """Weight of the entropy of decisions, which keeps it trying."""
    evals: Count = 3
    """How often it is tried, evenly spaced, the last time at its end."""
    eval_episodes: Count = 16
    """Episodes of a trial, in the world and in the real game."""
    seed: Seed = 0
    """Seed of the agent and of where it learns."""
    resume: bool = False
    """Go on with the agent in --out."""
    log: tuple[Logger, ...] = ("wandb",)
    """Where figures and videos go beside metrics.jsonl: wandb, tensorboard, both, or neither."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    wandb_project: str | None = None
    """Where wandb files the run; WANDB_PROJECT, or worldsim, if not given."""
    wandb_entity: str | None = None
    """User or team that the run belongs to; WANDB_ENTITY if not given."""
    wandb_tags: tuple[str, ...] = ()
    """Words to find the run by; WANDB_TAGS if not given."""
    device: str | None = None
    """Where world and agent run, such as cuda or cpu; a GPU if there is one."""

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**dataclasses.asdict(self), "out": str(self.out)}


def main(argv: Sequence[str]) -> int:
    """Run the command.

    An agent that goes on has the settings that it began with, save those that are given again.

    Args:
        argv: What follows ``worldsim agent``.

    Returns:
        The exit status: 0 when the agent has learned, 130 when it was stopped.

    Raises:
        ValueError: In one sentence, if world or settings do not serve.
        ModuleNotFoundError: If Stable-Baselines3 is missing.
    """
    config = parse(AgentConfig, argv, "worldsim agent")
    if config.resume and (config.out / SETTINGS_FILE).exists():
        with reading(config.out / SETTINGS_FILE, "begin again in another --out") as file:
            begun = with_values(config, read_object(file), keep=("world", "out", "resume"))
        config = parse(AgentConfig, argv, "worldsim agent", begun)
    check(config)
    find_world(config.world)
    require("stable_baselines3")
    from .agent import train_agent  # torch and Stable-Baselines3 take seconds

    finished, steps = train_agent(config)
    out = shlex.quote(str(config.out))
    if not finished:
        again = shlex.join(["worldsim", "agent", *argv])
        print(f"stopped after {steps:,} decisions: {out} keeps them; to continue: {again} --resume")
        return 130
    print(f"trained for {steps:,} decisions; next: worldsim play {config.world} --agent {out}")
    return 0


def check(config: AgentConfig) -> None:
    """Refuse settings that make no sense, in one sentence."""
    check_options(config)
    check_log(config.log)
    if BATCH % config.num_envs:
        raise ValueError(f"--num-envs must divide {BATCH}, got {config.num_envs}")
    exists = (config.out / AGENT_FILE).exists()
    if exists and not config.resume:
        raise ValueError(f"{config.out} holds an agent: go on with --resume, or choose another")
