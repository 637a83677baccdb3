"""Lanes that hold each action for a few frames and show the last few observations."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelVectorEnv

ENV_ID = "worldsim/WorldModel-v0"
LANES, SKIP = 4, 3


@pytest.fixture(scope="module")
def mortal_world() -> WorldModel:
    return make_tiny_world(termination_bias=-1.5)


def play_alone(world: WorldModel, seed: int, decisions: list[int]) -> list[tuple[Any, ...]]:
    """What each decision of an only lane comes to, frame by frame, until its episode ends."""
    envs = WorldModelVectorEnv(world, 1, autoreset_mode="Disabled")
    envs.reset(seed=seed)
    played = []
    for decision in decisions:
        total = 0.0
        for _ in range(SKIP):
            obs, rewards, terminations, _, infos = envs.step(np.array([decision]))
            total += rewards[0]
            if terminations[0]:
                break
        played.append((obs[0], total, bool(terminations[0]), infos["termination_prob"][0]))
        if terminations[0]:
            return played
    return played


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(0).integers(3, size=(12, LANES))


@pytest.fixture(scope="module")
def alone(mortal_world: WorldModel, actions: np.ndarray) -> list[list[tuple[Any, ...]]]:
    return [play_alone(mortal_world, 5 + i, actions[:, i].tolist()) for i in range(LANES)]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_decision_holds_until_its_frames_or_its_episode_are_over(
    mortal_world: WorldModel,
    actions: np.ndarray,
    alone: list[list[tuple[Any, ...]]],
    mode: str,
) -> None:
    envs = gymnasium.make_vec(
        ENV_ID, LANES, world=mortal_world, frame_skip=SKIP, autoreset_mode=mode
    )
    lengths = [len(played) for played in alone]
    assert min(lengths) < max(lengths)
    envs.reset(seed=5)
    for step, decisions in enumerate(actions[: min(lengths)]):
        obs, rewards, terminations, truncations, infos = envs.step(decisions)
        assert not truncations.any()
        for lane in range(LANES):
            last, total, ended, prob = alone[lane][step]
            assert terminations[lane] == ended
            assert rewards[lane] == pytest.approx(total, rel=1e-4, abs=1e-6)
            step_infos = infos["final_info"] if ended and mode == "SameStep" else infos
            assert step_infos["termination_prob"][lane] == pytest.approx(prob, abs=1e-5)
            seen = infos["final_obs"][lane] if ended and mode == "SameStep" else obs[lane]
            assert np.abs(seen.astype(int) - last).max() <= 1
    ended = terminations
    assert ended.any()
    if mode == "NextStep":
        obs, rewards, terminations, _, _ = envs.step(np.zeros(LANES, int))
        assert not rewards[ended].any()
        assert not terminations[ended].any()
        starts = mortal_world.starts.frames[:, -1]
        assert all((starts == frame).all((1, 2, 3)).any() for frame in obs[ended])


def test_the_last_observations_are_shown_together(mortal_world: WorldModel) -> None:
    make = {"world": mortal_world, "num_envs": 2, "autoreset_mode": "SameStep"}
    plain = gymnasium.make_vec(ENV_ID, **make)
    stacked = gymnasium.make_vec(ENV_ID, frame_stack=3, **make)
    assert stacked.single_observation_space.shape == (SIDE, SIDE, 9)
    frames = [plain.reset(seed=1)[0]] * 3
    obs = stacked.reset(seed=1)[0]
    ended = np.zeros(2, bool)
    for _ in range(8):
        assert obs in stacked.observation_space
        assert np.array_equal(obs, np.concatenate(frames[-3:], -1))
        assert np.array_equal(stacked.render()[1], plain.render()[1])
        frame, _, ended, _, infos = plain.step(np.array([1, 2]))
        obs, _, _, _, stacked_infos = stacked.step(np.array([1, 2]))
        frames.append(frame)
        for lane in np.flatnonzero(ended):
            assert np.array_equal(
                stacked_infos["final_obs"][lane][..., -3:], infos["final_obs"][lane]
            )
            for index in (-3, -2):  # an episode begins with its first frame repeated
                frames[index] = frames[index].copy()
                frames[index][lane] = frame[lane]


def test_latents_are_stacked_by_channels_and_restored(mortal_world: WorldModel) -> None:
    make = {"world": mortal_world, "num_envs": 2, "observation": "latents", "frame_stack": 2}
    envs = WorldModelVectorEnv(**make)
    channels = mortal_world.codec.latent_channels
    first = envs.reset(seed=0)[0]
    assert first.shape[1] == 2 * channels
    state = envs.clone_state()
    second = envs.step(np.array([0, 1]))[0]
    assert np.array_equal(second[:, :channels], first[:, channels:])
    other = WorldModelVectorEnv(**make)
    other.restore_state(state)
    assert np.array_equal(other.step(np.array([0, 1]))[0], second)


def test_an_episode_counts_decisions(mortal_world: WorldModel) -> None:
    envs = WorldModelVectorEnv(make_tiny_world(), 1, frame_skip=2, max_episode_steps=2)
    envs.reset(seed=0)
    assert [envs.step(np.array([0]))[3][0] for _ in range(2)] == [False, True]


class TestArguments:
    @pytest.mark.parametrize("name", ["num_envs", "frame_skip", "frame_stack", "max_episode_steps"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), True, "2"])
    def test_are_counts(self, mortal_world: WorldModel, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 1 to"):
            WorldModelVectorEnv(mortal_world, **{name: value})

    def test_lanes_without_end_are_refused_before_anything_is_allocated(
        self, mortal_world: WorldModel
    ) -> None:
        sentence = r"too little memory: .* takes at least [\d,.]+ GiB.*take fewer"
        for sizes in ({"num_envs": 10**9}, {"frame_stack": 10**9}):
            with pytest.raises(ValueError, match=sentence):
                WorldModelVectorEnv(mortal_world, **sizes)

    @pytest.mark.parametrize("num_envs", [None, 2])
    def test_of_a_reset_are_refused_and_nothing_breaks(
        self, mortal_world: WorldModel, num_envs: int | None
    ) -> None:
        if num_envs is None:
            env: Any = gymnasium.make(ENV_ID, world=mortal_world)
        else:
            env = gymnasium.make_vec(ENV_ID, num_envs, world=mortal_world)
        env.reset(seed=0)
        for options in ([], [1], "start", 3):
            with pytest.raises(TypeError, match="the options of reset must be a dict or None, got"):
                env.unwrapped.reset(options=options)
        for seed in (-1, 1.5, "1", True):
            with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got"):
                env.unwrapped.reset(seed=(seed if num_envs is None else [seed, 0]))
        env.step(0 if num_envs is None else np.zeros(num_envs, int))
