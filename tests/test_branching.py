"""What a learned world can do that no console can: branch, measure uncertainty, begin anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tiny_worlds import (
    SIDE,
    WINDOW,
    make_tiny_vae_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.numeric


class TestBranch:
    def test_lanes_go_apart_only_when_their_actions_do(self, world: WorldModel) -> None:
        env = WorldModelEnv(world, max_episode_steps=10)
        env.reset(seed=3)
        for action in (1, 2, 0):
            env.step(action)
        state = env.clone_state()
        lanes = WorldModelVectorEnv(world, 4, max_episode_steps=10)
        lanes.restore_state(state.branch(4))
        single = [env.step(action)[0] for action in (2, 1, 1)]
        for t, action in enumerate((2, 1, 1)):
            frames = lanes.step(np.array([action, action, action, 0]))[0]
            # each batch size and place in it rounds in its own way, by 1 of 255 at most
            for frame in frames[:3]:
                assert np.abs(frame.astype(int) - single[t]).max() <= 1
            assert np.abs(frames[3].astype(int) - single[t]).max() > 1

    def test_a_lane_of_many_can_be_branched_and_elapsed_steps_count(
        self, world: WorldModel
    ) -> None:
        envs = WorldModelVectorEnv(world, 3, max_episode_steps=4)
        envs.reset(seed=0)
        envs.step(np.array([0, 1, 2]))
        state = envs.clone_state()
        branches = WorldModelVectorEnv(world, 2, max_episode_steps=4)
        branches.restore_state(state.branch(2, lane=1))
        for action in (1, 0, 2):
            ours = branches.step(np.array([action, action]))
            theirs = envs.step(np.array([0, action, 0]))
            assert np.abs(ours[0][0].astype(int) - theirs[0][1]).max() <= 1
        assert ours[3].tolist() == [True, True]  # the fourth step
        again = WorldModelVectorEnv(world, 3, max_episode_steps=4)
        again.restore_state(state)  # branching has left it as it was
        assert np.array_equal(again.render()[2], state.observations[2])

    def test_each_branch_draws_its_later_starts_alone(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        env.reset(seed=3)
        lanes = WorldModelVectorEnv(world, 3)
        lanes.restore_state(env.clone_state().branch(3))
        drawn = [env.reset()[1]["start"] for _ in range(3)]
        for t in range(2):  # the middle lane sits these out
            infos = lanes.reset(options={"reset_mask": np.array([True, False, True])})[1]
            assert infos["start"][[0, 2]].tolist() == [drawn[t]] * 2
        assert lanes.reset()[1]["start"].tolist() == [drawn[2], drawn[0], drawn[2]]

    def test_there_must_be_such_a_lane(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        env.reset(seed=0)
        with pytest.raises(ValueError, match=r"a lane in 0\.\.0 .*got lane 1 into 2"):
            env.clone_state().branch(2, lane=1)
        with pytest.raises(ValueError, match="got lane 0 into 0"):
            env.clone_state().branch(0)


class TestUncertainty:
    def test_measuring_it_changes_nothing_else(self, world: WorldModel) -> None:
        for num_passes in (1, 3):
            plain = Rollout(world, 2, num_passes=num_passes)
            asked = Rollout(world, 2, num_passes=num_passes, with_uncertainty=True)
            for rollout in (plain, asked):
                rollout.reset(world.starts.frames[:2], world.starts.actions[:2], [4, 5])
            for action in ([0, 1], [2, 2], [1, 0]):
                one, other = plain.step(np.array(action)), asked.step(np.array(action))
                assert np.array_equal(one.frames, other.frames)
                assert np.array_equal(one.rewards, other.rewards)
                assert one.uncertainties is None
                assert other.uncertainties is not None
                assert other.uncertainties.shape == (2,)
                assert (other.uncertainties > 0).all()

    def test_a_world_that_looks_at_no_noise_has_no_uncertainty(self) -> None:
        world = make_tiny_world()
        hook = world.dit.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0, *inputs[1:]))
        env = WorldModelEnv(world, max_uncertainty=math.inf)
        env.reset(seed=0)
        assert env.step(1)[-1]["uncertainty"] == 0
        hook.remove()
        assert env.step(1)[-1]["uncertainty"] > 0.001

    def test_an_episode_is_cut_off_where_it_is_above_the_limit(self, world: WorldModel) -> None:
        env = WorldModelEnv(world, max_uncertainty=math.inf)
        env.reset(seed=0)
        uncertainties = [env.step(1)[-1]["uncertainty"] for _ in range(6)]
        limit = sum(sorted(uncertainties)[-2:]) / 2  # one step is above it
        single = WorldModelEnv(world, max_uncertainty=limit)
        single.reset(seed=0)
        cut = [single.step(1)[3] for _ in range(int(np.argmax(uncertainties)) + 1)]
        assert cut == [*[False] * int(np.argmax(uncertainties)), True]
        envs = WorldModelVectorEnv(world, 2, max_uncertainty=limit, autoreset_mode="SameStep")
        envs.reset(seed=[0, 1])
        for t in range(6):
            _, _, _, truncations, infos = envs.step(np.array([1, 1]))
            if t == np.argmax(uncertainties):
                assert truncations[0]
                measured = infos["final_info"]["uncertainty"][0]
                assert measured == pytest.approx(max(uncertainties), rel=1e-3)
                break
            assert not truncations[0]
            assert infos["uncertainty"][0] == pytest.approx(uncertainties[t], rel=1e-3)

    def test_the_limit_is_not_below_0(self, world: WorldModel) -> None:
        for make in (WorldModelEnv, WorldModelVectorEnv):
            with pytest.raises(ValueError, match=r"must be a number of at least 0, got -0\.1"):
                make(world, max_uncertainty=-0.1)


class TestStarts:
    def test_episodes_begin_from_windows_of_a_recording(self, world: WorldModel, tmp_path) -> None:
        recording = write_tiny_recording(tmp_path / "more")
        starts = recording.sample_windows(np.random.default_rng(0), 50, WINDOW)
        env = WorldModelEnv(world, starts=starts)
        indices = set()
        for seed in range(20):
            frame, info = env.reset(seed=seed)
            assert np.array_equal(frame, starts.frames[info["start"], -1])
            indices.add(info["start"])
        assert max(indices) > 3  # more than the world's own
        envs = WorldModelVectorEnv(world, 2, starts=starts)
        frames = envs.reset(options={"start": [40, 7]})[0]
        assert np.array_equal(frames, starts.frames[[40, 7], -1])
        with pytest.raises(ValueError, match=r"there are 50 start windows: .* got 50"):
            env.reset(options={"start": 50})

    def test_they_must_show_the_same_game(self, world: WorldModel) -> None:
        other = make_tiny_world().starts
        other.frames = other.frames[..., :8, :]
        with pytest.raises(ValueError, match=r"starts must be windows of frames \(16, 16, 3\)"):
            WorldModelEnv(world, starts=other)


class TestLatents:
    @pytest.mark.parametrize("vae", [False, True])
    def test_are_what_the_frames_are_decoded_from(
        self, vae: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = make_tiny_world(
            **({"codec": make_tiny_vae_codec(), "patch_size": 4} if vae else {})
        )
        seen, latent = WorldModelEnv(world), WorldModelEnv(world, observation="latents")
        shape = (4, SIDE // 2, SIDE // 2) if vae else (3, SIDE, SIDE)
        assert latent.observation_space.shape == shape
        seen.reset(seed=3)
        obs, _ = latent.reset(seed=3)
        assert obs in latent.observation_space
        for action in (1, 2, 0):
            frame, *rest = seen.step(action)
            obs, *same = latent.step(action)
            assert (obs.dtype, obs.shape) == (np.float32, shape)
            assert rest == same
            assert np.array_equal(latent.render(), frame)
        decoded = []
        decode = world.codec.decode
        monkeypatch.setattr(world.codec, "decode", lambda *x: decoded.append(1) or decode(*x))
        latent.step(1)
        assert len(decoded) == (0 if vae else 1)  # frames that are exact are rounded to pixels

    def test_of_many_lanes_with_resets_and_snapshots(self) -> None:
        world = make_tiny_world(termination_bias=0.0)
        make = {"num_envs": 3, "max_episode_steps": 4, "autoreset_mode": "SameStep"}
        seen = WorldModelVectorEnv(world, **make)
        latent = WorldModelVectorEnv(world, observation="latents", **make)
        seen.reset(seed=1)
        assert latent.reset(seed=1)[0] in latent.observation_space
        for _ in range(6):
            state = latent.clone_state()
            frames, *_ = seen.step(np.array([0, 1, 2]))
            obs, _, terminations, truncations, infos = latent.step(np.array([0, 1, 2]))
            assert np.array_equal(np.stack(latent.render()), frames)
            for lane in np.flatnonzero(terminations | truncations):
                assert infos["final_obs"][lane].shape == obs[lane].shape
            latent.restore_state(state)
            assert np.array_equal(latent.step(np.array([0, 1, 2]))[0], obs)

    def test_there_is_nothing_else_to_see(self, world: WorldModel) -> None:
        with pytest.raises(ValueError, match="must be 'frames' or 'latents', got 'tokens'"):
            WorldModelEnv(world, observation="tokens")
