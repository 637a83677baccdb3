"""Gymnasium ids of worldsim: the bundled games, the scenes of `worldsim probe`, learned worlds.

``import worldsim`` registers them. Entry points are strings, so this imports no game or model.
In a program without that import, use ``gymnasium.make("worldsim:worldsim/Pong-v0")``.
"""

from __future__ import annotations

import gymnasium

GAMES: dict[str, tuple[str, int]] = {
    "worldsim/Pong-v0": ("worldsim.envs.pong:Pong", 2000),
    "worldsim/Maze-v0": ("worldsim.envs.maze:Maze", 500),
    "worldsim/Balls-v0": ("worldsim.envs.balls:Balls", 500),
}
"""Id of each bundled game -> (entry point, steps after which an episode is truncated)."""

SCENE_ID = "worldsim/Scene-v0"  # for `worldsim probe`

WORLD_MODEL_ID = "worldsim/WorldModel-v0"
MAX_EPISODE_STEPS = 1000  # of a learned world that is not bundled

BUNDLED_WORLDS: dict[str, tuple[str, int]] = {
    "worldsim/Pong-World-v0": ("pong", 2000),
    "worldsim/Maze-World-v0": ("maze", 500),
    "worldsim/Balls-World-v0": ("balls", 500),
}
"""Id of each bundled world -> (its name, the steps of the game's longest episode)."""


def register_envs() -> None:
    """Register every worldsim environment with Gymnasium; calling it again changes nothing.

    Example:
        >>> register_envs()
        >>> gymnasium.spec("worldsim/Pong-v0").max_episode_steps
        2000
    """
    for env_id, (entry_point, max_episode_steps) in GAMES.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, max_episode_steps=max_episode_steps)
    if SCENE_ID not in gymnasium.registry:
        gymnasium.register(SCENE_ID, entry_point="worldsim.envs.scenes:Scene")
    _register_world(WORLD_MODEL_ID, MAX_EPISODE_STEPS, {})
    for env_id, (world, max_episode_steps) in BUNDLED_WORLDS.items():
        _register_world(env_id, max_episode_steps, {"world": world})


def _register_world(env_id: str, max_episode_steps: int, kwargs: dict[str, str]) -> None:
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point="worldsim.world_model_env:WorldModelEnv",
            vector_entry_point="worldsim.world_model_env:WorldModelVectorEnv",
            max_episode_steps=max_episode_steps,
            kwargs=kwargs,
        )
