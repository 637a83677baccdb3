from __future__ import annotations

import pytest
import torch

from worldsim.model.flow import add_noise, frame_errors, ramp_weight, sample_tau

pytestmark = pytest.mark.numeric


def test_noise_and_clean_are_the_ends_of_a_straight_line() -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 1, 3, 2, 4, 5)
    noisy = add_noise(latents, noise, torch.tensor([[0.0, 0.25, 1.0]]))
    assert torch.equal(noisy[:, 0], noise[:, 0])
    torch.testing.assert_close(noisy[:, 1], 0.25 * latents[:, 1] + 0.75 * noise[:, 1])
    assert torch.equal(noisy[:, 2], latents[:, 2])


def test_each_frame_draws_its_own_level() -> None:
    tau = sample_tau(200, 50, 0.0, 0.0, torch.Generator().manual_seed(0))
    assert tau.shape == (200, 50)
    assert tau.min() >= 0
    assert tau.max() <= 1
    # squares of uniform numbers: noisy levels come more often
    assert torch.histc(tau.sqrt(), 10, 0, 1).div(1_000).sub(1).abs().max() < 0.15
    assert torch.corrcoef(tau.T).fill_diagonal_(0).abs().max() < 0.35  # 50 frames, 200 draws


@pytest.mark.parametrize(("clean", "noise"), [(0.0, 0.0), (0.25, 0.3), (0.4, 0.6), (1.0, 0.0)])
def test_the_given_fractions_of_frames_are_exactly_clean_and_pure_noise(
    clean: float, noise: float
) -> None:
    tau = sample_tau(100, 100, clean, noise, torch.Generator().manual_seed(0))
    assert (tau == 1).float().mean() == pytest.approx(clean, abs=0.02)
    assert (tau == 0).float().mean() == pytest.approx(noise, abs=0.02)


def test_levels_follow_from_the_generator() -> None:
    draws = [sample_tau(4, 5, 0.3, 0.2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_ramp_rises_to_one() -> None:
    weights = ramp_weight(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.75, 1.0]))


def test_errors_are_those_of_each_frame() -> None:
    latents = torch.randn(2, 3, 1, 4, 4)
    assert not frame_errors(latents, latents).any()
    predicted = latents.clone()
    predicted[1, 2] += 3
    errors = frame_errors(predicted, latents)
    assert errors.nonzero().tolist() == [[1, 2]]
    assert errors[1, 2].item() == pytest.approx(9, rel=1e-5)


def test_weights_count_their_places() -> None:
    latents = torch.zeros(1, 1, 2, 2, 2)
    predicted = torch.zeros(1, 1, 2, 2, 2)
    predicted[..., 0, 0] = 1
    weights = torch.tensor([[2.0, 1.0], [1.0, 0.0]])[None, None, None]
    assert frame_errors(predicted, latents).item() == 0.25
    assert frame_errors(predicted, latents, weights).item() == 0.5
