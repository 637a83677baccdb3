"""What agents are worth in the real game, beside players that have learned nothing.

python tests/benchmarks/bench_agent.py AGENT [AGENT ...] [--episodes 100]

Agents are folders of `worldsim agent`; those that learned in the same place, with other seeds, make
a row: the mean real return of each over so many episodes, and the mean over them with a 95 %
interval (bootstrapped over agents and episodes). Of agents that learned inside a world, the
correlation of the imagined with the real return over the trials in their figures is printed too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro

from worldsim.game.config import GameConfig
from worldsim.game.describe import find_script, make_game
from worldsim.game.policy import load_policy
from worldsim.world_folder import load


def play(game: GameConfig, player: str, episodes: int) -> np.ndarray:
    """Returns of a player in the real game, one an episode."""
    env, returns = make_game(game), []
    for seed in range(episodes):
        policy, rng = load_policy(player, game), np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        returns.append(0.0)
        over = False
        while not over:
            action = policy(observation, info, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            returns[-1] += float(reward)
            over = terminated or truncated
    return np.array(returns)


def tell(name: str, returns: list[np.ndarray]) -> None:
    """Print a row: each agent's mean, and the mean of all with its interval."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        agents = rng.integers(len(returns), size=len(returns))
        drawn = [rng.choice(returns[i], len(returns[i])).mean() for i in agents]
        means.append(np.mean(drawn))
    low, high = np.percentile(means, (2.5, 97.5))
    each = ", ".join(f"{values.mean():+.2f}" for values in returns)
    mean = np.mean([values.mean() for values in returns])
    print(f"{name}: {mean:+.2f} (95 % {low:+.2f} to {high:+.2f}); each: {each}", flush=True)


def main(agents: tyro.conf.Positional[tuple[Path, ...]], episodes: int = 100) -> None:
    settings = {path: json.loads((path / "agent.json").read_text()) for path in agents}
    game = load(settings[agents[0]]["world"]).game
    for player in ("random", "sticky", "scripted", find_script(game.env_id)):
        if player is not None:
            tell(player, [play(game, player, episodes)])
    places: dict[str, list[Path]] = defaultdict(list)
    for path, chosen in settings.items():
        places[f"learned in the {chosen['learn_in']}, {chosen['steps']:,} decisions"].append(path)
    for place, paths in places.items():
        tell(place, [play(game, str(path), episodes) for path in paths])
        trials = []
        for path in paths:
            lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
            trials += [(x["return/world"], x["return/game"]) for x in lines if "return/game" in x]
        imagined, real = np.array(trials).T
        print(
            f"  imagined and real return over {len(trials)} trials: "
            f"correlation {np.corrcoef(imagined, real)[0, 1]:.2f}"
        )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
