"""Many lanes in one batch: autoreset modes, infos, masks, seeds and snapshots."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.tiny_worlds import SIDE, WINDOW, make_tiny_video_codec, make_tiny_world
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.numeric

ENV_ID = "worldsim/WorldModel-v0"


@pytest.fixture(scope="module", params=["frames", "latents of two frames"])
def any_mortal_world(request: pytest.FixtureRequest, mortal_world: WorldModel) -> WorldModel:
    if request.param == "frames":
        return mortal_world
    return make_tiny_world(termination_bias=0.0, codec=make_tiny_video_codec())


def test_is_made_by_make_vec_as_one_batched_model(world_path: Path) -> None:
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
    any_mortal_world: WorldModel, mode: AutoresetMode
) -> None:
    """Lane by lane: ends, resets, infos and their masks; frames up to batched rounding."""
    ours = WorldModelVectorEnv(any_mortal_world, 3, max_episode_steps=4, autoreset_mode=mode)
    theirs = SyncVectorEnv(
        [lambda: WorldModelEnv(any_mortal_world, max_episode_steps=4) for _ in range(3)],
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


def test_disabled_leaves_resets_to_the_mask(mortal_world: WorldModel) -> None:
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


def test_partial_reset_touches_no_other_lane(world: WorldModel) -> None:
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


def test_lanes_have_their_own_seeds(world: WorldModel) -> None:
    envs = WorldModelVectorEnv(world, 3)
    envs.reset(seed=[4, 4, 9], options={"start": 0})
    obs = envs.step(np.array([1, 1, 1]))[0]
    assert np.abs(obs[0].astype(int) - obs[1]).max() <= 1  # places round in their own ways
    assert np.abs(obs[0].astype(int) - obs[2]).max() > 1
    with pytest.raises(ValueError, match="expected 3, got 2"):
        envs.reset(seed=[1, 2])


def test_start_may_be_one_index_a_lane(world: WorldModel) -> None:
    envs = WorldModelVectorEnv(world, 3)
    obs, infos = envs.reset(options={"start": [2, 0, 1]})
    assert infos["start"].tolist() == [2, 0, 1]
    assert np.array_equal(obs, world.starts.frames[[2, 0, 1], -1])
    with pytest.raises(ValueError, match="expected 3, got 2"):
        envs.reset(options={"start": [0, 1]})


def test_among_many_lanes_an_episode_begins_as_it_does_alone() -> None:
    world = make_tiny_world()
    num_starts = len(world.starts.frames)
    many, alone = WorldModelVectorEnv(world, num_starts + 2), WorldModelVectorEnv(world, 1)

    def check_each_plays_as_alone() -> None:
        starts = [*range(num_starts), 0, num_starts - 1]
        many.reset(seed=7, options={"start": starts})
        frames = [many.step(np.ones(len(starts), np.int64))[0] for _ in range(3)]
        for lane in (0, num_starts - 1, num_starts + 1):
            alone.reset(seed=7 + lane, options={"start": starts[lane]})
            for frame in frames:
                own = alone.step(np.array([1]))[0][0]
                assert np.abs(own.astype(int) - frame[lane]).max() <= 1

    check_each_plays_as_alone()
    with torch.no_grad():  # a start is read anew when the weights have changed
        world.dit.blocks[-1].feed_forward.down.weight.mul_(3.0)
        world.dit.action_embedding.weight.add_(1.0)
    check_each_plays_as_alone()


def test_restored_state_repeats_the_future_with_its_resets(mortal_world: WorldModel) -> None:
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
    any_mortal_world: WorldModel, mode: AutoresetMode
) -> None:
    envs = WorldModelVectorEnv(
        any_mortal_world, 3, max_episode_steps=4, max_uncertainty=math.inf, autoreset_mode=mode
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
    keys |= {"frames"} if any_mortal_world.patch_frames > 1 else set()
    final = {"final_obs", "final_info"} if mode is AutoresetMode.SAME_STEP else set()
    assert {key for infos in seen for key in infos if key[0] != "_"} == keys | final


@pytest.mark.parametrize("observation", ["frames", "latents"])
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_what_it_returns_belongs_to_the_caller(
    mortal_world: WorldModel, observation: str, frame_stack: int
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
        assert np.array_equal(ours.clone_state().observations, theirs.clone_state().observations)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ([True, False], TypeError, "numpy array of bool, got list"),
        (np.array([1, 0]), TypeError, "bool, got int64"),
        (np.array([True]), ValueError, r"\(2,\), got \(1,\)"),
        (np.array([False, False]), ValueError, "at least one lane"),
    ],
)
def test_bad_mask(world: WorldModel, mask: object, error: type[Exception], words: str) -> None:
    envs = WorldModelVectorEnv(world, 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(error, match=words):
        envs.reset(options={"reset_mask": mask})


def test_wants_a_reset_of_every_lane_first(world: WorldModel) -> None:
    envs = WorldModelVectorEnv(world, 3, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"lanes \[1\]"):
        envs.step(np.zeros(3, np.int64))
    with pytest.raises(ResetNeeded, match=r"lanes \[1\]"):
        envs.clone_state()


def test_bad_arguments(world: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"num_envs must be .* from 1 to .*, got 0"):
        WorldModelVectorEnv(world, 0)
    with pytest.raises(ValueError, match=r"one of \['NextStep', .*\], got 'Sometimes'"):
        WorldModelVectorEnv(world, 2, autoreset_mode="Sometimes")
    envs = WorldModelVectorEnv(world, 2)
    envs.reset()
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        envs.step(np.zeros(3, np.int64))


def test_gymnasiums_wrappers_see_the_mode(world: WorldModel) -> None:
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
        if values.ndim > 1 or values.dtype == object
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
