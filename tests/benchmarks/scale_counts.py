"""Parameters and operations of worlds of any size, counted without data (device ``meta``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim.data.windows import Windows
from worldsim.game.config import GameConfig
from worldsim.model.codec import PixelCodec
from worldsim.model.conditions import Conditions
from worldsim.model.dit import VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.heads import RewardTerminationHead
from worldsim.train.draws import Draws
from worldsim.train.muon import ITERATIONS
from worldsim.train.objective import Batch, objective
from worldsim.train.presets import SIZES
from worldsim.train.recipe import Recipe
from worldsim.world_model import WorldModel

SHAPES = {**SIZES, "10 B": {"width": 5120, "depth": 39, "num_heads": 40, "num_kv_heads": 20}}


@dataclass(frozen=True)
class Load:
    """What is trained."""

    frame_size: tuple[int, int] = (128, 128)
    """Height and width of a frame."""
    patch_size: int = 8
    """Side of a patch."""
    window: int = 12
    """Frames of a window."""
    batch_size: int = 512
    """Windows of a step, all GPUs together."""
    frames: float = 1e9
    """Frames of a run."""


class Matrices(NamedTuple):
    """Matrices of one shape, which Muon trains."""

    rows: int
    columns: int
    count: int

    @property
    def flops(self) -> float:
        """Operations that orthogonalise one of them (Newton-Schulz)."""
        short, long = sorted((self.rows, self.columns))
        return ITERATIONS * (4 * short**2 * long + 2 * short**3)


class Counted:
    """A world that is counted without data.

    Args:
        shape: Width, depth and heads.
        load: What is trained.
    """

    def __init__(self, shape: dict[str, int], load: Load) -> None:
        self.load, self.world = load, absent_world(shape, load)
        dit = self.world.dit
        self.depth, self.width = dit.config.depth, dit.config.width
        rows, columns = (-(-side // load.patch_size) for side in load.frame_size)
        self.tokens = load.window * (rows * columns + dit.num_special)  # of a window
        self.parameters = sum(p.numel() for p in self.world.parameters())
        self.block = max(sum(p.numel() for p in block.parameters()) for block in dit.blocks)
        self.in_blocks = sum(p.numel() for p in dit.blocks.parameters())
        shapes = [tuple(p.shape) for p in dit.blocks.parameters() if p.ndim == 2]
        self.matrices = [Matrices(*one, shapes.count(one)) for one in sorted(set(shapes))]

    @property
    def by_muon(self) -> int:
        """Parameters with one moment; the others have two."""
        return sum(one.rows * one.columns * one.count for one in self.matrices)

    @cached_property
    def forward(self) -> float:
        """Operations of the forward passes of a window, late in a run."""
        return self._count(backward=False, again=False)

    @cached_property
    def whole(self) -> float:
        """The same with the backward pass."""
        return self._count(backward=True, again=False)

    @cached_property
    def whole_again(self) -> float:
        """The same with layers computed again in the backward pass."""
        return self._count(backward=True, again=True)

    def _count(self, *, backward: bool, again: bool) -> float:
        """Operations a window. In the last third of a run half of them are also predicted first."""
        batch, draws = make_batch(self.world, self.load, windows=2)
        self.world.dit.activation_checkpointing = again
        with FlopCounterMode(display=False) as counter:
            losses = objective(self.world, [batch], Recipe().at(1.0), [draws])
            if backward:
                losses.total().backward()
        return counter.get_total_flops() / 2

    def frame_flops(self, passes: int) -> float:
        """Operations of a frame of play."""
        h, w = self.load.frame_size
        dit, k = self.world.dit, self.world.num_history
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            flags = torch.zeros(1, 1, device="meta")
            past = torch.zeros(1, 1, 3 * k, h, w, device="meta")
            cache = dit.new_cache(1, (h, w))
            dit(past[:, :, :3], Conditions(flags, flags.long(), past), cache)
        return passes * counter.get_total_flops()


def absent_world(shape: dict[str, int], load: Load) -> WorldModel:
    """A world whose tensors have shapes and no data."""
    game = GameConfig("count/Game-v0", frame_size=load.frame_size, action_meanings=("NOOP", "ACT"))
    frames = np.zeros((1, load.window, *load.frame_size, 3), np.uint8)
    steps = np.zeros((1, load.window - 1))
    starts = Windows(
        frames=frames,
        actions=steps.astype(np.int64),
        rewards=steps.astype(np.float32),
        terminations=steps.astype(bool),
        truncations=steps.astype(bool),
        valid=np.ones((1, load.window), bool),
    )
    with torch.device("meta"):
        dit = VideoDiT(
            DiTConfig(num_actions=2, patch_size=load.patch_size, window=load.window, **shape)
        )
        head = RewardTerminationHead(dit.config.width)
    world = WorldModel(
        dit=dit, head=head, codec=PixelCodec(3), game=game, starts=starts, background=frames[0, 0]
    )
    return world.to("meta")


def make_batch(world: WorldModel, load: Load, windows: int) -> tuple[Batch, Draws]:
    """Windows on the world's device, half of which are also predicted first; all numbers are 0."""
    (h, w), k, t = load.frame_size, world.num_history, load.window
    with world.device:
        flags = torch.zeros(windows, t)
        noise = torch.zeros(windows, t, 3, h, w)
        batch = Batch(
            latents=torch.zeros(windows, k + t, 3, h, w),
            moving=torch.zeros(windows, k + t, h, w, dtype=torch.bool),
            actions=flags.long(),
            rewards=flags,
            terminations=flags,
            valid=flags,
        )
    return batch, Draws(flags, noise, num_own=windows // 2)
