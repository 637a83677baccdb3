"""An agent that learns inside a bundled world, and then plays the real game.

python examples/agent.py [--steps 20000] [--lanes 16] [--world pong]

It needs the extra `rl`. Each decision holds for three frames; the agent sees the last two of them.
Twenty thousand decisions take eleven minutes of one core. In one run the return in the real game,
over five games, rose from -3.8 to -1.6.
"""

from __future__ import annotations

import time

import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

import worldsim
from worldsim.game.describe import RepeatAction
from worldsim.sb3 import SB3VecEnv


def main(steps: int = 20_000, lanes: int = 16, world: str = "pong") -> None:
    model = worldsim.load(world)
    imagined = worldsim.WorldModelVectorEnv(
        model,
        lanes,
        num_passes=1,  # half the cost, and good enough to learn from
        frame_skip=3,
        max_episode_steps=167,
        autoreset_mode="SameStep",
    )
    envs = VecFrameStack(SB3VecEnv(imagined), 2)
    agent = PPO("CnnPolicy", envs, n_steps=32, batch_size=32 * lanes // 4, gamma=0.985)

    # The game itself only grades: nothing is learned from it.
    real = DummyVecEnv([lambda: RepeatAction(worldsim.make_game(model.game), 3)])
    real = VecFrameStack(VecMonitor(real), 2)
    before, _ = evaluate_policy(agent, real, n_eval_episodes=5)
    begun = time.perf_counter()
    agent.learn(steps, progress_bar=True)
    seconds = time.perf_counter() - begun
    after, _ = evaluate_policy(agent, real, n_eval_episodes=5)

    learned = agent.num_timesteps
    print(f"{learned:,} decisions in {seconds:.0f} s, {learned / seconds:.0f} a second")
    print(f"mean return of 5 real games: {before:+.1f} before, {after:+.1f} after")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
