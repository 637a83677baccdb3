"""RolloutState: a snapshot of all lanes of a rollout, and which rollouts can restore it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from worldsim.model.kv_cache import KVCache
from worldsim.rollout_text import LaneText
from worldsim.world_model import WorldModel


@dataclass(frozen=True)
class RolloutState:
    """A snapshot of all lanes; see ``Rollout.clone_state``.

    Attributes:
        world: The fingerprint of the world, see `fingerprint`.
        cache: The keys and values of past frames.
        history: The newest latents of each lane, newest first (b num_kept*c h w).
        features: Those of the newest frame of each lane (b d), see `DiTOutput`.
        keys: Those of the lanes' random numbers, int64 (b), see `worldsim.model.random`.
        text: The prompts of the lanes; None in a world without text.
    """

    world: str
    cache: KVCache
    history: torch.Tensor
    features: torch.Tensor
    keys: torch.Tensor
    text: LaneText | None = None

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""
        prompts = () if self.text is None else self.text.tensors()
        return self.history, self.features, *self.cache.tensors(), self.keys, *prompts

    def clone(self) -> RolloutState:
        """An independent copy."""
        return RolloutState(
            world=self.world,
            cache=self.cache.clone(),
            history=self.history.clone(),
            features=self.features.clone(),
            keys=self.keys.clone(),
            text=None if self.text is None else self.text.clone(),
        )

    def take_lanes(self, lanes: Sequence[int]) -> RolloutState:
        """A snapshot whose lane i is lane ``lanes[i]`` of this one. Lanes may repeat."""
        index = torch.as_tensor(list(lanes), device=self.history.device)
        return RolloutState(
            world=self.world,
            cache=self.cache.take_lanes(index),
            history=self.history[index],
            features=self.features[index],
            keys=self.keys[index],
            text=None if self.text is None else self.text.take_lanes(index),
        )


def check_fits(state: Any, own: RolloutState) -> None:
    """Raise for a state that a rollout cannot restore.

    Args:
        state: The state to restore.
        own: The current state of the rollout.

    Raises:
        TypeError: If it is not a `RolloutState`.
        ValueError: If its world, device or number of lanes differs.
    """
    if not isinstance(state, RolloutState):
        raise TypeError(
            f"restore_state takes the result of clone_state, got {type(state).__name__}"
        )
    num_lanes = len(own.keys)
    if len(state.keys) != num_lanes:
        raise ValueError(
            f"the state has {len(state.keys)} lanes and this rollout {num_lanes}: "
            "restore it into a rollout of the same batch_size"
        )
    if state.history.device != own.history.device:
        raise ValueError(
            f"the state is on {state.history.device} and this world on {own.history.device}: "
            "move the world with world.to(...) and restore into a new rollout of it"
        )
    if state.world != own.world:
        raise ValueError(
            "the state belongs to another world or to other weights: restore it into a rollout of "
            "the world it was cloned from"
        )
    if (state.text is None or state.text.free is None) != (
        own.text is None or own.text.free is None
    ):
        raise ValueError(
            "the state and this rollout differ in whether prompts guide them: restore it into a "
            "rollout with the same guidance_scale"
        )
    layers = len(own.cache.rings)
    of_cache = [*["keys"] * layers, *["values"] * layers, "positions"]
    names = ["history", "features", *of_cache, "random keys", "prompts", "mask", *of_cache]
    both = zip(state.tensors(), own.tensors(), strict=True)
    for name, (theirs, ours) in zip(names, both, strict=False):  # not all have prompts
        if (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            raise ValueError(
                f"the state's {name} is {theirs.dtype} of shape {tuple(theirs.shape)}, in this "
                f"rollout {ours.dtype} of shape {tuple(ours.shape)}: restore the state unchanged"
            )


def weight_versions(world: WorldModel) -> list[tuple[int, int]]:
    """The address and version counter of each tensor of a world, which change with its weights."""
    tensors = (*world.parameters(), *world.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def fingerprint(world: WorldModel) -> str:
    """A digest of all that decides a world's frames and rewards.

    A world has the same one in every process and on every device.
    """
    # Hashing takes time, so the digest is kept while the weights stay as they are.
    versions = weight_versions(world)
    known: tuple[Any, str] = world.__dict__.get("_fingerprint", ([], ""))
    if known[0] == versions:
        return known[1]
    codec, rewards = world.codec, world.recorded_rewards
    about = {
        "network": world.dit.config.to_dict(),
        "frame": [*world.game.frame_size, world.game.channels],
        "codec": codec.settings(),
        "rewards": None if rewards is None else rewards.to_dict(),
    }
    if world.text is not None:
        about["text"] = world.text.identity()
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    tensors = {**world.state_dict(), "background_latents": world.background_latents}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    world.__dict__["_fingerprint"] = versions, digest.hexdigest()
    return digest.hexdigest()
