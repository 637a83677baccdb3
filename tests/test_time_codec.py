"""Worlds whose codec joins frames: latents of several frames, decoded one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from tests.tiny_text import make_text_world
from tests.tiny_worlds import (
    WINDOW,
    make_tiny_episode,
    make_tiny_game,
    make_tiny_video_codec,
    make_tiny_world,
)
from worldsim.first_frame import first_frames
from worldsim.frames import UNKNOWN
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

P = 2  # frames of a latent of the tiny codec


@pytest.fixture(scope="module", params=[1, 2])
def world(request: pytest.FixtureRequest) -> WorldModel:
    """A world whose decoder sees so many latents back."""
    codec = make_tiny_video_codec()
    codec.decode_context = request.param
    return make_tiny_world(codec=codec)


def context(num_frames: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    episode = make_tiny_episode(make_tiny_game(), num_frames, seed)
    return episode.frames[None, :num_frames], episode.actions[None, : num_frames - 1]


def play(rollout: Rollout, *steps: list[int]) -> list[torch.Tensor]:
    clips = []
    for actions in steps:
        rollout.advance(np.array(actions))
        clips.append(rollout.clip())
    return clips


class TestRollout:
    @pytest.mark.parametrize("times", [1, 2, WINDOW])
    def test_frames_are_those_of_all_latents_decoded_together(
        self, world: WorldModel, times: int
    ) -> None:
        frames, actions = context(1 + P * (times - 1))
        rollout = Rollout(world)
        rollout.reset(frames, actions, [0])
        latents = [*world.encode(torch.from_numpy(frames)).unbind(1)]
        shown = [rollout.clip()[:, -1:] if times == 1 else rollout.clip()]
        for action in (1, 1, 2, 0, 2, 1):
            rollout.advance(np.array([action]))
            latents.append(rollout.latents)
            shown.append(rollout.clip())
        whole = world.decode(torch.stack(latents, dim=1))
        assert whole.shape[1] == 1 + P * (times + 5)
        played = torch.cat(shown, dim=1)
        assert torch.equal(played, whole[:, -played.shape[1] :])

    def test_the_frame_after_a_reset_is_the_start_decoded(self, world: WorldModel) -> None:
        frames, actions = context(1)
        rollout = Rollout(world)
        rollout.reset(frames, actions, [0])
        decoded = world.decode(world.encode(torch.from_numpy(frames)))
        assert torch.equal(rollout.clip(), decoded.expand(-1, P, -1, -1, -1))
        assert np.array_equal(rollout.frames(), decoded[:, 0].numpy())

    def test_no_lane_depends_on_when_others_begin(self, world: WorldModel) -> None:
        frames, actions = context(world.context_frames)
        alone, beside = Rollout(world, 2), Rollout(world, 2)
        for rollout in (alone, beside):
            rollout.reset(np.repeat(frames, 2, 0), np.repeat(actions, 2, 0), [0, 1])
            play(rollout, [1, 2], [2, 0])
        beside.reset(frames[:, :1], actions[:, :0], [3], [1])
        assert torch.equal(alone.clip()[0], beside.clip()[0])
        for one, other in zip(
            play(alone, [1, 1], [0, 0]), play(beside, [1, 2], [0, 1]), strict=True
        ):
            assert torch.equal(one[0], other[0])

    @pytest.mark.parametrize("num_steps", [0, 1, 4])
    def test_a_restored_state_shows_the_same_frames(
        self, world: WorldModel, num_steps: int
    ) -> None:
        frames, actions = context(1)
        rollout = Rollout(world)
        rollout.reset(frames, actions, [0])
        play(rollout, *[[1]] * num_steps)
        state, now = rollout.clone_state(), rollout.clip()
        future = play(rollout, [2], [0], [1])
        rollout.restore_state(state)
        assert torch.equal(rollout.clip(), now)
        for one, other in zip(play(rollout, [2], [0], [1]), future, strict=True):
            assert torch.equal(one, other)
        branches = Rollout(world, 2)
        branches.restore_state(state.take_lanes([0, 0]))
        assert (branches.clip().int() - now.int()).abs().max() <= 1

    def test_a_saved_world_plays_the_same(self, world: WorldModel, tmp_path: Path) -> None:
        world.save(tmp_path / "world")
        loaded = worldsim.load(tmp_path / "world", device="cpu")
        loaded.codec.decode_context = world.codec.decode_context  # that of the class otherwise
        assert loaded.patch_frames == P
        frames, actions = context(world.context_frames)
        clips = []
        for each in (world, loaded):
            rollout = Rollout(each)
            rollout.reset(frames, actions, [0])
            clips.append(torch.cat(play(rollout, [1], [2]), dim=1))
        assert torch.equal(*clips)


class TestLatents:
    def test_what_stays_as_the_median_frame_is_nothing(self, world: WorldModel) -> None:
        still = np.broadcast_to(world.background, (1, 1 + 3 * P, *world.background.shape))
        latents = world.encode(torch.from_numpy(still.copy()))
        torch.testing.assert_close(latents[:, 1], torch.zeros_like(latents[:, 1]))
        wide = world.at_size((24, 16))
        still = np.broadcast_to(wide.background, (1, 1 + P, *wide.background.shape))
        for each in (world, wide):  # the median frame of a world is scaled in the same way
            latents = each.encode(torch.from_numpy(still.copy()))
            torch.testing.assert_close(latents[:, 1], torch.zeros_like(latents[:, 1]))

    def test_the_unknown_history_is_that_of_grey_frames(self, world: WorldModel) -> None:
        shape = (1, 1 + P * (world.num_history - 1), 16, 16, 3)
        latents = world.encode(torch.full(shape, UNKNOWN, dtype=torch.uint8))
        history = world.history(torch.cat((latents, latents[:, -1:]), dim=1))[0, 0]
        assert torch.equal(world.unknown_history((8, 8)), history)

    def test_a_first_frame_is_drawn_from_words(self) -> None:
        world = make_text_world(codec=make_tiny_video_codec())
        frames = first_frames(world, ["two red balls", None], [0, 1], num_passes=2)
        assert frames.shape == (2, 1, 16, 16, 3)
        rollout = Rollout(world, 2)
        rollout.reset(frames, np.zeros((2, 0), np.int64), [0, 1], prompts=["two red balls", None])
        assert play(rollout, [1, 2])[0].shape == (2, P, 16, 16, 3)


class TestWhatFits:
    def test_frames_are_joined_once(self) -> None:
        with pytest.raises(ValueError, match="2 frames per latent and patch_frames 3: take patch"):
            make_tiny_world(codec=make_tiny_video_codec(), patch_frames=3)

    def test_the_denoiser_is_made_for_the_frames_of_a_latent(self) -> None:
        with pytest.raises(ValueError, match="needs a denoiser with latent_frames 2, got 1"):
            make_tiny_world(codec=make_tiny_video_codec(), latent_frames=1)
        with pytest.raises(ValueError, match="needs a denoiser with latent_frames 1, got 2"):
            make_tiny_world(latent_frames=2)

    def test_decoding_needs_no_more_latents_than_are_kept(self) -> None:
        codec = make_tiny_video_codec()
        codec.decode_context = 2
        with pytest.raises(ValueError, match=r"with the 2 before it, .* num_history of 1: take 2"):
            make_tiny_world(codec=codec, num_history=1)
