"""From a size and a recording to a fresh world."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from worldsim.data.recording import Recording
from worldsim.data.rewards import RecordedRewards
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.model.codec import PixelCodec
from worldsim.model.dit import DiTConfig, VideoDiT
from worldsim.model.heads import RewardTerminationHead
from worldsim.system.devices import check_memory, pick_device
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

from .config import TrainConfig

SIZES = {
    "tiny": {"width": 128, "depth": 4, "num_heads": 4, "num_kv_heads": 2},
    "small": {"width": 256, "depth": 9, "num_heads": 8, "num_kv_heads": 4},
    "base": {"width": 512, "depth": 12, "num_heads": 8, "num_kv_heads": 4},
}

ACTIVATION_BYTES = 50  # per token, layer and channel: a lower bound; measured are 100 to 130


def build_world(config: TrainConfig, recording: Recording, split: Split) -> WorldModel:
    """Build a world for a recording, with start windows from its held-out episodes.

    The weights are drawn from torch's global generator.

    Raises:
        ValueError: If the device cannot be used, or a step does not fit into its memory.
    """
    device = pick_device(config.device)
    check_step_fits(config, recording.game.frame_size, device)
    game = recording.game
    codec = PixelCodec(game.channels)
    dit = VideoDiT(
        DiTConfig(
            num_actions=game.num_actions,
            latent_channels=codec.latent_channels,
            patch_size=config.model.patch_size,
            window=config.model.window,
            time_every=config.model.time_every,
            chance_bits=config.model.chance_bits,
            **SIZES[config.size],
        )
    )
    world = WorldModel(
        dit=dit,
        head=RewardTerminationHead(dit.config.width),
        codec=codec,
        game=game,
        starts=pick_starts(recording, split.held_out, config.model.window, config.seed),
        background=recording.median_frame(episodes=split.trained_on),
        recorded_rewards=RecordedRewards.of(map(recording.rewards, range(len(recording)))),
        num_passes=config.model.passes,
        split=split,
    )
    return world.to(device)


def begin_from(world: WorldModel, name: str) -> None:
    """Take the weights of another world where names and shapes are equal.

    Raises:
        ValueError: If there is no such world, or none of its blocks' weights fits.
    """
    own, theirs = world.state_dict(), load(name, world.device, "float32").state_dict()
    fitting = {key: t for key, t in theirs.items() if key in own and t.shape == own[key].shape}
    if not any(key.startswith("dit.blocks.") for key in fitting):
        raise ValueError(f"the weights of {name} have other shapes: take its --size and --model.*")
    world.load_state_dict(own | fitting)


def check_step_fits(config: TrainConfig, frame_size: tuple[int, int], device: torch.device) -> None:
    """Check that the activations of a batch can fit into memory.

    Raises:
        ValueError: If they cannot.
    """
    size = SIZES[config.size]
    tokens = math.prod(-(-side // config.model.patch_size) for side in frame_size)
    frames = config.optim.batch_size * config.model.window
    check_memory(
        frames * tokens * size["depth"] * size["width"] * ACTIVATION_BYTES,
        f"a step of {config.optim.batch_size:,} windows of {config.model.window:,} frames",
        "take a smaller --optim.batch-size or --model.window",
        device,
    )


def pick_starts(
    recording: Recording, episodes: Sequence[int], length: int, seed: int, num_starts: int = 32
) -> Windows:
    """Draw windows that end before their episode does, so that play can continue."""
    rng = np.random.default_rng((seed, 0))
    chosen = rng.choice(episodes, num_starts)
    room = recording.episode_lengths[chosen] - length
    starts = [int(rng.integers(min(r, 0), max(r, 0) + 1)) for r in room]
    return recording.windows([int(i) for i in chosen], starts, length)
