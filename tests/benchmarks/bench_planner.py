"""A planner that plays the paddle game with no training: random shooting over branches.

python tests/benchmarks/bench_planner.py [WORLD] [--games 2] [--lanes 24] [--horizon 32]

Before every fourth step the world takes up the real game's last frames, its state is branched into
lanes, and each lane plays random actions, each held for two to eight steps; one goes on with the
plan there is. The game gets the first four actions of the lane with the largest discounted reward.
Random players and the scripted one stand beside it, each over 100 games.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import tyro

from worldsim.game.describe import find_script, make_game
from worldsim.game.policy import Policy, load_policy
from worldsim.world_folder import load
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

REPLAN = 4
DISCOUNT = 0.97


class Planner:
    """A `worldsim.game.policy.Policy` that looks ahead in a world.

    Args:
        world: A world of the game.
        lanes: Futures tried.
        horizon: Steps of each.
    """

    def __init__(self, world: WorldModel, lanes: int, horizon: int) -> None:
        self.world, self.horizon = world, horizon
        self.env = WorldModelEnv(world)
        self.lanes = WorldModelVectorEnv(world, lanes, autoreset_mode="SameStep")
        self.frames: list[np.ndarray] = []
        self.actions: list[int] = []
        self.plan = np.full(horizon, world.game.noop_action)
        self.step = 0

    def __call__(self, observation: np.ndarray, info: dict, rng: np.random.Generator) -> int:
        self.frames = [*self.frames, observation][-self.world.window :]
        if self.step % REPLAN == 0:
            self.think(rng)
        action = int(self.plan[self.step % REPLAN])
        self.actions = [*self.actions, action][-self.world.window + 1 :]
        self.step += 1
        return action

    def think(self, rng: np.random.Generator) -> None:
        """Try futures and keep the best."""
        known = np.array(self.actions[len(self.actions) + 1 - len(self.frames) :], int)
        self.env.reset(seed=0, options={"start": np.stack(self.frames), "actions": known})
        self.lanes.restore_state(self.env.clone_state().branch(self.lanes.num_envs))
        plans = np.stack([self.random_plan(rng) for _ in range(self.lanes.num_envs)])
        plans[0, : -REPLAN or None] = self.plan[REPLAN:]
        score, alive = np.zeros(len(plans)), np.ones(len(plans), bool)
        for step in range(self.horizon):
            _, rewards, terminations, _, _ = self.lanes.step(plans[:, step])
            score += DISCOUNT**step * rewards * alive
            alive &= ~terminations
        self.plan = plans[np.argmax(score)]

    def random_plan(self, rng: np.random.Generator) -> np.ndarray:
        """Random actions, each held for a while (horizon)."""
        held = rng.integers(self.world.game.num_actions, size=self.horizon)
        return np.repeat(held, rng.integers(2, 9, size=self.horizon))[: self.horizon]


def play_game(world: WorldModel, policy: Policy, seed: int) -> tuple[float, int]:
    """Play one real game; returns its return and its steps."""
    game, rng = make_game(world.game), np.random.default_rng(seed)
    observation, info = game.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, info = game.step(policy(observation, info, rng))
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


def main(world_name: str = "pong", /, games: int = 2, lanes: int = 24, horizon: int = 32) -> None:
    world = load(world_name)
    if world.device.type == "cpu":
        torch.set_num_threads(1)
    for name in ("random", "sticky", find_script(world.game.env_id)):
        returns = [play_game(world, load_policy(name, world.game), i)[0] for i in range(100)]
        spread = 1.96 * np.std(returns) / len(returns) ** 0.5
        print(f"{name}: {np.mean(returns):.2f} +- {spread:.2f} over 100 games", flush=True)
    for seed in range(games):
        begun = time.perf_counter()
        total, steps = play_game(world, Planner(world, lanes, horizon), seed)
        pace = 1000 * (time.perf_counter() - begun) / steps
        print(f"planner, game {seed}: {total:+.0f} in {steps} steps, {pace:.0f} ms a step")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
