"""Times of several frames, joined by a patch or by the codec: one step, several actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import worldsim
from tests.tiny_worlds import (
    losses_of,
    make_tiny_video_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.eval.held_out import choose_windows, roll_out
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.layout import Layout, fold, fold_whole, unfold
from worldsim.rollout import Rollout
from worldsim.train.agent import make_world_envs
from worldsim.train.agent_config import AgentConfig
from worldsim.train.config import main
from worldsim.train.objective import encode
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.numeric

TIMES = 5  # of a window with its history
KINDS = {
    "patches": {"patch_frames": 3, "patch_size": (8, 4)},
    "codec": {"codec": make_tiny_video_codec()},
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", episodes=3)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> WorldModel:
    return make_tiny_world(window=4, num_history=2, **KINDS[request.param])


def windows_of(world: WorldModel, recording: Recording) -> Windows:
    return recording.windows([0, 1], [5, 9], 1 + world.patch_frames * (TIMES - 1))


def test_a_still_a_clip_and_a_patch_have_their_numbers_of_tokens() -> None:
    patch = 4, 8, 8
    assert Layout.of(1, (64, 64), patch).num_tokens == 64
    assert Layout.of(2, (64, 64), patch).num_tokens == 128  # the first frame is a time alone
    assert Layout.of(17, (64, 64), patch).num_tokens == 5 * 64
    assert Layout.of(17, (60, 40), patch, 3).num_tokens == 5 * (8 * 5 + 3)
    assert Layout.of(17, (60, 40), (4, 16, 2), 3).num_tokens == 5 * (4 * 20 + 3)


def test_folding_repeats_the_first_frame_alone() -> None:
    frames = torch.arange(7.0).view(1, 7, 1, 1, 1)
    folded = fold(frames, 3)
    assert folded[0, :, :, 0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert unfold(folded, 3).flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(fold_whole(unfold(folded, 3), 3), folded)
    assert fold(frames, 1) is frames


def test_a_batch_has_the_actions_rewards_and_ends_of_each_time(
    world: WorldModel, recording: Recording
) -> None:
    windows, p = windows_of(world, recording), world.patch_frames
    windows.rewards[:] = np.arange(windows.rewards.shape[1])
    windows.terminations[0, 2 * p + 1] = True  # into the second frame of time 3
    windows.valid[1, 3 * p + 1 :] = False  # all of time 4
    batch = encode(world, windows)
    sides = world.codec.latent_size((16, 16))
    assert batch.latents.shape == (2, TIMES, world.dit.config.channels, *sides)
    assert torch.equal(batch.actions.flatten(1), torch.from_numpy(windows.actions[:, p:]))
    assert batch.rewards[0].tolist() == [sum(range(p * k, p * k + p)) for k in (1, 2, 3)]
    assert batch.terminations.tolist() == [[False, True, False], [False] * 3]
    assert batch.valid.tolist() == [[1, 1, 1], [1, 1, 0]]
    moving = (windows.frames != world.background).any(-1)
    for time in range(1, TIMES):
        in_time = moving[:, p * (time - 1) + 1 : p * time + 1].any(1)
        assert np.array_equal(batch.moving[:, time].numpy(), in_time)


def test_patches_decode_to_the_very_frames(recording: Recording) -> None:
    world = make_tiny_world(window=4, **KINDS["patches"])
    windows = windows_of(world, recording)
    frames = world.decode(encode(world, windows).latents)[:, world.patch_frames :]
    assert np.array_equal(frames.numpy(), windows.frames[:, 1:])


@torch.no_grad()
def test_an_action_is_seen_by_its_time_and_later_ones(
    world: WorldModel, recording: Recording
) -> None:
    windows, p = windows_of(world, recording), world.patch_frames
    before = losses_of(world, windows)
    for at in range(p * (TIMES - 1)):
        changed_windows = windows_of(world, recording)
        changed_windows.actions[:, at] = (windows.actions[:, at] + 1) % 3
        after = losses_of(world, changed_windows)
        changed = (before.frame != after.frame).any(0).nonzero().flatten().tolist()
        target = at // p + 1 - world.num_history
        assert changed == (list(range(target, TIMES - 2)) if target >= 0 else [])


@torch.no_grad()
def test_a_context_computes_as_a_sequence(world: WorldModel, recording: Recording) -> None:
    windows, p = recording.windows([0], [3], world.context_frames), world.patch_frames
    outputs: list[DiTOutput] = []
    hook = world.dit.register_forward_hook(lambda _, __, out: outputs.append(out))
    latents = world.encode(torch.from_numpy(windows.frames))
    history = world.history(torch.cat((latents[:, :1], latents[:, :1], latents), dim=1))
    actions = torch.cat((torch.full((1, p), 3), torch.from_numpy(windows.actions)), dim=1)
    conditions = Conditions(torch.ones(1, 4), actions.view(1, 4, p), history)
    world.predict(latents, conditions)
    # A frame too many at the front: a window has whole times.
    earlier = recording.windows([0], [2], world.context_frames + 1)
    Rollout(world).reset(earlier.frames, earlier.actions, [0])
    hook.remove()
    torch.testing.assert_close(outputs[1].latents, outputs[0].latents)
    torch.testing.assert_close(outputs[1].features, outputs[0].features)


def test_a_step_has_the_frames_of_a_time_and_holds_its_action(world: WorldModel) -> None:
    held, given, other = (Rollout(world, 2) for _ in range(3))
    p = world.patch_frames
    for rollout in (held, given, other):
        rollout.begin([0, 1], [0, 1])
    step = held.step(np.array([1, 2]))
    given.advance(np.array([[1] * p, [2] * p]))
    other.advance(np.array([[1] * p, [2, *[1] * (p - 1)]]))
    clips = [rollout.clip() for rollout in (held, given, other)]
    assert clips[0].shape == (2, p, 16, 16, 3)
    assert torch.equal(clips[0], clips[1])
    assert np.array_equal(step.frames, clips[0][:, -1])
    assert torch.equal(clips[0][0], clips[2][0])
    assert not torch.equal(clips[0][1], clips[2][1])
    if world.codec.exact:
        ground = world.background_latents[:, 0]
        torch.testing.assert_close(held.latents, world.codec.encode(clips[0])[:, -1] - ground)
    with pytest.raises(ValueError, match=r"actions must be 2 integers"):
        held.advance(np.array([[1] * (p + 1)] * 2))


def test_an_environment_shows_all_frames_of_a_step(world: WorldModel) -> None:
    env, p = WorldModelEnv(world), world.patch_frames
    check_env(gymnasium.make("worldsim/WorldModel-v0", world=world).unwrapped)
    assert env.metadata["frames_per_step"] == p
    assert env.metadata["render_fps"] == round(world.game.fps / p)
    first, info = env.reset(seed=0)
    assert np.array_equal(info["frames"], np.repeat(first[None], p, axis=0))
    rollout = Rollout(world)
    rollout.restore_state(env.clone_state().rollout)
    for action in (1, 2, 0):
        observation, reward, *_, info = env.step(action)
        outcome = rollout.advance(np.full((1, p), action))
        assert (info["frames"].dtype, info["frames"].shape) == (np.uint8, (p, 16, 16, 3))
        assert np.array_equal(info["frames"], rollout.clip()[0].numpy())
        assert np.array_equal(info["frames"][-1], observation)
        assert reward == outcome.rewards[0]


def test_many_lanes_have_the_frames_of_one_each(world: WorldModel) -> None:
    p = world.patch_frames
    envs = WorldModelVectorEnv(world, 2, output="torch")
    alone = [WorldModelEnv(world) for _ in range(2)]
    envs.reset(seed=3)
    for lane, env in enumerate(alone):
        env.reset(seed=3 + lane)
    for actions in ([1, 2], [0, 1]):
        observations, *_, infos = envs.step(torch.tensor(actions))
        frames = infos["frames"]
        assert isinstance(frames, torch.Tensor)
        assert frames.shape == (2, p, 16, 16, 3)
        assert torch.equal(frames[:, -1], observations)
        for lane, env in enumerate(alone):
            ours = frames[lane].int() - torch.from_numpy(env.step(actions[lane])[4]["frames"]).int()
            assert ours.abs().max() <= 1


def test_a_longer_hold_shows_the_frames_of_its_last_prediction(world: WorldModel) -> None:
    held, single = (WorldModelVectorEnv(world, 1, frame_skip=n) for n in (2, 1))
    for envs in (held, single):
        envs.reset(seed=0)
    assert held.metadata["frames_per_step"] == 2 * world.patch_frames
    _, rewards, *_, infos = held.step(np.array([1]))
    first, second = (single.step(np.array([1])) for _ in range(2))
    assert np.array_equal(infos["frames"], second[4]["frames"])
    np.testing.assert_allclose(rewards, first[1] + second[1])


def test_worlds_of_single_frames_and_latents_have_no_list_of_frames(world: WorldModel) -> None:
    in_latents = WorldModelEnv(world, observation="latents")
    one_by_one = WorldModelEnv(make_tiny_world())
    for env in (in_latents, one_by_one):
        assert "frames" not in env.reset(seed=0)[1]
        assert "frames" not in env.step(1)[4]
    assert one_by_one.metadata["frames_per_step"] == 1


def test_a_decision_of_an_agent_lasts_as_many_frames_as_in_the_game(world: WorldModel) -> None:
    p = world.patch_frames
    config = AgentConfig("world", Path("out"), frame_skip=2 * p, horizon=5 * p)
    envs = make_world_envs(world, config, 2).envs
    assert (envs.metadata["frames_per_step"], envs.max_episode_steps) == (2 * p, 3)
    with pytest.raises(ValueError, match=rf"--frame-skip must be a multiple of {p}, got {p + 1}"):
        make_world_envs(world, replace(config, frame_skip=p + 1), 2)


def test_held_out_windows_are_continued_frame_by_frame(
    world: WorldModel, recording: Recording
) -> None:
    held_out = choose_windows(world, recording, [0, 1, 2], horizons=(7,), num_windows=3)
    assert held_out.context == world.context_frames == 1 + 3 * world.patch_frames
    imagined = roll_out(world, held_out)
    assert imagined.shape == (3, 7, 16, 16, 3)  # whole steps and a part of the last one
    rollout = Rollout(world, 3)
    context = held_out.context
    windows = held_out.windows
    rollout.reset(windows.frames[:, :context], windows.actions[:, : context - 1], [0, 1, 2])
    sides = world.codec.latent_size((16, 16))
    assert rollout.latents.shape == (3, world.codec.latent_channels, *sides)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_world_is_trained_saved_and_stepped(
    kind: str, recording: Recording, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    make_tiny_video_codec().save(tmp_path / "codec")
    joined = ["--model.patch-frames", "2"]
    if kind == "codec":
        joined = ["--codec", str(tmp_path / "codec")]
    words = ["--steps", "2", "--device", "cpu", "--wandb", "disabled", "--model.window", "4"]
    words += ["--model.patch-size", "8", "4"]
    assert main([str(recording.path), "--out", str(out), *words, *joined]) == 0
    world = worldsim.load(out)
    assert (world.patch_frames, world.context_frames) == (2, 7)
    assert world.starts.frames.shape[1] == 7
    env = gymnasium.make("worldsim/WorldModel-v0", world=str(out))
    env.reset(seed=0)
    observation, *_ = env.step(1)
    assert observation.shape == (16, 16, 3)
    assert env.metadata["render_fps"] == world.game.fps / 2
    assert "the next 2 frames together, for which the action is held" in world.card
