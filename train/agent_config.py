"""`worldsim agent`: its settings, which are checked before anything slow is imported."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro

from worldsim.find_world import find_world
from worldsim.game.agent_policy import AGENT_FILE, SETTINGS_FILE
from worldsim.system.command_line import parse
from worldsim.system.extras import require
from worldsim.system.files import read_object, reading
from worldsim.system.options import (
    Count,
    FewFrames,
    Fraction,
    Heading,
    NotNegative,
    OutFolder,
    Passes,
    Positive,
    Rule,
    Seed,
    check_options,
)
from worldsim.system.settings import current_names, values_of, with_values

from .run_log import Logging, check_log

BATCH = 1024  # decisions between two updates
NumEnvs = Annotated[Count, Rule(f"a divisor of {BATCH:,}", lambda number: BATCH % number == 0)]


PROG = "worldsim agent"
RENAMED = MappingProxyType(
    {"evals": "num_evals", "lr": "ppo.lr", "gamma": "ppo.gamma", "entropy": "ppo.entropy"}
)
"""Old names of options -> current names, on the command line and in agent.json."""


@dataclass(frozen=True)
class PPOOptions:
    """Learning rate and weights of PPO."""

    lr: Positive = 5e-4
    """Learning rate at the start; it falls to a tenth."""
    gamma: Fraction = 0.985
    """Discount of a decision."""
    entropy: NotNegative = 0.005
    """Weight of the entropy of decisions, which keeps the agent exploring."""


@dataclass(frozen=True)
class AgentConfig:
    """Train a PPO agent inside a world, and evaluate it in the real game as it learns.

    Examples:
        worldsim agent pong --out runs/pong_agent
        worldsim agent pong --out runs/pong_agent --resume --steps 120000
        worldsim agent pong --out runs/real_agent --learn-in game
    """

    world: Annotated[tyro.conf.Positional[str], Heading("where it learns, and where it is kept")]
    """A bundled world (pong, maze, balls), or the folder of a world or of a run."""
    out: OutFolder
    """Folder of the agent: its figures and agent.zip, which Stable-Baselines3 reads. The zip holds
    pickled code: resume or play only one that you trust."""
    learn_in: Literal["world", "game"] = "world"
    """Where it learns: in the world or, for comparison, in the world's real game."""
    steps: Annotated[Count, Heading("how long")] = 60_000
    """Decisions to learn from, over all environments."""
    resume: bool = False
    """Continue with the agent in --out, with the settings that it began with."""
    num_evals: Count = 3
    """Evaluations, evenly spaced, the last one at the end."""
    eval_episodes: Count = 16
    """Episodes of an evaluation, in the world and in the real game."""
    num_envs: Annotated[NumEnvs, Heading("how it plays")] = 16
    """Environments played at once: lanes of one batch in the world."""
    frame_skip: FewFrames = 3
    """Frames that a decision lasts; the agent repeats its action in them."""
    frame_stack: FewFrames = 2
    """Number of last frames that the agent sees, one per decision."""
    horizon: Count = 500
    """Frames after which an episode in the world is cut off."""
    max_uncertainty: Positive | None = None
    """Cut an episode off at an uncertainty above this (0.03 suits our Pong); half as fast."""
    passes: Passes | None = None
    """Denoising passes per frame; the world's own number if not given."""
    seed: Annotated[Seed, Heading("with what")] = 0
    """Seed of the agent and of its environments."""
    device: str | None = None
    """Device of world and agent, such as cuda or cpu; a GPU if there is one."""
    logging: tyro.conf.OmitArgPrefixes[Logging] = field(default_factory=Logging)
    ppo: PPOOptions = field(default_factory=PPOOptions)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return values_of(self)


def main(argv: Sequence[str]) -> int:
    """Run the command.

    A resumed agent keeps the settings that it began with, except those that are given again.

    Args:
        argv: The arguments after ``worldsim agent``.

    Returns:
        The exit status: 0 when the agent has learned, 130 when it was stopped.

    Raises:
        ValueError: If the world or a setting is invalid.
        ModuleNotFoundError: If Stable-Baselines3 is missing.
    """
    config = parse(AgentConfig, argv, PROG, renamed=RENAMED)
    if config.resume and (config.out / SETTINGS_FILE).exists():
        with reading(config.out / SETTINGS_FILE, "begin again in another --out") as file:
            settings = current_names(read_object(file), RENAMED, config)
            begun = with_values(config, settings, keep=("world", "out", "resume"))
        config = parse(AgentConfig, argv, PROG, begun)
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
    """Check the settings.

    Raises:
        ValueError: If one is invalid, or the folder holds another agent.
    """
    check_options(config)
    check_log(config.logging.log)
    exists = (config.out / AGENT_FILE).exists()
    if exists and not config.resume:
        raise ValueError(
            f"{config.out} holds an agent: continue it with --resume, or choose another --out"
        )
