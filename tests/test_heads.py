from __future__ import annotations

import pytest
import torch

from worldsim.model.heads import (
    LIMIT,
    LOGIT_BOUND,
    NUM_BINS,
    HeadOutput,
    RewardTerminationHead,
    symexp,
    symlog,
    two_hot,
)

pytestmark = pytest.mark.numeric

BINS = torch.linspace(-LIMIT, LIMIT, NUM_BINS)


def test_symexp_undoes_symlog() -> None:
    x = torch.tensor([-2_500.0, -1.0, -1e-4, 0.0, 1e-4, 0.5, 21.0, 2_500.0])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-4, atol=1e-7)
    assert symlog(torch.tensor(1e-3)).item() == pytest.approx(1e-3, rel=1e-3)
    assert symlog(-x).equal(-symlog(x))


def test_two_hot_shares_a_value_between_its_two_neighbours() -> None:
    values = torch.linspace(-7.9, 7.9, 1_001)
    weights = two_hot(values, BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1_001), atol=1e-4, rtol=0)
    assert ((weights > 1e-5).sum(-1) <= 2).all()
    torch.testing.assert_close(weights @ BINS, values, atol=1e-4, rtol=0)
    quarter = two_hot(BINS[10] + 0.25 * (BINS[11] - BINS[10]), BINS)
    assert quarter[10].item() == pytest.approx(0.75, abs=1e-4)
    assert quarter[11].item() == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("reward", [0.0, 0.01, -0.3, 1.0, -1.0, 10.0, 100.0, -700.0, 2_500.0])
def test_a_reward_learned_perfectly_is_given_back(reward: float) -> None:
    head = RewardTerminationHead(8)
    target = two_hot(symlog(torch.tensor([[reward]])), head.bins)
    output = HeadOutput(target.clamp_min(1e-12).log(), torch.zeros(1, 1))
    # the mean over two bins lies above the value between them, by half a percent at most
    assert head.rewards(output).item() == pytest.approx(reward, abs=0.0055 * (1 + abs(reward)))


@pytest.mark.parametrize("reward", [1e4, -1e9])
def test_rewards_beyond_the_bins_are_clipped_to_the_last(reward: float) -> None:
    head = RewardTerminationHead(8)
    target = two_hot(symlog(torch.tensor(reward)), head.bins)
    assert target.argmax() == (NUM_BINS - 1 if reward > 0 else 0)
    assert target.sum().item() == pytest.approx(1)


def test_the_loss_of_each_frame_is_its_own() -> None:
    torch.manual_seed(0)
    head = RewardTerminationHead(8)
    output = head(torch.randn(2, 3, 8))
    rewards, terminations = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    before = head.loss(output, rewards, terminations)
    assert before.shape == (2, 3)
    rewards[0, 1], terminations[1, 2] = 5.0, True
    changed = head.loss(output, rewards, terminations) != before
    assert changed.nonzero().tolist() == [[0, 1], [1, 2]]


def test_the_loss_is_the_cross_entropy_of_both() -> None:
    head = RewardTerminationHead(8)
    output = HeadOutput(torch.zeros(1, 1, NUM_BINS), torch.tensor([[2.0]]))
    loss = head.loss(output, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    expected = torch.log(torch.tensor(float(NUM_BINS))) + torch.log1p(torch.tensor(-2.0).exp())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_learns_sparse_large_and_small_rewards_and_ends_together() -> None:
    torch.manual_seed(0)
    head = RewardTerminationHead(16)
    features = torch.randn(1, 8, 16)
    rewards = torch.tensor([[0.0, 0.0, 1.0, -1.0, 500.0, 0.0, 0.25, 0.0]])
    terminations = torch.tensor([[0, 0, 0, 1, 0, 1, 0, 0]], dtype=torch.bool)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(250):
        optimizer.zero_grad()
        head.loss(head(features), rewards, terminations).mean().backward()
        optimizer.step()
    output = head(features)
    torch.testing.assert_close(head.rewards(output), rewards, rtol=0.05, atol=0.05)
    assert torch.equal(head.termination_probs(output) > 0.5, terminations)


def test_large_logits_shrink_although_they_tell_the_same() -> None:
    torch.manual_seed(0)
    head = RewardTerminationHead(32)
    with torch.no_grad():
        head.reward.bias += 60  # of all bins, which changes no probability
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-2)
    for _ in range(1_000):
        output = head(torch.randn(4, 12, 32))
        rewards = torch.randint(0, 2, (4, 12)).float()  # by lot
        optimizer.zero_grad()
        head.loss(output, rewards, torch.zeros(4, 12)).mean().backward()
        optimizer.step()
    assert output.reward_logits.abs().max() < 1.5 * LOGIT_BOUND


def test_bins_are_not_kept_with_the_weights() -> None:
    assert "bins" not in RewardTerminationHead(8).state_dict()
