"""Chance codes: written where the mean fails, drawn from the prior, and one drawn future each."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_worlds import (
    WINDOW,
    losses_by,
    make_tiny_dit,
    make_tiny_episode,
    make_tiny_game,
    make_tiny_world,
)
from worldsim.data.writer import RecordingWriter
from worldsim.model.chance import ChanceCodes
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.rollout import Rollout
from worldsim.rollout_state import fingerprint
from worldsim.train.config import TrainConfig
from worldsim.train.draws import NEEDLESS_CODES, CodeDraws, Draws
from worldsim.train.dynamics import train
from worldsim.train.objective import Batch, write_codes
from worldsim.train.recipe import Recipe
from worldsim.world_folder import load

pytestmark = pytest.mark.numeric
BITS, WIDTH = 3, 32


@pytest.fixture(params=[8, (4, 8)])
def chance(request: pytest.FixtureRequest) -> ChanceCodes:
    chance = make_tiny_dit(chance_bits=BITS, patch_size=request.param).chance
    assert chance is not None
    return chance.eval()


def test_each_number_is_one_code_and_0_is_none(chance: ChanceCodes) -> None:
    numbers = torch.arange(1 + 2**BITS)
    codes = chance.code(numbers)
    assert torch.equal(chance.number(codes), numbers)
    assert not codes[0].any()
    assert (codes[1:].abs() == 1).all()
    assert len(codes.unique(dim=0)) == 1 + 2**BITS


def test_codes_are_drawn_as_often_as_their_probability_says(chance: ChanceCodes) -> None:
    shares = torch.tensor([0.0, 0.2, 0.3, 0.004, 0.1, 0.2, 0.19, 0.003, 0.003])
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    drawn = chance.number(chance.draw(shares.log().expand(10_000, -1), uniform))
    likely = shares * (shares > 0.05 * 0.3)  # the others are errors of the prior
    drawn_shares = drawn.bincount(minlength=1 + 2**BITS) / 10_000
    assert torch.allclose(drawn_shares, likely / likely.sum(), atol=2e-4)
    ends = chance.draw(shares.log().expand(2, -1), torch.tensor([0.0, 1.0]))
    assert chance.number(ends).tolist() == [1, 6]


def expected_frames(latents: torch.Tensor) -> DiTOutput:
    return DiTOutput(torch.zeros_like(latents), torch.zeros(*latents.shape[:2], WIDTH))


def expect_surprises(chance: ChanceCodes, logit: float) -> None:
    """Let the past say, whatever it is, how likely a surprise is."""
    with torch.no_grad():
        chance.center[-1].weight[-1] = 0.0
        chance.center[-1].bias[-1] = logit


def test_a_frame_gets_a_code_where_the_mean_fails_visibly(chance: ChanceCodes) -> None:
    expect_surprises(chance, -9.0)
    latents = torch.zeros(1, 4, 3, 20, 24)  # sides that are not multiples of a patch
    latents[0, 1] += 0.05  # about 6 of 255: nobody sees it
    latents[0, 2:, :, 17:, 20:] = 1.0  # a small object
    recorded = torch.tensor([[True, True, True, False]])
    bits = chance.encode(latents, expected_frames(latents), recorded).bits
    assert bits.any(-1).tolist() == [[False, False, True, False]]


def test_where_a_surprise_is_likely_a_frame_near_the_mean_gets_a_code_too(
    chance: ChanceCodes,
) -> None:
    expect_surprises(chance, 1.0)  # 73 %
    latents = torch.full((1, 2, 3, 16, 16), 0.05)
    recorded = torch.tensor([[True, False]])
    bits = chance.encode(latents, expected_frames(latents), recorded).bits
    assert bits.any(-1).tolist() == [[True, False]]


def test_the_past_learns_to_say_whether_a_surprise_is_possible(chance: ChanceCodes) -> None:
    """After one past three of four frames are far from the mean, after the other none is."""
    pasts = torch.randn(2, WIDTH)
    optimizer = torch.optim.Adam(chance.center.parameters(), 1e-2)
    number = torch.arange(32)
    surprising = (number % 2 == 0) & (number % 8 > 0)
    latents = surprising.float()[None, :, None, None, None].repeat(1, 1, 3, 16, 16)
    expected = DiTOutput(torch.zeros_like(latents), pasts[number % 2][None])
    for _ in range(100):
        codes = chance.encode(latents, expected, torch.ones(1, 32).bool())
        codes.errors.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert codes.bits.any(-1)[0].tolist() == [True, False] * 16
    assert codes.certain[0].tolist() == [False, True] * 16


def test_the_encoder_learns_through_the_rounding(chance: ChanceCodes) -> None:
    latents = torch.randn(2, 4, 3, 16, 16)
    codes = chance.train().encode(latents, expected_frames(latents), torch.ones(2, 4).bool())
    assert (codes.bits.abs() == 1).all()
    codes.bits.sum().backward()
    assert chance.look.weight.grad is not None
    assert chance.look.weight.grad.any()


def test_a_bit_does_not_repeat_what_the_past_says(chance: ChanceCodes) -> None:
    """Two pasts, each with frames of its own: bits are as often 1 after the one as the other."""
    torch.manual_seed(0)
    chance.train()
    pasts = torch.randn(2, WIDTH)
    middles = 3 * torch.randn(2, 3, 16, 16)
    optimizer = torch.optim.Adam(chance.center.parameters(), 1e-2)
    shares = torch.zeros(2, BITS)
    for step in range(200):
        which = torch.arange(32) % 2
        latents = (middles[which] + torch.randn(32, 3, 16, 16))[None]
        expected = DiTOutput(torch.zeros_like(latents), pasts[which][None])
        codes = chance.encode(latents, expected, torch.ones(1, 32).bool())
        codes.errors.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= 100:
            shares += (codes.bits[0] > 0).float().reshape(16, 2, BITS).mean(0) / 100
    assert (shares - 0.5).abs().max() < 0.1


def test_no_bit_repeats_another(chance: ChanceCodes) -> None:
    """An encoder whose bits were nearly equal gets bits that are not."""
    torch.manual_seed(0)
    last = chance.bits[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[:1] + 0.1 * last.weight)
        chance.center[-1].weight.zero_()
    chance.train()
    for _ in range(20):
        latents = torch.randn(1, 64, 3, 16, 16)
        codes = chance.encode(latents, expected_frames(latents), torch.ones(1, 64).bool())
    together = codes.bits[0].T @ codes.bits[0] / 64
    assert (together - torch.eye(BITS)).abs().max() < 0.5


def test_a_code_changes_the_frame_and_none_is_the_unknown_one() -> None:
    world = make_tiny_world(chance_bits=BITS)
    latents = world.encode(torch.from_numpy(world.starts.frames))
    k, t = world.num_history, WINDOW - world.num_history
    actions = torch.from_numpy(world.starts.actions[:, k - 1 :])
    conditions = Conditions(torch.zeros(3, t), actions, world.history(latents))
    noise = torch.randn(3, t, *latents.shape[2:], generator=torch.Generator().manual_seed(0))

    def predict(code: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return world.predict(noise, conditions._replace(chance=code)).latents

    unknown, one = predict(None), predict(torch.ones(3, t, BITS))
    assert torch.equal(unknown, predict(torch.zeros(3, t, BITS)))
    assert not torch.allclose(unknown, one, atol=1e-3)


def test_where_the_frame_is_certain_a_code_has_to_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some frames without a code are trained with one at random; frames with a code keep it."""
    world = make_tiny_world(chance_bits=BITS)
    latents = world.encode(torch.from_numpy(world.starts.frames)).repeat(40, 1, 1, 1, 1)
    b, k, t = len(latents), world.num_history, WINDOW - world.num_history
    none = torch.zeros(b, t)
    moving = torch.zeros(b, k + t, *world.starts.frames.shape[2:4], dtype=torch.bool)
    batch = Batch(latents, moving, none.long(), none, none.bool(), none + 1)
    given: list[torch.Tensor] = []
    world.dit.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1].chance))
    shares = []
    monkeypatch.setattr("worldsim.model.chance.SURPRISE", 1e9)
    for surprise in (10.0, -10.0):
        assert world.dit.chance is not None
        expect_surprises(world.dit.chance, surprise)
        losses_by(world, batch, Recipe())
        shares.append((given[-1] != 0).any(-1).float().mean().item())
    assert shares == pytest.approx([1 - Recipe().unknown_codes, NEEDLESS_CODES], abs=0.08)


def test_codes_tell_what_differs_from_the_averaged_worlds_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worldsim.model.chance.SURPRISE", 1e-6)
    world, average = make_tiny_world(chance_bits=BITS), make_tiny_world(chance_bits=BITS)
    with torch.no_grad():
        for parameter in average.dit.detail.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    k = world.num_history
    latents = world.encode(torch.from_numpy(world.starts.frames))[:, : k + 1]
    none = torch.zeros(len(latents), 1)
    noise = torch.randn(latents[:, k:].shape, generator=torch.Generator().manual_seed(0))
    conditions = Conditions(none, none.long(), world.history(latents))
    with torch.no_grad():
        latents[:, k:] = average.predict(noise, conditions).latents
    moving = torch.zeros(*latents.shape[:2], *world.starts.frames.shape[2:4], dtype=torch.bool)
    batch = Batch(latents, moving, none.long(), none, none.bool(), none + 1)
    flags = none > 0
    draws = Draws(none, noise, codes=CodeDraws(noise, flags, flags, torch.zeros(*none.shape, BITS)))
    found = []
    for mean in (average, world):
        assert world.dit.chance is not None
        expect_surprises(world.dit.chance, -10.0)
        (codes,) = write_codes(world, [batch], [draws], mean)
        assert codes is not None
        found.append((codes.bits != 0).any(-1).all().item())
    assert found == [False, True]


def test_where_surprises_are_rare_few_batches_pay_for_codes(chance: ChanceCodes) -> None:
    chance.train()
    certain, surprising = torch.zeros(1, 8, 3, 16, 16), torch.ones(1, 8, 3, 16, 16)
    needed = [chance.needed()]
    for latents in (certain, surprising):
        for _ in range(100):
            chance.encode(latents, expected_frames(latents), torch.ones(1, 8).bool())
        needed.append(chance.needed())
    assert needed == pytest.approx([1.0, 0.1, 1.0], abs=0.01)


def test_each_lane_draws_codes_of_its_own_seed_and_a_state_keeps_what_they_follow_from() -> None:
    world = make_tiny_world(chance_bits=BITS)

    def play(rollout: Rollout, steps: int) -> np.ndarray:
        return np.stack([rollout.step(np.zeros(3, np.int64)).frames for _ in range(steps)])

    rollout = Rollout(world, 3)
    rollout.begin([0, 0, 0], [7, 7, 8])
    first = play(rollout, 4)
    assert np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(first[:, 0], first[:, 2])
    state = rollout.clone_state()
    later = play(rollout, 4)
    rollout.restore_state(state)
    assert np.array_equal(play(rollout, 4), later)
    other = Rollout(world, 3)
    other.restore_state(state)
    assert np.array_equal(play(other, 4), later)


def test_uncertainty_compares_two_codes_and_changes_no_frame() -> None:
    world = make_tiny_world(chance_bits=BITS)
    plain, measured = Rollout(world), Rollout(world, with_uncertainty=True)
    for rollout in (plain, measured):
        rollout.begin([0], [0])
    for _ in range(3):
        step = measured.step(np.array([1]))
        assert np.array_equal(plain.step(np.array([1])).frames, step.frames)
        assert step.uncertainties is not None
        assert step.uncertainties[0] > 0


def test_a_world_with_codes_is_saved_and_one_without_still_opens(tmp_path: Path) -> None:
    for bits in (0, BITS):
        world = make_tiny_world(chance_bits=bits)
        world.save(tmp_path / str(bits))
        again = load(tmp_path / str(bits), "cpu")
        assert again.dit.config == world.dit.config
        assert fingerprint(again) == fingerprint(world)
    config = json.loads((tmp_path / "0" / "config.json").read_text())
    (tmp_path / "0" / "config.json").write_text(json.dumps(config | {"format": 3}))
    assert load(tmp_path / "0", "cpu").dit.chance is None


@pytest.mark.slow
def test_a_world_draws_each_of_two_futures_and_not_their_mean(tmp_path: Path) -> None:
    """A square jumps up or down by lot, whatever the action; one pass draws it whole."""
    game = make_tiny_game()
    rng = np.random.default_rng(0)
    with RecordingWriter(tmp_path / "lots", game, {}) as writer:
        for seed in range(24):
            episode = make_tiny_episode(game, 40, seed)
            episode.frames[:] = 20
            for frame in episode.frames:
                top = 2 + 8 * int(rng.integers(2))
                frame[top : top + 4, 6:10] = 220
            writer.write_episode(dataclasses.replace(episode, seed=seed))
    config = TrainConfig((tmp_path / "lots",), tmp_path / "run", steps=600, device="cpu")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, window=WINDOW, chance_bits=2, passes=1),
        run=dataclasses.replace(config.run, num_evals=0),
        logging=dataclasses.replace(config.logging, wandb="disabled"),
    )
    world = load(train(config).checkpoint, "cpu")
    rollout = Rollout(world, 32)
    rollout.begin(range(32), range(32))
    seen = []
    for _ in range(8):
        frames = rollout.step(np.zeros(32, np.int64)).frames[..., 0].astype(int)
        seen.append(np.stack([frames[:, 2:6, 6:10], frames[:, 10:14, 6:10]]).mean((2, 3)))
    brightness = np.array(seen)  # step, place, lane
    high, low = brightness.max(1), brightness.min(1)
    assert ((high > 170) & (low < 70)).mean() > 0.95  # one square; of a mean, both are 120
    up = (brightness[:, 0] > brightness[:, 1]).mean()
    assert 0.35 < up < 0.65
