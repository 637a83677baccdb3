"""A planner that plays a real game by trying out futures in its world, with no training.

python examples/planner.py [--steps 150] [--lanes 16] [--horizon 32] [--world pong]

Before every fourth step the world takes up the game's last frames, and its state is branched into
lanes. Each lane plays random actions, each held for a while. The game gets the first four actions
of the lane with the largest sum of rewards. A step takes about a second on one core.
"""

from __future__ import annotations

import numpy as np
import tyro
from rich.progress import track

import worldsim

REPLAN = 4


def main(steps: int = 150, lanes: int = 16, horizon: int = 32, world: str = "pong") -> None:
    model = worldsim.load(world)
    present = worldsim.WorldModelEnv(model, num_passes=1)
    futures = worldsim.WorldModelVectorEnv(model, lanes, num_passes=1, autoreset_mode="SameStep")
    game, rng = worldsim.make_game(model.game), np.random.default_rng(0)

    frames, actions, score = [game.reset(seed=0)[0]], [], 0.0
    plan = np.zeros(REPLAN, int)
    for step in track(range(steps), description="playing"):
        if step % REPLAN == 0:
            start = {"start": np.stack(frames), "actions": np.array(actions, int)}
            present.reset(seed=step, options=start)
            futures.restore_state(present.clone_state().branch(lanes))

            # Each row is a lane's plan (lanes horizon): an action, held for eight steps.
            held = rng.integers(model.game.num_actions, size=(lanes, horizon // 8 + 1))
            plans = np.repeat(held, 8, axis=1)[:, rng.integers(8) :][:, :horizon]
            returns, alive = np.zeros(lanes), np.ones(lanes, bool)
            for ahead in range(plans.shape[1]):
                _, rewards, terminations, _, _ = futures.step(plans[:, ahead])
                returns += 0.97**ahead * rewards * alive
                alive &= ~terminations
            plan = plans[returns.argmax()]

        action = int(plan[step % REPLAN])
        frame, reward, terminated, truncated, _ = game.step(action)
        score += float(reward)
        if reward:
            print(f"step {step}: {reward:+g}, so the score is {score:+g}")
        if terminated or truncated:
            break
        frames = [*frames, frame][-model.window :]
        actions = [*actions, action][-(len(frames) - 1) :]
    print(f"{score:+g} after {step + 1} steps; a random player has -4.35 after a game")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
