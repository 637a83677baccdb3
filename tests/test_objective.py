from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_worlds import (
    losses_of,
    make_tiny_vae_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.eval.control import next_frame_errors
from worldsim.frames import moving_pixels
from worldsim.model.dit import DiTOutput
from worldsim.train.moving import moving_places
from worldsim.train.objective import Losses
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

LENGTH = 8  # frames of a window; num_history of them are not targets


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", episodes=3)


@pytest.fixture
def world() -> WorldModel:
    return make_tiny_world(window=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read_windows(recording: Recording, batch_size: int = 3) -> Windows:
    return recording.windows(list(range(batch_size)), [5] * batch_size, LENGTH)


def changed_columns(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).any(dim=0).nonzero().flatten().tolist()


class TestTimeContract:
    """frames[t] --actions[t]--> frames[t+1], rewards[t], terminations[t]."""

    @torch.no_grad()
    def losses(self, world: WorldModel, windows: Windows) -> Losses:
        return losses_of(world, windows)

    @pytest.mark.parametrize("at", range(LENGTH - 1))
    def test_an_action_leads_into_the_next_frame(
        self, world: WorldModel, recording: Recording, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        windows.actions[:, at] = (windows.actions[:, at] + 1) % 3
        after = self.losses(world, windows)
        target = at + 1 - world.num_history  # column of frame at + 1
        changed = changed_columns(before.frame, after.frame)
        # later targets see it through attention over time, earlier ones not at all
        assert changed == (list(range(target, LENGTH - world.num_history)) if target >= 0 else [])
        assert changed_columns(before.head, after.head) == changed

    @pytest.mark.parametrize("at", range(LENGTH))
    def test_a_frame_is_a_target_and_the_history_of_those_after_it(
        self, world: WorldModel, recording: Recording, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        windows.frames[:, at] = 255 - windows.frames[:, at]
        after = self.losses(world, windows)
        first = max(at - world.num_history, 0)
        assert changed_columns(before.frame, after.frame) == list(
            range(first, LENGTH - world.num_history)
        )

    @pytest.mark.parametrize("field", ["rewards", "terminations"])
    @pytest.mark.parametrize("at", range(LENGTH - 1))
    def test_reward_and_end_are_learned_at_the_frame_they_came_with(
        self, world: WorldModel, recording: Recording, field: str, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        getattr(windows, field)[:, at] = 1
        after = self.losses(world, windows)
        target = at + 1 - world.num_history
        assert changed_columns(before.head, after.head) == ([target] if target >= 0 else [])
        assert torch.equal(before.frame, after.frame)

    @pytest.mark.parametrize("at", range(LENGTH))
    def test_padding_counts_nothing(self, world: WorldModel, recording: Recording, at: int) -> None:
        windows = read_windows(recording)
        windows.valid[:, at] = False
        losses = self.losses(world, windows)
        valid = torch.ones(LENGTH)
        valid[at] = 0
        assert torch.equal(losses.valid, valid[world.num_history :].expand(3, -1))
        mean = losses.mean(losses.frame)
        kept = losses.frame[losses.valid > 0]
        torch.testing.assert_close(mean, kept.mean())

    def test_history_is_the_frames_before_newest_first(self) -> None:
        world = make_tiny_world(num_history=3)
        latents = torch.arange(7.0)[None, :, None, None, None].expand(1, 7, 3, 1, 1)
        history = world.history(latents)[0, :, ::3, 0, 0]
        assert history.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 4, 3]]

    def test_windows_that_begin_before_their_episode_have_its_first_frame_as_history(
        self, world: WorldModel, recording: Recording
    ) -> None:
        padded = recording.windows([0], [-world.num_history], LENGTH)
        losses = self.losses(world, padded)
        assert losses.valid.all()  # the episode's first frame is the first target
        assert (padded.frames[0, : world.num_history + 1] == padded.frames[0, 0]).all()


class TestLosses:
    def test_a_perfect_predictor_has_no_loss(self, world: WorldModel, recording: Recording) -> None:
        windows = read_windows(recording)
        truth = world.encode(torch.from_numpy(windows.frames))[:, world.num_history :]
        features = torch.zeros(*truth.shape[:2], 32)
        seen: list[torch.Tensor] = []

        def predict(noisy: torch.Tensor, *_: object) -> DiTOutput:
            seen.append(noisy)
            return DiTOutput(truth, features)

        world.dit.forward = predict  # type: ignore[method-assign]
        losses = losses_of(world, windows, moving_weight=10.0)
        assert not losses.frame.any()
        assert not next_frame_errors(world, windows, seeded()).any()
        clean = losses_of(world, windows, tau_mixture=(1.0, 0.0))
        assert (clean.tau == 1).all()
        assert torch.equal(seen[-1], truth)

    def test_noise_depends_only_on_the_key(self, world: WorldModel, recording: Recording) -> None:
        windows = read_windows(recording)
        options: dict[str, Any] = {
            "tau_mixture": (0.3, 0.0),
            "history_noise": 0.2,
            "history_contrast": 0.2,
            "self_rollout": 0.5,
            "action_dropout": 0.5,
        }
        one, same, other = (losses_of(world, windows, s, **options) for s in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not torch.equal(one.frame, other.frame)

    @pytest.mark.parametrize(
        "option",
        ["history_noise", "history_contrast", "self_rollout", "corrupt_history", "action_dropout"],
    )
    def test_hidden_actions_are_visible_in_the_inputs(
        self, world: WorldModel, recording: Recording, option: str
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[Any, ...]] = []
        world.dit.register_forward_pre_hook(lambda _, inputs: captured.append(inputs))
        losses_of(world, windows, 1)
        losses_of(world, windows, 1, **{option: 1.0})
        (noisy, before), (other, after) = captured[0][:2], captured[-1][:2]
        assert (other.shape, after.history.shape) == (noisy.shape, before.history.shape)
        if option == "action_dropout":
            assert (after.actions == world.game.num_actions).all()
            assert torch.equal(before.actions, torch.from_numpy(windows.actions[:, 1:]))
        else:
            assert torch.equal(after.actions, before.actions)
            assert not torch.equal(after.history, before.history)

    def test_self_rollout_replaces_frames_by_the_models_predictions(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[tuple[Any, ...], DiTOutput]] = []
        world.dit.register_forward_hook(lambda _, inputs, out: captured.append((inputs, out)))
        losses_of(world, windows, self_rollout=1.0)
        (first, drawn), (second, _) = captured
        shown = world.encode(world.decode(drawn.latents))  # clipped and rounded, as in play
        k, c = world.num_history, 3
        assert torch.equal(second[0], first[0])
        assert torch.equal(
            second[1].history[:, 0], first[1].history[:, 0]
        )  # before any target: the real ones
        for t in range(1, LENGTH - k):
            assert torch.equal(second[1].history[:, t, :c], shown[:, t - 1])
        for t in range(2, LENGTH - k):
            assert torch.equal(second[1].history[:, t, c:], shown[:, t - 2])

    def test_next_frame_errors_takes_other_actions_and_does_not_change_the_windows(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        before = dataclasses.replace(windows, actions=windows.actions.copy())
        own = next_frame_errors(world, windows, seeded())
        other = next_frame_errors(world, windows, seeded(), actions=(windows.actions + 1) % 3)
        assert own.shape == (3,)
        again = next_frame_errors(world, windows, seeded(), actions=windows.actions)
        assert torch.equal(own, again)
        assert (own != other).all()
        assert not own.requires_grad
        assert np.array_equal(windows.actions, before.actions)

    def test_next_frame_errors_predicts_the_last_frame_from_pure_noise(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[Any, ...]] = []
        world.dit.register_forward_pre_hook(lambda _, inputs: captured.append(inputs))
        first = next_frame_errors(world, windows, seeded())
        windows.frames[:, -1] = 255 - windows.frames[:, -1]
        assert (next_frame_errors(world, windows, seeded()) != first).all()
        (noisy, one, _), (other_noisy, other, _) = captured
        assert one.tau.tolist() == [[1.0] * (LENGTH - world.num_history - 1) + [0.0]] * 3
        assert torch.equal(noisy, other_noisy)  # it cannot peek
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one.chance is None
        assert torch.equal(
            one.actions, torch.from_numpy(windows.actions[:, world.num_history - 1 :])
        )
        windows.valid[1:, -1] = False
        errors = next_frame_errors(world, windows, seeded())
        assert errors[0] > 0
        assert not errors[1:].any()

    def test_a_vae_world_trains_its_denoiser_only(self, recording: Recording) -> None:
        world = make_tiny_world(codec=make_tiny_vae_codec(), patch_size=4)
        losses = losses_of(world, read_windows(recording), moving_weight=10.0)
        losses.mean(losses.frame + losses.head).backward()
        assert all(p.grad is None for p in world.codec.parameters())
        assert world.dit.unembed.weight.grad.any()


def test_moving_places_are_where_objects_are_were_and_might_be() -> None:
    background = torch.full((16, 16, 3), 100, dtype=torch.uint8)
    frames = background.repeat(1, 4, 1, 1, 1)
    frames[0, 1, 2, 3] = 200
    frames[0, 3, 8, 9, 1] += 13  # one channel, just beyond shading
    frames[0, 3, 7, 7] -= 12
    moving = moving_pixels(frames, background)
    mask = moving_places(moving, (16, 16), 0.6)
    assert mask.shape == (1, 4, 1, 16, 16)
    assert (mask > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 2, 3], [2, 2, 3], [3, 8, 9]]
    assert mask[0, [1, 2, 3], 0, [2, 2, 8], [3, 3, 9]].tolist() == pytest.approx([1, 1, 1])
    near = torch.zeros(16, 16)
    near[:8, :9] = 0.4  # 5 pixels around row 2, column 3
    near[2, 3] = 1.0
    torch.testing.assert_close(mask[0, 2, 0], near)
    assert not mask[0, 0].any()
    halved = moving_places(moving, (8, 8), 0.6)
    assert (halved > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 1, 1], [2, 1, 1], [3, 4, 4]]


@pytest.mark.parametrize("cell", [(1, 1), (2, 2), (8, 4)])
def test_a_cell_has_the_largest_weight_of_its_pixels(cell: tuple[int, int]) -> None:
    moving = torch.rand(2, 5, 32, 24, generator=torch.Generator().manual_seed(0)) < 0.004
    assert moving.any()
    of_pixels = moving_places(moving, (32, 24), 0.6)[:, :, 0]
    size = 32 // cell[0], 24 // cell[1]
    expected = torch.nn.functional.max_pool2d(of_pixels, cell)
    assert torch.equal(moving_places(moving, size, 0.6)[:, :, 0], expected)
    assert expected.unique().tolist() == pytest.approx([0, 0.4, 1])


def test_what_appears_out_of_nowhere_counts_in_full_and_what_moves_near_by_as_the_focus_says() -> (
    None
):
    background = torch.zeros(24, 24, 3, dtype=torch.uint8)
    frames = background.repeat(1, 3, 1, 1, 1)
    frames[0, 0, 4, 4] = 255
    frames[0, 1, 4, 6] = 255  # moved by two
    frames[0, 1, 20, 20] = 255  # out of nowhere
    frames[0, 2, 4, 8] = 255
    frames[0, 2, 20, 20] = 255
    for focus in (0.0, 0.15, 0.6):
        mask = moving_places(moving_pixels(frames, background), (24, 24), focus)
        assert mask[0, 1, 0, 20, 20] == pytest.approx(1)
        assert mask[0, 2, 0, 20, 20] == pytest.approx(1)
        assert mask[0, 1, 0, 4, 7] == pytest.approx(1 - focus)  # where it might have gone
        assert mask[0, 1, 0, 12, 12] == 0
