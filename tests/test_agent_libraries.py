"""Other agent libraries step a learned world as it is: a plain PPO loop, and TorchRL."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import GrayscaleObservation, RecordEpisodeStatistics
from torch import nn
from torch.distributions import Categorical

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.world_model import WorldModel


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world(termination_bias=-2.0)


class Agent(nn.Module):
    """Actor and critic on grey frames."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, num_actions), nn.Linear(32, 1)

    def forward(self, frames: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        features = self.body(frames / 255)
        return Categorical(logits=self.actor(features)), self.critic(features)[:, 0]


@pytest.mark.slow
def test_a_plain_ppo_loop_learns_to_like_what_pays(world: WorldModel) -> None:
    """In the manner of CleanRL: one file, Gymnasium's own wrappers, resets in the next step."""
    torch.manual_seed(0)
    envs = gymnasium.make_vec(
        "worldsim/WorldModel-v0", world=world, num_envs=16, max_episode_steps=20
    )
    envs = GrayscaleObservation(RecordEpisodeStatistics(envs))
    agent = Agent(envs.single_action_space.n)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    num_steps, gamma, lam = 32, 0.9, 0.9
    obs = torch.from_numpy(envs.reset(seed=0)[0]).float()
    done = torch.zeros(16)
    paid = []
    for _ in range(10):
        rows = []
        for _ in range(num_steps):
            with torch.no_grad():
                policy, value = agent(obs)
                action = policy.sample()
            following, reward, terminated, truncated, infos = envs.step(action.numpy())
            # symlog, for a random world pays without measure
            pay = torch.from_numpy(np.sign(reward) * np.log1p(np.abs(reward))).float()
            rows.append((obs, action, policy.log_prob(action), value, pay, done))
            obs = torch.from_numpy(following).float()
            done = torch.from_numpy(terminated | truncated).float()
        seen, actions, log_probs, values, rewards, dones = (
            torch.stack(part) for part in zip(*rows, strict=True)
        )
        paid.append(rewards[dones == 0].mean().item())
        with torch.no_grad():
            next_value = agent(obs)[1]
        advantage, last = torch.zeros_like(rewards), torch.zeros(16)
        for t in reversed(range(num_steps)):
            ends = done if t == num_steps - 1 else dones[t + 1]
            after = next_value if t == num_steps - 1 else values[t + 1]
            delta = rewards[t] + gamma * after * (1 - ends) - values[t]
            advantage[t] = last = delta + gamma * lam * (1 - ends) * last
        keep = (dones == 0).flatten()  # where a lane was reset, its action was not played
        batch = [x.flatten(0, 1)[keep] for x in (seen, actions, log_probs, advantage, values)]
        for _ in range(4):
            policy, value = agent(batch[0])
            ratio = (policy.log_prob(batch[1]) - batch[2]).exp()
            scaled = (batch[3] - batch[3].mean()) / (batch[3].std() + 1e-8)
            gain = torch.minimum(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled)
            error = (value - batch[3] - batch[4]).square()
            loss = -gain.mean() + 0.5 * error.mean() - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert infos["termination_prob"].shape == (16,)
    assert np.mean(paid[-2:]) > np.mean(paid[:2]) + 0.3


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_torchrl_rolls_out_and_resets(world: WorldModel, mode: str) -> None:
    from torchrl.envs import GymWrapper

    envs = gymnasium.make_vec(
        "worldsim/WorldModel-v0", world=world, num_envs=3, max_episode_steps=6, autoreset_mode=mode
    )
    wrapped = GymWrapper(envs, device="cpu")
    wrapped.set_seed(0)
    data = wrapped.rollout(20, break_when_any_done=False)
    assert data.batch_size == (3, 20)
    assert data["observation"].dtype == torch.uint8
    assert data["next", "truncated"].any()
    assert data["next", "terminated"].any()
