from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tests.tiny_worlds import SIDE, make_tiny_game, make_tiny_world
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.numeric

ENV_ID = "worldsim/WorldModel-v0"


def play(env: WorldModelEnv, actions: list[int]) -> list[tuple]:
    steps = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append((obs.tobytes(), reward, terminated, truncated, info["termination_prob"]))
    return steps


class TestWorldModelEnv:
    def test_passes_check_env_without_a_warning(self, world_path: Path) -> None:
        env = gymnasium.make(ENV_ID, world=world_path)
        check_env(env.unwrapped)  # warnings are errors here

    def test_grey_world_passes_check_env(self) -> None:
        world = make_tiny_world(make_tiny_game(channels=1))
        env = gymnasium.make(ENV_ID, world=world)
        check_env(env.unwrapped)
        env.reset(seed=0)
        assert env.observation_space.shape == (SIDE, SIDE, 1)
        assert env.render().shape == (SIDE, SIDE, 3)

    def test_seed_reproduces_a_complete_episode(self, world: WorldModel) -> None:
        env, other = WorldModelEnv(world), WorldModelEnv(world)
        actions = [0, 1, 2, 2, 1, 0, 0, 1]
        first, info = env.reset(seed=7)
        second, other_info = other.reset(seed=7)
        assert np.array_equal(first, second)
        assert info == other_info
        assert play(env, actions) == play(other, actions)
        # and so the episode after it, which has no seed of its own
        assert np.array_equal(env.reset()[0], other.reset()[0])
        assert play(env, actions) == play(other, actions)
        other.reset(seed=8, options={"start": info["start"]})
        env.reset(seed=7, options={"start": info["start"]})
        assert play(env, actions) != play(other, actions)

    def test_start_chooses_the_window(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        for start in range(3):
            obs, info = env.reset(options={"start": start})
            assert info["start"] == start
            assert np.array_equal(obs, world.starts.frames[start, -1])
        assert set(WorldModelVectorEnv(world, 30).reset(seed=0)[1]["start"]) == {0, 1, 2}

    def test_custom_frames_are_a_start(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        frames, actions = world.starts.frames[1], world.starts.actions[1]
        obs, info = env.reset(seed=0, options={"start": frames, "actions": actions})
        assert info["start"] == -1
        assert np.array_equal(obs, frames[-1])
        # drawing an index takes one number from the generator: give the same noise seed by hand
        env._rollout.reset(frames[None], actions[None], [5])
        expected = env.step(2)[0]
        env.reset(seed=0, options={"start": 1})
        env._rollout.reset(frames[None], actions[None], [5])
        assert np.array_equal(env.step(2)[0], expected)

    def test_only_the_newest_frames_of_a_long_start_count(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        long = np.concatenate([255 - world.starts.frames[0], world.starts.frames[2]])
        env.reset(seed=0, options={"start": long})
        expected = env.step(1)[0]
        env.reset(seed=0, options={"start": world.starts.frames[2]})
        assert np.array_equal(env.step(1)[0], expected)
        env.reset(seed=0, options={"start": world.starts.frames[0, -1:]})  # a single frame will do
        env.step(1)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"start": 3}, ValueError, r"3 start windows: start must be 0 \.\. 2, got 3"),
            ({"start": -1}, ValueError, "got -1"),
            ({"start": "first"}, TypeError, "got str"),
            ({"start": True}, TypeError, "got bool"),
            ({"strat": 1}, ValueError, "'strat'"),
            ({"start": np.zeros((4, 8, 8, 3), np.uint8)}, ValueError, r"got \(4, 8, 8, 3\)"),
            ({"start": np.zeros((0, SIDE, SIDE, 3), np.uint8)}, ValueError, "at least 1"),
            ({"start": np.zeros((4, SIDE, SIDE, 3))}, TypeError, "uint8 in 0..255, got float64"),
            ({"start": 0, "actions": [0, 0, 0]}, ValueError, "needs frames"),
            (
                {"start": np.zeros((4, SIDE, SIDE, 3), np.uint8), "actions": [0, 1]},
                ValueError,
                r"\(3,\), got \(2,\)",
            ),
            (
                {"start": np.zeros((2, SIDE, SIDE, 3), np.uint8), "actions": [9]},
                ValueError,
                r"0 \.\. 2, got 9",
            ),
        ],
    )
    def test_bad_options(
        self, world: WorldModel, options: dict, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            WorldModelEnv(world).reset(options=options)

    def test_truncates_at_the_limit_and_then_wants_a_reset(self, world: WorldModel) -> None:
        env = WorldModelEnv(world, max_episode_steps=3)
        env.reset(seed=0)
        assert [step[3] for step in play(env, [0, 0, 0])] == [False, False, True]
        with pytest.raises(ResetNeeded, match="ended after 3 steps"):
            env.step(0)
        env.reset()
        env.step(0)

    def test_terminates_as_the_head_draws(self, mortal_world: WorldModel) -> None:
        envs = WorldModelVectorEnv(mortal_world, 40)  # lanes draw as environments of these seeds do
        envs.reset(seed=0)
        _, _, terminations, truncations, infos = envs.step(np.zeros(40, np.int64))
        assert not truncations.any()
        assert infos["termination_prob"] == pytest.approx(0.5, abs=0.05)
        assert 8 < terminations.sum() < 32
        env = WorldModelEnv(mortal_world)
        env.reset(seed=0)
        assert env.step(0)[2] == terminations[0]

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_wants_a_reset_first(self, world: WorldModel, wrapped: bool) -> None:
        env = gymnasium.make(ENV_ID, world=world)
        env = env if wrapped else env.unwrapped
        with pytest.raises(ResetNeeded):
            env.step(0)
        with pytest.raises(ResetNeeded):
            env.render()

    @pytest.mark.parametrize(
        ("action", "error"), [(3, ValueError), (-1, ValueError), (1.0, TypeError)]
    )
    def test_bad_action(self, world: WorldModel, action: float, error: type[Exception]) -> None:
        env = WorldModelEnv(world)
        env.reset(seed=0)
        with pytest.raises(error, match=r"[Aa]ctions"):
            env.step(action)

    def test_restored_state_repeats_the_future_and_branches(self, world: WorldModel) -> None:
        env = WorldModelEnv(world, max_episode_steps=10)
        env.reset(seed=3)
        play(env, [1, 2, 0])
        state = env.clone_state()
        shown = env.render()
        future = play(env, [2] * 7)
        after = env.reset()[0]
        assert future[-1][3]

        for _ in range(2):  # any number of times
            env.restore_state(state)
            assert np.array_equal(env.render(), shown)
            assert play(env, [2] * 7) == future
            assert np.array_equal(env.reset()[0], after)
        env.restore_state(state)
        assert play(env, [1] * 7) != future
        fresh = WorldModelEnv(world, max_episode_steps=10)
        fresh.restore_state(state)  # another environment of the same world
        assert fresh.np_random_seed == -1  # not known, and asking for it changes nothing
        assert play(fresh, [2] * 7) == future
        assert np.array_equal(fresh.reset()[0], after)
        with pytest.raises(ValueError, match="2 lane"):
            WorldModelVectorEnv(world, 2).restore_state(state)

    def test_number_of_passes_can_be_set(self, world: WorldModel) -> None:
        env = gymnasium.make(ENV_ID, world=world, num_passes=1)
        assert env.unwrapped.num_passes == 1
        frames = []
        for num_passes in (1, 4):
            env.unwrapped.num_passes = num_passes
            env.reset(seed=0)
            frames.append(env.step(1)[0])
        assert not np.array_equal(*frames)
        with pytest.raises(ValueError, match="num_passes"):
            env.unwrapped.num_passes = 0

    def test_frame_rate_is_the_games_own_over_the_frames_of_a_step(self, world: WorldModel) -> None:
        skipping = WorldModelVectorEnv(world, 1, frame_skip=5)
        assert skipping.metadata["render_fps"] == 2
        fps = WorldModelEnv(world).metadata["render_fps"]
        assert fps == 10
        assert isinstance(fps, int)  # gymnasium.utils.play insists on it
        assert WorldModelEnv.metadata["render_fps"] == 30

    def test_bad_arguments(self, world: WorldModel) -> None:
        with pytest.raises(ValueError, match=r"max_episode_steps must be .* from 1 to .*, got 0"):
            WorldModelEnv(world, max_episode_steps=0)
        with pytest.raises(ValueError, match=r"render_mode must be .* got 'human'"):
            WorldModelEnv(world, render_mode="human")
        with pytest.raises(ValueError, match="no world at 'nowhere'"):
            gymnasium.make(ENV_ID, world="nowhere")
