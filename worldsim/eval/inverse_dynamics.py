"""Inverse dynamics: a small network that recognises actions in frames, trained on the real game.

An action that it recognises in imagined frames has had its effect there. Inverse dynamics models
are from Pathak et al. (2017); Bruce et al. (2024, "Genie") judge world models with them. Its
features also encode where objects are, so they can be used for a Frechet distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import nn

from worldsim.data.recording import Recording
from worldsim.frames import pixels_to_latents

Frames = NDArray[np.uint8]

FRAMES = 3  # the frame before the action, the frame in which it is taken, and the next one
FEATURES = 64
MAP = 16  # side of the small frame that the features must reconstruct
_WINDOWS, _LENGTH = 16, 10  # of a batch: 8 triples per window


class InverseDynamics(nn.Module):
    """Convolutions from three frames to features, and linear heads for action and small frame.

    Args:
        num_actions: Number of actions.
        channels: Channels of a frame.
        frame_size: Height and width of a frame.
    """

    def __init__(self, num_actions: int, channels: int, frame_size: tuple[int, int]) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(FRAMES * channels, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            width = self.look(torch.zeros(1, FRAMES * channels, *frame_size)).shape[1]
        self.features = nn.Linear(width, FEATURES)
        self.action = nn.Linear(FEATURES, num_actions)
        self.picture = nn.Linear(FEATURES, channels * MAP * MAP)

    def forward(self, triples: torch.Tensor) -> torch.Tensor:
        """Features (n 64) of triples (n 3*c h w) in [-1, 1]."""
        features: torch.Tensor = self.features(self.look(triples))
        return features


def train_inverse_dynamics(
    recording: Recording,
    episodes: Sequence[int],
    *,
    steps: int = 600,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[], None] | None = None,
) -> InverseDynamics:
    """Train on recorded frames; rare actions count as much as common ones.

    Args:
        recording: The game's recording.
        episodes: Episodes to train on.
        steps: Optimizer steps, each of 128 triples.
        seed: Seed of weights and batches.
        device: Device to train on.
        on_step: Called after each step, for a progress bar.
    """
    game = recording.game
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InverseDynamics(game.num_actions, game.channels, game.frame_size).to(device)
    median = torch.from_numpy(recording.median_frame(episodes=episodes)).to(device)
    background = pixels_to_latents(median)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        windows = recording.sample_windows(rng, _WINDOWS, _LENGTH, episodes)
        inputs = triples(torch.from_numpy(windows.frames).to(device))
        known = torch.from_numpy(windows.valid[:, FRAMES - 1 :]).flatten().to(device)
        taken = torch.from_numpy(windows.actions[:, 1:]).flatten().to(device)
        counts = torch.bincount(taken[known], minlength=game.num_actions).clamp(min=1)
        features = model(inputs[known])
        # The reconstruction loss makes the features encode objects, not only the action.
        middle = inputs[known, game.channels : 2 * game.channels] - background
        picture = F.adaptive_avg_pool2d(middle, MAP).flatten(1)
        loss = F.cross_entropy(
            model.action(features), taken[known], weight=counts.sum() / counts / len(counts)
        ) + 10 * F.mse_loss(model.picture(features), picture)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step()
    return model.eval().requires_grad_(False)


def triples(frames: torch.Tensor) -> torch.Tensor:
    """All three successive frames of videos (b t h w c), as (b*(t-2) 3*c h w) in [-1, 1]."""
    latents = pixels_to_latents(frames)
    length = latents.shape[1] - FRAMES + 1
    stacked = torch.cat([latents[:, i : i + length] for i in range(FRAMES)], dim=2)
    return rearrange(stacked, "b t c h w -> (b t) c h w")


@torch.no_grad()
def recognise(model: InverseDynamics, frames: Frames) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Predict the actions of videos.

    Args:
        model: A trained model.
        frames: ``uint8`` (b t h w c), t of at least 3.

    Returns:
        The action that led into each frame from the third on, (b t-2), and the features
        (b t-2 64).
    """
    device = next(model.parameters()).device
    features = torch.stack([model(triples(torch.from_numpy(v)[None].to(device))) for v in frames])
    return model.action(features).argmax(-1).cpu().numpy(), features


def accuracy_by_action(
    guessed: NDArray[np.int64], taken: NDArray[np.integer], num_actions: int
) -> NDArray[np.float64]:
    """Share of each action's steps in which it was recognised; nan if it was never taken."""
    with np.errstate(invalid="ignore"):
        hits = np.bincount(taken[guessed == taken], minlength=num_actions)
        return hits / np.bincount(taken.ravel(), minlength=num_actions)
