from __future__ import annotations

import gc
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.tiny_worlds import (
    WINDOW,
    make_tiny_game,
    make_tiny_vae_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.recording import Recording
from worldsim.model.sampling import pass_levels
from worldsim.rollout import Rollout
from worldsim.rollout_output import RolloutStep
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

ACTIONS = [0, 1, 2, 2, 1, 0, 1, 1]


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", episodes=3)


def begin(world: WorldModel, seeds: Sequence[int] = (7,), num_passes: int | None = None) -> Rollout:
    """Sessions with the given seeds, from the bundled starts in turn."""
    rollout = Rollout(world, len(seeds), num_passes=num_passes)
    rows = np.arange(len(seeds)) % len(world.starts.frames)
    rollout.reset(world.starts.frames[rows], world.starts.actions[rows], seeds)
    return rollout


def play(rollout: Rollout, actions: Sequence[int] = ACTIONS) -> list[RolloutStep]:
    return [rollout.step(np.full(rollout.batch_size, action)) for action in actions]


def frames_of(steps: Sequence[RolloutStep]) -> np.ndarray:
    return np.stack([step.frames for step in steps], axis=1)


def assert_same(left: Sequence[RolloutStep], right: Sequence[RolloutStep]) -> None:
    for ours, theirs in zip(left, right, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one, other)


def assert_close(left: RolloutStep, right: RolloutStep, lanes: Sequence[int] = (0,)) -> None:
    """The same but for how a batch of another size rounds."""
    for lane in lanes:
        difference = left.frames[lane].astype(int) - right.frames[lane]
        assert np.abs(difference).max() <= 1
        np.testing.assert_allclose(left.rewards[lane], right.rewards[lane], rtol=0.05, atol=0.1)


class TestSteps:
    def test_give_frames_rewards_and_ends_of_each_lane(self, world: WorldModel) -> None:
        step = begin(world, seeds=(1, 2, 3)).step(np.array([0, 1, 2]))
        assert (step.frames.shape, step.frames.dtype) == ((3, 16, 16, 3), np.uint8)
        assert (step.rewards.shape, step.rewards.dtype) == ((3,), np.float32)
        assert (step.terminations.shape, step.terminations.dtype) == ((3,), np.bool_)
        assert (step.termination_probs.shape, step.termination_probs.dtype) == ((3,), np.float32)

    def test_the_action_decides_the_frame_and_the_reward(self, world: WorldModel) -> None:
        rollout = begin(world)
        state = rollout.clone_state()
        steps = []
        for action in range(3):
            rollout.restore_state(state)
            steps.append(rollout.step(np.array([action])))
        assert len({step.frames.tobytes() for step in steps}) == 3
        assert len({step.rewards.tobytes() for step in steps}) == 3

    def test_ends_are_drawn_by_their_probability(self) -> None:
        world = make_tiny_world(termination_bias=-1.0)
        rollout = begin(world, seeds=range(40))
        steps = play(rollout, ACTIONS * 2)
        ends = np.stack([step.terminations for step in steps])
        probs = np.stack([step.termination_probs for step in steps])
        assert ends.mean() == pytest.approx(probs.mean(), abs=0.06)
        assert 0.1 < probs.mean() < 0.9

    def test_frames_that_are_shown_are_those_that_are_remembered(self, world: WorldModel) -> None:
        rollout, seen = begin(world), []
        hook = world.dit.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[1].history.clone())
        )
        steps = play(rollout)
        hook.remove()
        for t in range(1, len(steps)):
            history = world.encode(torch.from_numpy(steps[t - 1].frames)[:, None])[:, 0]
            assert torch.equal(seen[t * rollout.num_passes][:, 0, :3], history)

    @pytest.mark.parametrize("num_passes", [1, 2, 4])
    def test_a_frame_costs_its_passes_and_no_more(self, world: WorldModel, num_passes: int) -> None:
        rollout, levels = begin(world, num_passes=num_passes), []
        hook = world.dit.register_forward_pre_hook(
            lambda _, inputs: levels.append(inputs[1].tau.item())
        )
        rollout.step(np.array([1]))
        hook.remove()
        assert levels == pytest.approx(pass_levels(num_passes))

    def test_the_last_pass_is_what_is_remembered(self, world: WorldModel) -> None:
        rollout, written = begin(world, num_passes=3), []
        hook = world.dit.register_forward_hook(
            lambda _, inputs, output: written.append(inputs[2].keys[0].clone())
        )
        rollout.step(np.array([1]))
        hook.remove()
        assert torch.equal(rollout.clone_state().cache.keys[0], written[-1])
        assert not torch.equal(written[-1], written[0])

    def test_grey_frames_of_odd_size(self) -> None:
        world = make_tiny_world(make_tiny_game(frame_size=(21, 30), channels=1))
        frames = frames_of(play(begin(world)))
        assert frames.shape == (1, len(ACTIONS), 21, 30, 1)
        assert frames.std() > 0

    def test_a_world_in_the_latents_of_a_vae(self) -> None:
        world = make_tiny_world(codec=make_tiny_vae_codec(), patch_size=4)
        steps, again = play(begin(world, (1, 2))), play(begin(world, (1, 2)))
        assert frames_of(steps).shape == (2, len(ACTIONS), 16, 16, 3)
        assert_same(steps, again)
        assert not np.array_equal(frames_of(steps), frames_of(play(begin(world, (3, 4)))))

    def test_a_vae_world_of_a_size_that_does_not_divide_is_refused(self) -> None:
        world = make_tiny_world(make_tiny_game(frame_size=(16, 17)), codec=make_tiny_vae_codec())
        with pytest.raises(ValueError, match="multiples of 2, got 16x17"):
            Rollout(world)


class TestSeeds:
    def test_the_same_seed_gives_the_same_rollout(self, world: WorldModel) -> None:
        assert_same(play(begin(world)), play(begin(world)))
        rollout = begin(world)
        first = play(rollout)
        rollout.reset(world.starts.frames[:1], world.starts.actions[:1], seeds=[7])
        assert_same(play(rollout), first)

    def test_another_seed_gives_another(self, world: WorldModel) -> None:
        one, other = (frames_of(play(begin(world, (seed,)))) for seed in (7, 8))
        assert (one != other).any(axis=(0, 2, 3, 4)).all()

    def test_a_lane_plays_as_it_would_alone(self, world: WorldModel) -> None:
        seeds = (11, 12, 13, 14)
        together = play(begin(world, seeds))
        for lane, seed in enumerate(seeds):
            alone = Rollout(world)
            row = [lane % len(world.starts.frames)]
            alone.reset(world.starts.frames[row], world.starts.actions[row], [seed])
            for ours, theirs in zip(play(alone), together[:4], strict=False):
                assert_close(ours, RolloutStep(*(part[lane : lane + 1] for part in theirs[:4])))

    def test_global_random_state_is_neither_read_nor_moved(self, world: WorldModel) -> None:
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = play(begin(world))
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert_same(play(begin(world)), first)


class TestStates:
    def test_a_restored_lane_continues_as_it_did(self, world: WorldModel) -> None:
        rollout = begin(world, (1, 2))
        play(rollout, ACTIONS[:3])
        state = rollout.clone_state()
        first = play(rollout)
        rollout.restore_state(state)
        assert_same(play(rollout), first)
        rollout.restore_state(state)  # a state serves more than once
        assert_same(play(rollout), first)

    def test_also_in_another_rollout_of_the_world(self, world: WorldModel) -> None:
        rollout = begin(world, (1, 2))
        play(rollout, ACTIONS[:3])
        other = Rollout(world, 2)
        other.restore_state(rollout.clone_state())
        assert_same(play(other), play(rollout))

    def test_branches_part_with_their_actions(self, world: WorldModel) -> None:
        rollout = begin(world)
        state = rollout.clone_state()
        left = play(rollout, [1, 1, 1])
        rollout.restore_state(state)
        right = play(rollout, [2, 1, 1])
        assert all((a.frames != b.frames).any() for a, b in zip(left, right, strict=True))

    def test_passes_may_change_between_steps(self, world: WorldModel) -> None:
        rollout = begin(world, num_passes=2)
        state = rollout.clone_state()
        two = play(rollout)
        rollout.restore_state(state)
        rollout.num_passes = 4
        assert rollout.num_passes == 4
        four = play(rollout)
        assert not np.array_equal(frames_of(two), frames_of(four))
        rollout.restore_state(state)
        assert_same(play(rollout), four)  # passes belong to the rollout, not to the state
        rollout.num_passes = 2
        rollout.restore_state(state)
        assert_same(play(rollout), two)

    def test_a_state_of_another_number_of_lanes_is_refused(self, world: WorldModel) -> None:
        state = begin(world, (1, 2, 3)).clone_state()
        with pytest.raises(ValueError, match="the state has 3 lanes and this rollout 1:"):
            begin(world).restore_state(state)


class TestReset:
    def test_of_some_lanes_touches_no_other(self, world: WorldModel) -> None:
        seeds = (1, 2, 3)
        plain, rollout = begin(world, seeds), begin(world, seeds)
        assert_same(play(rollout, ACTIONS[:3]), play(plain, ACTIONS[:3]))
        starts = world.starts
        rollout.reset(starts.frames[[2, 0]], starts.actions[[2, 0]], [21, 22], lanes=[2, 0])
        fresh = Rollout(world, 3)
        fresh.reset(starts.frames[:3], starts.actions[:3], [22, 2, 21])
        for ours, kept, begun in zip(play(rollout), play(plain), play(fresh), strict=True):
            for one, same in zip(ours[:4], kept, strict=False):
                assert np.array_equal(one[1], same[1])  # to the bit
            assert_close(ours, begun, lanes=(0, 2))  # their contexts were read in other batches

    def test_leaves_nothing_of_the_lane_before(self, world: WorldModel) -> None:
        rollout = begin(world, (3,))
        play(rollout)
        rollout.reset(world.starts.frames[1:2], world.starts.actions[1:2], [9])
        fresh = Rollout(world)
        fresh.reset(world.starts.frames[1:2], world.starts.actions[1:2], [9])
        assert_same(play(rollout), play(fresh))

    @pytest.mark.parametrize("length", [1, 2, WINDOW])
    def test_every_frame_and_action_of_the_context_is_remembered(
        self, world: WorldModel, length: int
    ) -> None:
        frames, actions = world.starts.frames[:1, -length:], world.starts.actions[:1]
        actions = actions[:, actions.shape[1] - length + 1 :]

        def first_step(frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
            rollout = Rollout(world)
            rollout.reset(frames, actions, [1])
            return rollout.step(np.array([0])).rewards

        before = first_step(frames, actions)
        # of a whole window, the first frame leaves as the new one comes
        for t in range(1 if length == WINDOW else 0, length):
            changed = frames.copy()
            changed[:, t] = 255 - changed[:, t]
            assert not np.array_equal(first_step(changed, actions), before)
        for t in range(length - 1):
            changed = actions.copy()
            changed[:, t] = (changed[:, t] + 1) % 3
            assert not np.array_equal(first_step(frames, changed), before)

    def test_of_a_long_context_the_last_window_counts(
        self, world: WorldModel, recording: Recording
    ) -> None:
        episode = recording.episode(0)
        frames, actions = episode.frames[None, :20], episode.actions[None, :19]
        whole, tail = Rollout(world), Rollout(world)
        whole.reset(frames, actions, [1])
        changed = frames.copy()
        changed[:, : 20 - WINDOW] = 0
        tail.reset(changed, actions, [1])
        assert_same(play(whole), play(tail))


class TestErrors:
    @pytest.mark.parametrize(
        "frames",
        [
            np.zeros((1, 4, 16, 15, 3), np.uint8),
            np.zeros((1, 4, 16, 16, 1), np.uint8),
            np.zeros((4, 16, 16, 3), np.uint8),
            np.zeros((1, 4, 16, 16, 3), np.float32),
            np.zeros((1, 0, 16, 16, 3), np.uint8),
            np.zeros(3, np.uint8),
        ],
    )
    def test_context_frames_of_another_kind(self, world: WorldModel, frames: np.ndarray) -> None:
        sentence = (
            f"context frames must be uint8 of shape (b t 16 16 3), got {frames.dtype} "
            f"{frames.shape}"
        )
        with pytest.raises(ValueError, match=re.escape(sentence)):
            Rollout(world).reset(frames, np.zeros((1, 3), np.int64), [0])

    @pytest.mark.parametrize(
        ("shape", "seeds", "lanes"),
        [((1, 4), [0], [0]), ((1, 3), [0, 1], [0]), ((1, 3), [0], [0, 1]), ((1, 3), [0], None)],
    )
    def test_numbers_that_do_not_fit(
        self, world: WorldModel, shape: tuple[int, int], seeds: list[int], lanes: list[int] | None
    ) -> None:
        frames = world.starts.frames[:1]
        with pytest.raises(
            ValueError, match="lanes with 4 context frames need 3 actions and a seed"
        ):
            Rollout(world, 2).reset(frames, np.zeros(shape, np.int64), seeds, lanes)

    @pytest.mark.parametrize("action", [-1, 4])
    def test_context_actions_out_of_range(self, world: WorldModel, action: int) -> None:
        actions = np.array([[0, action, 1]])
        with pytest.raises(ValueError, match=re.escape("context actions must be in 0..2, or 3")):
            Rollout(world).reset(world.starts.frames[:1], actions, [0])

    def test_actions_may_be_unknown(self, world: WorldModel) -> None:
        rollout = Rollout(world)
        rollout.reset(world.starts.frames[:1], np.full((1, 3), 3), [0])
        unknown = rollout.step(np.array([3])).frames
        rollout.reset(world.starts.frames[:1], np.full((1, 3), 3), [0])
        assert not np.array_equal(unknown, rollout.step(np.array([1])).frames)

    @pytest.mark.parametrize("lanes", [[0, 0], [1, 2], [-1, 0]])
    def test_lanes_that_there_are_not(self, world: WorldModel, lanes: list[int]) -> None:
        with pytest.raises(ValueError, match=re.escape(f"in 0..1, got {lanes}")):
            Rollout(world, 2).reset(
                world.starts.frames[:2], world.starts.actions[:2], [0, 1], lanes
            )

    @pytest.mark.parametrize("actions", [[0], [0, 4], [0, -1], [[0, 1]], [0.0, 1.0], 1])
    def test_actions_of_another_kind_change_nothing(
        self, world: WorldModel, actions: object
    ) -> None:
        rollout, plain = begin(world, (1, 2)), begin(world, (1, 2))
        with pytest.raises(ValueError, match=r"2 integers in 0\.\.2, or 3 if unknown, got"):
            rollout.step(np.array(actions))
        assert_same(play(rollout), play(plain))

    def test_a_step_before_every_lane_has_begun(self, world: WorldModel) -> None:
        rollout = Rollout(world, 2)
        starts = world.starts
        rollout.reset(starts.frames[:1], starts.actions[:1], [0], lanes=[1])
        with pytest.raises(
            RuntimeError, match=r"call reset before step: lanes \[0\] have no start"
        ):
            rollout.step(np.array([0, 0]))

    def test_numbers_below_one(self, world: WorldModel) -> None:
        with pytest.raises(ValueError, match=r"batch_size must be a whole number from 1"):
            Rollout(world, 0)
        with pytest.raises(ValueError, match=r"num_passes must be .* from 1 to 1,000, got 0"):
            Rollout(world, num_passes=0)
        rollout = begin(world)
        with pytest.raises(ValueError, match=r"num_passes must be .* from 1 to 1,000, got -1"):
            rollout.num_passes = -1
        assert rollout.num_passes == world.num_passes


def number_and_bytes_of_tensors() -> tuple[int, int]:
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.slow
def test_a_rollout_of_hundreds_of_steps_takes_no_more_memory(world: WorldModel) -> None:
    rollout = begin(world, (1, 2))
    play(rollout, ACTIONS * 2)
    before = number_and_bytes_of_tensors()
    shapes = [rollout.clone_state().cache.keys[0].shape, rollout.clone_state().history.shape]
    play(rollout, ACTIONS * 25)
    state = rollout.clone_state()
    assert state.cache.positions.tolist() == [WINDOW + 27 * len(ACTIONS)] * 2
    assert [state.cache.keys[0].shape, state.history.shape] == shapes
    del state  # whose tensors would count
    assert number_and_bytes_of_tensors() == before
