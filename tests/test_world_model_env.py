from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.tiny_worlds import SIDE, WINDOW, make_tiny_game, make_tiny_world, save_tiny_world
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.numeric

ENV_ID = "worldsim/WorldModel-v0"


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


@pytest.fixture(scope="module")
def mortal_world() -> WorldModel:
    """Its episodes terminate with a probability of about one half in each step."""
    return make_tiny_world(termination_bias=0.0)


@pytest.fixture(scope="module")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_world(tmp_path_factory.mktemp("worlds") / "square"))


def play(env: WorldModelEnv, actions: list[int]) -> list[tuple]:
    steps = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append((obs.tobytes(), reward, terminated, truncated, info["termination_prob"]))
    return steps


class TestWorldModelEnv:
    def test_passes_check_env_without_a_warning(self, world_path: str) -> None:
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


class TestWorldModelVectorEnv:
    def test_is_made_by_make_vec_as_one_batched_model(self, world_path: str) -> None:
        envs = gymnasium.make_vec(ENV_ID, world=world_path, num_envs=8)
        assert isinstance(envs, WorldModelVectorEnv)
        assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is AutoresetMode.NEXT_STEP
        obs, infos = envs.reset(seed=0)
        assert obs in envs.observation_space
        assert infos["_start"].all()
        obs, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        assert obs in envs.observation_space
        assert obs.shape == (8, SIDE, SIDE, 3)
        assert rewards.dtype == np.float64
        assert terminations.dtype == truncations.dtype == np.bool_
        assert infos["termination_prob"].shape == (8,)
        assert len(envs.render()) == 8
        envs.close()

    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_does_what_gymnasiums_own_vector_env_does(
        self, mortal_world: WorldModel, mode: AutoresetMode
    ) -> None:
        """Lane by lane: ends, resets, infos and their masks; frames up to batched rounding."""
        ours = WorldModelVectorEnv(mortal_world, 3, max_episode_steps=4, autoreset_mode=mode)
        theirs = SyncVectorEnv(
            [lambda: WorldModelEnv(mortal_world, max_episode_steps=4) for _ in range(3)],
            autoreset_mode=mode,
        )
        assert_same(ours.reset(seed=5), theirs.reset(seed=5))
        assert ours.np_random_seed == theirs.np_random_seed == (5, 6, 7)
        rng = np.random.default_rng(0)
        ended = 0
        for _ in range(8):
            actions = rng.integers(3, size=3)
            step = ours.step(actions)
            assert_same(step, theirs.step(actions))
            ended += step[2].sum()
        assert ended > 3

    def test_disabled_leaves_resets_to_the_mask(self, mortal_world: WorldModel) -> None:
        make = lambda: WorldModelEnv(mortal_world, max_episode_steps=4)  # noqa: E731
        ours = WorldModelVectorEnv(mortal_world, 3, max_episode_steps=4, autoreset_mode="Disabled")
        theirs = SyncVectorEnv([make] * 3, autoreset_mode="Disabled")
        assert_same(ours.reset(seed=1), theirs.reset(seed=1))
        resets = 0
        for _ in range(8):
            step = ours.step(np.array([0, 1, 2]))
            assert_same(step, theirs.step(np.array([0, 1, 2])))
            mask = step[2] | step[3]
            if mask.any():
                resets += 1
                with pytest.raises(ResetNeeded, match=r"reset_mask"):
                    ours.step(np.array([0, 1, 2]))
                options = {"reset_mask": mask}
                assert_same(ours.reset(options=options), theirs.reset(options=dict(options)))
                assert "reset_mask" in options  # the caller's dictionary stays as it was
        assert resets > 2

    def test_partial_reset_touches_no_other_lane(self, world: WorldModel) -> None:
        def frames_after(masked: bool) -> np.ndarray:
            envs = WorldModelVectorEnv(world, 3, autoreset_mode="Disabled")
            envs.reset(seed=0)
            envs.step(np.array([1, 1, 1]))
            if masked:
                mask = np.array([False, True, False])
                obs, infos = envs.reset(seed=[None, 4, None], options={"reset_mask": mask})
                assert infos["_start"].tolist() == [False, True, False]
                assert np.array_equal(obs[1], world.starts.frames[infos["start"][1], -1])
            return np.stack([envs.step(np.array([2, 2, 2]))[0] for _ in range(WINDOW + 2)])

        plain, masked = frames_after(False), frames_after(True)
        assert np.array_equal(plain[:, [0, 2]], masked[:, [0, 2]])
        assert not np.array_equal(plain[:, 1], masked[:, 1])

    def test_lanes_have_their_own_seeds(self, world: WorldModel) -> None:
        envs = WorldModelVectorEnv(world, 3)
        envs.reset(seed=[4, 4, 9], options={"start": 0})
        obs = envs.step(np.array([1, 1, 1]))[0]
        assert np.abs(obs[0].astype(int) - obs[1]).max() <= 1  # places round in their own ways
        assert np.abs(obs[0].astype(int) - obs[2]).max() > 1
        with pytest.raises(ValueError, match="expected 3, got 2"):
            envs.reset(seed=[1, 2])

    def test_start_may_be_one_index_a_lane(self, world: WorldModel) -> None:
        envs = WorldModelVectorEnv(world, 3)
        obs, infos = envs.reset(options={"start": [2, 0, 1]})
        assert infos["start"].tolist() == [2, 0, 1]
        assert np.array_equal(obs, world.starts.frames[[2, 0, 1], -1])
        with pytest.raises(ValueError, match="expected 3, got 2"):
            envs.reset(options={"start": [0, 1]})

    def test_restored_state_repeats_the_future_with_its_resets(
        self, mortal_world: WorldModel
    ) -> None:
        envs = WorldModelVectorEnv(mortal_world, 3, autoreset_mode="SameStep")
        envs.reset(seed=2)
        envs.step(np.array([0, 1, 2]))
        state = envs.clone_state()
        future = [envs.step(np.array([0, 1, 2])) for _ in range(8)]
        assert any("final_obs" in step[-1] for step in future)
        envs.restore_state(state)
        for step in future:
            assert_same(envs.step(np.array([0, 1, 2])), step, tolerance=0)

    @pytest.mark.parametrize("mode", AutoresetMode)
    def test_infos_are_those_that_gymnasium_adds_lane_by_lane(
        self, mortal_world: WorldModel, mode: AutoresetMode
    ) -> None:
        envs = WorldModelVectorEnv(
            mortal_world, 3, max_episode_steps=4, max_uncertainty=math.inf, autoreset_mode=mode
        )
        seen = [envs.reset(seed=5)[1]]
        for _ in range(6):
            _, _, terminations, truncations, infos = envs.step(np.array([0, 1, 2]))
            seen.append(infos)
            if mode is AutoresetMode.DISABLED and (ended := terminations | truncations).any():
                seen.append(envs.reset(options={"reset_mask": ended})[1])
        for infos in seen:
            added: dict = {}
            for lane in range(3):
                added = envs._add_info(added, lane_info(infos, lane), lane)
            assert_same(infos, added, tolerance=0)
        keys = {"start", "termination_prob", "uncertainty"}
        final = {"final_obs", "final_info"} if mode is AutoresetMode.SAME_STEP else set()
        assert {key for infos in seen for key in infos if key[0] != "_"} == keys | final

    @pytest.mark.parametrize("observation", ["frames", "latents"])
    @pytest.mark.parametrize("frame_stack", [1, 2])
    def test_what_it_returns_belongs_to_the_caller(
        self, mortal_world: WorldModel, observation: str, frame_stack: int
    ) -> None:
        ours, theirs = (
            WorldModelVectorEnv(
                mortal_world,
                3,
                observation=observation,
                frame_stack=frame_stack,
                autoreset_mode="SameStep",
            )
            for _ in range(2)
        )
        overwrite(ours.reset(seed=5))
        theirs.reset(seed=5)
        for _ in range(5):
            step = ours.step(np.array([0, 1, 2]))
            assert_same(step, theirs.step(np.array([0, 1, 2])), tolerance=0)
            overwrite(step)
            assert_same(ours.render(), theirs.render())
            overwrite(ours.render())
            assert np.array_equal(
                ours.clone_state().observations, theirs.clone_state().observations
            )

    @pytest.mark.parametrize(
        ("mask", "error", "words"),
        [
            ([True, False], TypeError, "numpy array of bool, got list"),
            (np.array([1, 0]), TypeError, "bool, got int64"),
            (np.array([True]), ValueError, r"\(2,\), got \(1,\)"),
            (np.array([False, False]), ValueError, "at least one lane"),
        ],
    )
    def test_bad_mask(
        self, world: WorldModel, mask: object, error: type[Exception], words: str
    ) -> None:
        envs = WorldModelVectorEnv(world, 2, autoreset_mode=AutoresetMode.DISABLED)
        with pytest.raises(error, match=words):
            envs.reset(options={"reset_mask": mask})

    def test_wants_a_reset_of_every_lane_first(self, world: WorldModel) -> None:
        envs = WorldModelVectorEnv(world, 3, autoreset_mode=AutoresetMode.DISABLED)
        envs.reset(options={"reset_mask": np.array([True, False, True])})
        with pytest.raises(ResetNeeded, match=r"lanes \[1\]"):
            envs.step(np.zeros(3, np.int64))
        with pytest.raises(ResetNeeded, match=r"lanes \[1\]"):
            envs.clone_state()

    def test_bad_arguments(self, world: WorldModel) -> None:
        with pytest.raises(ValueError, match=r"num_envs must be .* from 1 to .*, got 0"):
            WorldModelVectorEnv(world, 0)
        with pytest.raises(ValueError, match="Sometimes"):
            WorldModelVectorEnv(world, 2, autoreset_mode="Sometimes")
        envs = WorldModelVectorEnv(world, 2)
        envs.reset()
        with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
            envs.step(np.zeros(3, np.int64))

    def test_gymnasiums_wrappers_see_the_mode(self, world: WorldModel) -> None:
        envs = RecordEpisodeStatistics(
            WorldModelVectorEnv(world, 2, max_episode_steps=2, autoreset_mode="SameStep")
        )
        envs.reset(seed=0)
        envs.step(np.array([0, 0]))
        infos = envs.step(np.array([0, 0]))[-1]
        assert infos["episode"]["l"].tolist() == [2, 2]


def lane_info(infos: dict, lane: int) -> dict:
    """The info of one lane as its own environment would give it."""
    return {
        key: lane_info(values, lane)
        if isinstance(values, dict)
        else values[lane]
        if values.dtype == object
        else values[lane].item()
        for key, values in infos.items()
        if key[0] != "_" and infos[f"_{key}"][lane]
    }


def overwrite(returned: object) -> None:
    """Set every array in what an environment has returned to 1."""
    if isinstance(returned, np.ndarray) and returned.dtype != object:
        returned[...] = 1
    elif isinstance(returned, (dict, tuple, np.ndarray)):
        for part in returned.values() if isinstance(returned, dict) else returned:
            overwrite(part)


def assert_same(ours: object, theirs: object, tolerance: int = 1) -> None:
    """Equal, but frames may differ by one of 255, and floats by what follows from that."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, tuple) or (isinstance(theirs, np.ndarray) and theirs.dtype == object):
        assert len(ours) == len(theirs)  # type: ignore[arg-type]
        for one, other in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
            assert_same(one, other, tolerance)
    elif isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if theirs.dtype == np.uint8:
            assert np.abs(ours.astype(int) - theirs).max() <= tolerance
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * bool(tolerance))
    else:
        assert ours == theirs
