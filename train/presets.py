"""From a size and a recording to a fresh world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worldsim.data.mixture import concatenate
from worldsim.data.rewards import RecordedRewards
from worldsim.data.windows import Windows
from worldsim.frame_size import fit_frame
from worldsim.model.codec import Codec, PixelCodec
from worldsim.model.dit import VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.heads import RewardTerminationHead
from worldsim.model.layout import Layout
from worldsim.model.text import TextEncoder
from worldsim.system.devices import check_memory, free_memory, pick_device
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

from .config import TrainConfig
from .data import Data, Part
from .distributed import WEIGHT_BYTES
from .processes import Processes

SIZES = {
    "tiny": {"width": 128, "depth": 4, "num_heads": 4, "num_kv_heads": 2},
    "small": {"width": 256, "depth": 9, "num_heads": 8, "num_kv_heads": 4},
    "base": {"width": 512, "depth": 12, "num_heads": 8, "num_kv_heads": 4},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "num_kv_heads": 8},
    "xl": {"width": 2048, "depth": 24, "num_heads": 16, "num_kv_heads": 8},
}

BATCH_SIZES = {"cuda": 64}  # windows in a step, at most; elsewhere 4
CONTRAST = 0.3  # of histories in latents, see `Recipe.history_contrast`
ACTIVATION_BYTES = 50  # per token, layer and channel: a lower bound; measured are 60 to 130


def build_world(
    config: TrainConfig,
    data: Data,
    processes: Processes | None = None,
    text: TextEncoder | None = None,
    codec: Codec | None = None,
) -> WorldModel:
    """Build a world for recordings, on the CPU, with start windows from their held-out episodes.

    The weights are drawn from torch's global generator. What it keeps of the recording is read by
    the first process.

    Args:
        config: The settings.
        data: The data.
        processes: The processes of the run; this one alone if not given.
        text: The encoder of captions; None for a world without text.
        codec: From `make_codec`; raw pixels if not given.

    Raises:
        ValueError: If the device cannot be used, or a step does not fit into its memory.
    """
    device = pick_device(config.device)
    game = data.game
    codec = codec or PixelCodec(game.channels)
    parts = config.engine.accumulate or 1
    frames = (config.optim.batch_size or 1) // parts * config.model.window
    check_memory(
        step_bytes(config, codec, game.frame_size, frames),
        f"a step of {frames:,} frames",
        "take a smaller --optim.batch-size or --model.window, a larger --engine.accumulate, or "
        "--engine.activation-checkpointing",
        device,
    )
    window = config.model.window
    height, across = config.model.patch_sides(codec.space_factor)
    patch_frames = codec.time_factor * config.model.patch_frames
    starts, rewards = (processes or Processes()).first(
        lambda: (
            pick_starts(data.parts, 1 + (window - 1) * patch_frames, config.seed),
            RecordedRewards.merged(part.recording.recorded_rewards() for part in data.parts),
        )
    )
    dit = VideoDiT(
        DiTConfig(
            num_actions=game.num_actions,
            latent_channels=codec.latent_channels,
            latent_frames=codec.time_factor,
            patch_size=height if height == across else (height, across),
            patch_frames=config.model.patch_frames,
            window=window,
            time_every=config.model.time_every,
            attention=config.model.attention,
            chance_bits=config.model.chance_bits,
            text_width=0 if text is None else text.width,
            **SIZES[config.size],  # type: ignore[arg-type]
        )
    )
    dit.activation_checkpointing = config.engine.activation_checkpointing
    return WorldModel(
        dit=dit,
        head=RewardTerminationHead(dit.config.width),
        codec=codec,
        game=game,
        starts=starts,
        background=data.background,
        recorded_rewards=rewards,
        num_passes=config.model.passes,
        split=data.split,
        text=text,
    )


def begin_from(world: WorldModel, name: str) -> None:
    """Take the weights of another world where names and shapes are equal.

    Raises:
        ValueError: If there is no such world, or none of its blocks' weights fits.
    """
    other = load(name, world.device, "float32")
    own, theirs = world.state_dict(), other.state_dict()
    fitting = {
        key: t
        for key, t in theirs.items()
        if key in own and t.shape == own[key].shape and not key.startswith("codec.")
    }
    words = [None if each.text is None else each.text.identity() for each in (world, other)]
    if words[0] != words[1]:  # weights of a word would become those of another one
        fitting = {key: t for key, t in fitting.items() if not key.startswith("text.")}
    if not any(key.startswith("dit.blocks.") for key in fitting):
        raise ValueError(f"the weights of {name} have other shapes: take its --size and --model.*")
    world.load_state_dict(own | fitting)


def complete(
    config: TrainConfig,
    frame_size: tuple[int, int],
    num_processes: int = 1,
    codec: Codec | None = None,
) -> TrainConfig:
    """Fill in what was not given: batch size, parts of a step, learning rate, contrast.

    The batch size suits the device and the number of processes, the rate the size of the model. On
    a GPU a step takes about half of the memory that is free beside the weights, at most.

    Args:
        config: The settings.
        frame_size: Height and width of a frame in pixels.
        num_processes: Processes of the run.
        codec: The codec of its world; raw pixels if not given.
    """
    size = SIZES[config.size]
    device, optim, engine = pick_device(config.device), config.optim, config.engine
    parameters = 11 * size["depth"] * size["width"] ** 2  # about
    parts, batch_size = engine.accumulate or 1, optim.batch_size
    if batch_size is None or batch_size % num_processes == 0:
        parts = max(parts, num_processes)
    if batch_size is None:
        batch_size = num_processes * BATCH_SIZES.get(device.type, 4)
        if device.type in BATCH_SIZES:
            room = 0.3 * (free_memory(device) - WEIGHT_BYTES * parameters)  # of a lower bound
            codec = codec or PixelCodec()
            window = step_bytes(config, codec, frame_size, config.model.window) / parts
            while batch_size > 1 and batch_size * window > room:
                batch_size //= 2
        batch_size = max(batch_size, parts)
        batch_size -= batch_size % parts
    lr = learning_rate(size["width"]) if optim.lr is None else optim.lr
    recipe = config.recipe
    in_latents = codec is not None and not isinstance(codec, PixelCodec)
    if in_latents and recipe.history_contrast is None:
        recipe = replace(recipe, history_contrast=CONTRAST)
    return replace(
        config,
        recipe=recipe,
        optim=replace(optim, batch_size=batch_size, lr=lr),
        engine=replace(engine, accumulate=parts if parts > 1 else engine.accumulate),
    )


def learning_rate(width: int) -> float:
    """The peak learning rate for a width: 4e-3, and above 256 channels inversely to the width.

    Steps of Muon and AdamW have the same size for each weight, so what they change in a layer's
    output grows with the number of its inputs (muP, Yang et al. 2022).
    """
    return 4e-3 * min(1.0, 256 / width)


def step_bytes(config: TrainConfig, codec: Codec, frame_size: tuple[int, int], frames: int) -> int:
    """Bytes of the activations of so many frames, at least."""
    size, sides = SIZES[config.size], config.model.patch_sides(codec.space_factor)
    tokens = Layout.of(1, codec.latent_size(frame_size), (1, *sides)).num_patches
    layers = 1 if config.engine.activation_checkpointing else size["depth"]
    return frames * tokens * layers * size["width"] * ACTIVATION_BYTES


def pick_starts(parts: Sequence[Part], length: int, seed: int, num_starts: int = 32) -> Windows:
    """Draw windows that end before their episode does, so that play can continue.

    Those of several recordings take turns. Their frames get the size of the first.

    Args:
        parts: The recordings.
        length: Frames of a window.
        seed: Decides the draw.
        num_starts: Windows of each recording.
    """
    frame_size = parts[0].recording.game.frame_size
    drawn = []
    for number, (recording, split) in enumerate(parts):
        rng = np.random.default_rng((seed, number))
        chosen = rng.choice(split.held_out, num_starts)
        room = recording.episode_lengths[chosen] - length
        starts = [int(rng.integers(min(r, 0), max(r, 0) + 1)) for r in room]
        windows = recording.windows([int(i) for i in chosen], starts, length)
        game = recording.game
        if game.frame_size != frame_size:
            frames = [
                [fit_frame(frame, frame_size, game.channels) for frame in clip]
                for clip in windows.frames
            ]
            windows = replace(windows, frames=np.array(frames))
        drawn.append(windows)
    if len(drawn) == 1:
        return drawn[0]
    turns = np.arange(len(parts) * num_starts).reshape(len(parts), num_starts).T.flatten()
    return concatenate(drawn)[turns]
