"""The bundled games: Gymnasium's contract, seeds, truth of info, physics, scripted players."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim.game.describe import describe_game
from worldsim.game.policy import load_policy
from worldsim.registration import GAMES, WORLD_MODEL_ID, register_envs

register_envs()

every_game = pytest.mark.parametrize("env_id", GAMES)


def record(env_id: str, seed: int, steps: int, **kwargs: Any) -> tuple[np.ndarray, list[float]]:
    """Return the frames (t+1 h w c) and rewards of an episode of random actions."""
    env = gymnasium.make(env_id, **kwargs)
    rng = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    frames, rewards = [frame], []
    for _ in range(steps):
        frame, reward, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        frames.append(frame)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return np.stack(frames), rewards


def mean_return(env_id: str, policy: str, seeds: range, with_state: bool = True) -> float:
    """Return the mean return of whole episodes; the player may see the true state or not."""
    env = gymnasium.make(env_id)
    total = 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        frame, info = env.reset(seed=seed)
        ended = False
        player = load_policy(policy, describe_game(env_id))
        while not ended:
            action = player(frame, info if with_state else {}, rng)
            frame, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            ended = terminated or truncated
    return total / len(seeds)


@every_game
def test_gymnasium_checker_is_content(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)


def test_registering_twice_is_silent_and_light() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    spec = gymnasium.spec(WORLD_MODEL_ID)
    assert spec.entry_point == "worldsim.world_model_env:WorldModelEnv"
    assert spec.vector_entry_point == "worldsim.world_model_env:WorldModelVectorEnv"


@every_game
def test_metadata_names_the_actions_and_the_player(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    meanings = env.get_action_meanings()
    assert len(meanings) == env.action_space.n
    assert set(meanings) <= {"NOOP", "UP", "DOWN", "LEFT", "RIGHT"}
    assert callable(load_policy("scripted", describe_game(env_id)))


@every_game
def test_same_seed_gives_the_same_episode(env_id: str) -> None:
    first, first_rewards = record(env_id, 3, 300)
    second, second_rewards = record(env_id, 3, 300)
    np.testing.assert_array_equal(first, second)
    assert first_rewards == second_rewards
    other, _ = record(env_id, 4, 300)
    assert not np.array_equal(first[: len(other)], other[: len(first)])


@every_game
def test_render_is_the_observation_and_frames_are_never_shared(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array").unwrapped
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(frame, env.render())
    frame[:] = 0
    assert env.render().any()


@every_game
def test_wrong_arguments_are_named(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"action must be .* got 9"):
        gymnasium.make(env_id, disable_env_checker=True).unwrapped.step(9)
    with pytest.raises(ValueError, match="render_mode must be 'rgb_array' or None, got 'human'"):
        type(gymnasium.make(env_id).unwrapped)(render_mode="human")


@every_game
def test_episodes_are_truncated_at_the_registered_length(env_id: str) -> None:
    env = gymnasium.make(env_id, max_episode_steps=20)
    env.reset(seed=0)
    flags = [env.step(0)[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]


@pytest.mark.parametrize(
    ("env_id", "margin"),
    [("worldsim/Pong-v0", 4), ("worldsim/Maze-v0", 8), ("worldsim/Balls-v0", 10)],
)
def test_scripted_player_beats_random(env_id: str, margin: float) -> None:
    seeds = range(4)
    scripted = mean_return(env_id, "scripted", seeds)
    assert scripted > mean_return(env_id, "random", seeds) + margin
    assert scripted > 0


@pytest.mark.slow
@every_game
def test_a_player_who_only_sees_beats_random_as_in_a_learned_world(env_id: str) -> None:
    seeds = range(8)
    seeing = mean_return(env_id, "scripted", seeds, with_state=False)
    assert seeing > mean_return(env_id, "random", seeds) + 1
