"""A game, a recording and a world small enough for tests: a square pushed about by 3 actions."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLLTXVideo

from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.codec import Codec, PixelCodec
from worldsim.model.dit import VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.heads import RewardTerminationHead
from worldsim.model.text import TextEncoder
from worldsim.train.draws import draw
from worldsim.train.objective import Batch, Losses, encode, objective
from worldsim.train.recipe import Recipe
from worldsim.world_model import WorldModel

SIDE = 16
WINDOW = 4


def make_tiny_game(**changes: object) -> GameConfig:
    values = {
        "env_id": "tests/Square-v0",
        "frame_size": (SIDE, SIDE),
        "fps": 10.0,
        "action_meanings": ("NOOP", "LEFT", "RIGHT"),
        "key_bindings": {"left": 1, "right": 2},
    }
    return GameConfig(**{**values, **changes})  # type: ignore[arg-type]


def make_tiny_episode(game: GameConfig, steps: int, seed: int) -> Episode:
    """A bright 4x4 square on a dark ground, moved 2 pixels left or right, and around the edge."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(game.num_actions, size=steps)
    column = int(rng.integers(SIDE))
    frames = np.full((steps + 1, *game.frame_size, game.channels), 20, np.uint8)
    for step in range(steps + 1):
        frames[step, 6:10, (column + np.arange(4)) % SIDE] = 220
        if step < steps:
            column += {1: -2, 2: 2}.get(int(actions[step]), 0)
    ends = np.arange(steps) == steps - 1
    return Episode(
        frames=frames,
        actions=actions,
        rewards=ends.astype(np.float32),
        terminations=ends,
        truncations=np.zeros(steps, bool),
        seed=seed,
        policy="random",
    )


def write_tiny_recording(
    path: str | PathLike[str],
    *,
    steps: int = 40,
    episodes: int = 6,
    game: GameConfig | None = None,
    still: bool = False,
    settings: dict[str, str] | None = None,
) -> Recording:
    """Write a recording; if ``still``, nothing moves and the player never chooses."""
    game = game or make_tiny_game()
    with RecordingWriter(path, game, settings) as writer:
        for seed in range(episodes):
            episode = make_tiny_episode(game, steps, 0 if still else seed)
            if still:
                episode.frames[:] = episode.frames[0]
                episode.actions[:] = 0
            writer.write_episode(episode)
    return Recording(path)


def make_tiny_dit(**changes: Any) -> VideoDiT:
    """A random denoiser; a fresh one says nothing, so the last layer gets weights too."""
    settings: dict[str, Any] = {
        "num_actions": 3,
        "latent_channels": 3,
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "time_every": 2,
        "num_registers": 1,
        "window": WINDOW,
        "detail_width": 8,
    }
    torch.manual_seed(0)
    dit = VideoDiT(DiTConfig(**{**settings, **changes}))
    torch.nn.init.normal_(dit.detail.head[-1].weight, std=0.3)
    return dit


def make_tiny_vae_codec(channels: int = 3) -> AutoencoderCodec:
    """A real autoencoder with random weights, which halves each side."""
    torch.manual_seed(1)
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    return AutoencoderCodec(vae.eval())


def make_tiny_dc_codec() -> AutoencoderCodec:
    """A real deep compression autoencoder with random weights, which quarters each side."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in {
            "block_out_channels": (8, 8, 8),
            "layers_per_block": (0, 1, 1),
            "qkv_multiscales": ((), (), ()),
        }.items()
    }
    return AutoencoderCodec(AutoencoderDC(latent_channels=4, **sizes).eval())


def make_tiny_video_codec() -> AutoencoderCodec:
    """A real causal video autoencoder with random weights: latents of 2 frames, halved sides."""
    torch.manual_seed(1)
    levels: dict[str, Any] = {
        f"{half}{name}": value
        for half in ("", "decoder_")
        for name, value in {
            "block_out_channels": (8, 8),
            "layers_per_block": (1, 1, 1),
            "spatio_temporal_scaling": (True, False),
        }.items()
    }
    return AutoencoderCodec(
        AutoencoderKLLTXVideo(
            latent_channels=4,
            down_block_types=("LTXVideoDownBlock3D",) * 2,
            decoder_inject_noise=(False,) * 3,
            downsample_type=("conv",) * 2,
            upsample_residual=(False,) * 2,
            upsample_factor=(1,) * 2,
            patch_size=1,
            decoder_causal=True,
            **levels,
        ).eval()
    )


def make_tiny_world(
    game: GameConfig | None = None,
    *,
    termination_bias: float = -20.0,
    codec: Codec | None = None,
    text: TextEncoder | None = None,
    **dit_changes: Any,
) -> WorldModel:
    """A random world; by default its episodes practically never terminate."""
    game = game or make_tiny_game()
    codec = codec or PixelCodec(game.channels)
    if text is not None:
        dit_changes["text_width"] = text.width
    dit_changes = {"latent_frames": codec.time_factor, **dit_changes}
    dit = make_tiny_dit(
        num_actions=game.num_actions, latent_channels=codec.latent_channels, **dit_changes
    )
    head = RewardTerminationHead(dit.config.width)
    torch.nn.init.normal_(head.reward.weight, std=0.3)
    torch.nn.init.constant_(head.termination.bias, termination_bias)
    episode = make_tiny_episode(game, 20, seed=99)
    rows = range(3)
    starts = Windows(
        frames=np.stack([episode.frames[4 * i : 4 * i + WINDOW] for i in rows]),
        actions=np.stack([episode.actions[4 * i : 4 * i + WINDOW - 1] for i in rows]),
        rewards=np.zeros((3, WINDOW - 1), np.float32),
        terminations=np.zeros((3, WINDOW - 1), bool),
        truncations=np.zeros((3, WINDOW - 1), bool),
        valid=np.ones((3, WINDOW), bool),
    )
    background = np.full((*game.frame_size, game.channels), 20, np.uint8)
    world = WorldModel(
        dit=dit,
        head=head,
        codec=codec,
        game=game,
        starts=starts,
        background=background,
        text=text,
    )
    return world.eval()


def save_tiny_world(path: Path, **arguments: object) -> Path:
    make_tiny_world(**arguments).save(path)  # type: ignore[arg-type]
    return path


def write_pong_recording(
    path: str | PathLike[str], episodes: int = 3, steps: int = 60
) -> Recording:
    """Short games of our Pong under random actions, which can be played again."""
    env_id = "worldsim/Pong-v0"
    rng = np.random.default_rng(0)
    nothing = np.zeros(steps, bool)
    with RecordingWriter(path, describe_game(env_id)) as writer:
        for seed in range(episodes):
            env = gymnasium.make(env_id)
            frames, rewards = [env.reset(seed=seed)[0]], []
            actions = rng.integers(3, size=steps)
            for action in actions:
                frame, reward, *_ = env.step(int(action))
                frames.append(frame)
                rewards.append(reward)
            writer.write_episode(
                Episode(
                    frames=np.stack(frames),
                    actions=actions,
                    rewards=np.array(rewards, np.float32),
                    terminations=nothing,
                    truncations=np.arange(steps) == steps - 1,
                    seed=seed,
                    policy="random",
                )
            )
    return Recording(path)


PLAIN = Recipe(
    moving_weight=0.0,
    tau_mixture=(0.0, 0.0),
    history_noise=0.0,
    self_rollout=0.0,
    action_dropout=0.0,
)


def losses_of(world: WorldModel, windows: Windows, seed: int = 0, **recipe: Any) -> Losses:
    """The losses of windows by a recipe that does nothing but what is asked for."""
    return losses_by(world, encode(world, windows), replace(PLAIN, **recipe), seed)


def losses_by(world: WorldModel, batch: Batch, recipe: Recipe, seed: int = 0) -> Losses:
    """The losses of a batch by a recipe, with the draws of a seed."""
    return objective(world, [batch], recipe, [draw(world, batch.latents, recipe, (seed,))])
