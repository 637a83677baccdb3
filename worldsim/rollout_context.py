"""What lanes know before their first step: recorded frames, read in one pass each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from einops import repeat

from worldsim.data.windows import Windows
from worldsim.model.actions import by_times
from worldsim.model.conditions import Conditions
from worldsim.model.kv_cache import KVCache
from worldsim.model.text import Caption, Text
from worldsim.rollout_text import LaneText
from worldsim.world_model import WorldModel

READ_AT_ONCE = {"cpu": 64}  # frames; more at once are slower, since they leave the CPU's caches


class Context(NamedTuple):
    """What lanes know after frames that were read, see `read_context`.

    Attributes:
        cache: The keys and values of the frames.
        history: The newest latents of each lane, newest first (b num_kept*c h w).
        features: Those of the newest frame of each lane (b d), see `DiTOutput`.
        text: The prompts that the frames were read with; None in a world without text.
    """

    cache: KVCache
    history: torch.Tensor
    features: torch.Tensor
    text: LaneText | None = None


def read_context(
    world: WorldModel,
    frames: np.ndarray,
    actions: np.ndarray,
    text: Text | None = None,
    is_guided: bool = False,
) -> Context:
    """Read frames as clean ones; the next step continues after the last of them.

    Args:
        world: The world.
        frames: uint8 (b t h w c), t of at least 1; the last ``world.context_frames`` are used.
        actions: The actions between them (b t-1), ``num_actions`` if unknown.
        text: The prompt of each lane, in a world with text.
        is_guided: Whether to read them without prompts too, see `LaneText`.
    """
    b, p = len(frames), world.patch_frames
    # Before the first frame there is no history: that frame is repeated.
    keep, k = min(1 + (frames.shape[1] - 1) // p, world.window), world.num_history
    newest_frames = frames[:, -(1 + p * (keep - 1)) :]
    latents = world.encode(torch.from_numpy(newest_frames).to(world.device))
    first = repeat(latents[:, 0], "b c h w -> b k c h w", k=k)
    histories = world.history(torch.cat((first, latents), dim=1))
    unknown = np.full((b, p), world.game.num_actions)
    if p > 1:  # the first time is one frame, into which no whole patch of actions leads
        actions = actions[:, actions.shape[1] - p * (keep - 1) :]
    into = torch.from_numpy(np.concatenate((unknown, actions), axis=1)[:, -p * keep :])
    into = by_times(into.long().to(world.device), p)
    size = latents.shape[-2], latents.shape[-1]

    def read(text: Text | None) -> tuple[KVCache, torch.Tensor]:
        cache, features = world.dit.new_cache(b, size), []
        at_once = max(1, READ_AT_ONCE.get(world.device.type, 1024) // keep)
        for part in (slice(i, i + at_once) for i in range(0, b, at_once)):
            clean = torch.ones(into[part].shape[:2], device=world.device)
            said = None if text is None else Text(*(each[part] for each in text))
            conditions = Conditions(clean, into[part], histories[part], text=said)
            features.append(world.predict(latents[part], conditions, cache.view(part)).features)
        cache.commit(keep)
        return cache, torch.cat(features)[:, -1]

    cache, features = read(text)
    prompts = None
    if text is not None:
        prompts = LaneText(text, None)
        if is_guided:
            prompts.free, _ = read(prompts.nothing)
    newest = torch.cat((latents[:, -1:].flatten(1, 2), histories[:, -1]), dim=1)
    num_channels = world.num_kept * world.dit.config.channels
    return Context(cache, newest[:, :num_channels], features, prompts)


def prompts_of(windows: Windows, world: WorldModel) -> list[Caption] | None:
    """The captions of windows as the prompts of a world with text; None if there are none.

    Captions that the world cannot encode are left out: nobody has typed them.
    """
    if world.text is None or not windows.captions:
        return None
    known = {caption: world.text.knows(caption) for caption in set(windows.captions)}
    return [caption if known[caption] else None for caption in windows.captions]


def blank_pass(
    world: WorldModel, actions: torch.Tensor, history: torch.Tensor, text: Text | None
) -> tuple[torch.Tensor, Conditions]:
    """The inputs of a pass over the next frame of lanes, to compile it: of the right shapes.

    Args:
        world: The world.
        actions: Those of a step (b …).
        history: The newest frames of each lane (b k*c h w).
        text: The prompts of the lanes, in a world with text.
    """
    config, device, b = world.dit.config, world.device, len(history)
    latents = torch.zeros(b, 1, config.channels, *history.shape[2:], device=device)
    code = torch.zeros(b, 1, config.chance_bits, device=device) if config.chance_bits else None
    tau = torch.zeros(b, 1, device=device)
    still = torch.zeros_like(actions)[:, None]
    return latents, Conditions(tau, still, history[:, None], code, text)
