from __future__ import annotations

import pytest
import torch

from worldsim.model.flow import add_noise
from worldsim.model.sampling import euler, pass_levels

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("num_passes", [1, 2, 3, 4, 16])
def test_levels_rise_from_noise_in_ever_larger_steps_and_stop_before_clean(
    num_passes: int,
) -> None:
    levels = pass_levels(num_passes)
    assert len(levels) == num_passes
    assert levels[0] == 0
    steps = torch.tensor([*levels, 1.0]).diff()
    assert (steps > 0).all()
    assert (steps.diff() > 0).all()


@pytest.mark.parametrize("num_passes", [0, -3])
def test_less_than_one_pass_is_refused_with_the_number(num_passes: int) -> None:
    with pytest.raises(ValueError, match=f"num_passes must be a whole .*, got {num_passes}$"):
        pass_levels(num_passes)


@pytest.mark.parametrize("num_passes", [1, 2, 4, 7])
def test_a_perfect_predictor_gives_the_clean_latent_in_any_number_of_passes(
    num_passes: int,
) -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 1, 4, 4)
    looked_at: list[float] = []

    def denoise(latent: torch.Tensor, level: float) -> torch.Tensor:
        looked_at.append(level)
        # what is looked at is as noisy as in training at that level
        tau = torch.full((3, 1), level)
        expected = add_noise(clean[:, None], noise[:, None], tau)[:, 0]
        torch.testing.assert_close(latent, expected)
        return clean

    assert torch.equal(euler(denoise, noise, pass_levels(num_passes)), clean)
    assert looked_at == pass_levels(num_passes)


def test_the_last_prediction_is_the_answer() -> None:
    answers = iter([torch.tensor([3.0]), torch.tensor([5.0])])
    assert euler(lambda latent, level: next(answers), torch.zeros(1), [0.0, 0.5]) == 5


def test_more_passes_follow_a_curved_flow_more_closely() -> None:
    # Data are two values, -1 and 1, alike; the best guess of the clean value is known exactly.
    def denoise(latent: torch.Tensor, level: float) -> torch.Tensor:
        return torch.tanh(latent * level / (1 - level) ** 2)

    noise = torch.tensor([-1.5, -0.4, 0.3, 1.2])
    errors = [(euler(denoise, noise, pass_levels(n)).abs() - 1).abs().max() for n in (1, 2, 8)]
    assert errors[0] == 1  # one pass can but guess the mean
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_the_noise_is_left_as_it_was() -> None:
    noise = torch.ones(2)
    euler(lambda latent, level: latent * 0.5, noise, pass_levels(3))
    assert torch.equal(noise, torch.ones(2))
