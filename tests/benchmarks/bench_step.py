"""Milliseconds of a step inside a tiny world, early and late in a session, on one thread.

    python tests/benchmarks/bench_step.py [WORLD] [--passes K]

Without a world, one with random weights of the size that `worldsim train --size tiny` makes for
64x64 frames is timed: what a step costs does not depend on the weights.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from worldsim.codec import PixelCodec
from worldsim.dit import VideoDiT
from worldsim.game import GameConfig
from worldsim.heads import RewardTerminationHead
from worldsim.metrics import step_latency
from worldsim.recording import Windows
from worldsim.train.dynamics import TrainConfig
from worldsim.train.presets import SIZES
from worldsim.world_model import WorldModel, load

STEPS = (10, 100, 1_000, 10_000)


def make_world() -> WorldModel:
    game = GameConfig(env_id="bench", action_meanings=("NOOP", "UP", "DOWN"))
    window = TrainConfig.num_frames
    dit = VideoDiT(
        num_actions=game.num_actions,
        patch_size=TrainConfig.patch_size,
        window=window,
        **SIZES["tiny"],
    )
    torch.nn.init.normal_(dit.detail.head[-1].weight, std=0.02)
    steps = np.zeros((1, window - 1))
    starts = Windows(
        frames=np.random.default_rng(0).integers(256, size=(1, window, 64, 64, 3), dtype=np.uint8),
        actions=steps.astype(np.int64),
        rewards=steps.astype(np.float32),
        terminations=steps.astype(bool),
        truncations=steps.astype(bool),
        valid=np.ones((1, window), bool),
    )
    return WorldModel(
        dit=dit,
        head=RewardTerminationHead(dit.config.width),
        codec=PixelCodec(),
        game=game,
        starts=starts,
        background=np.zeros((64, 64, 3), np.uint8),
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("world", nargs="?", help="a world's name or folder")
    parser.add_argument("--passes", type=int, help="denoising passes a frame")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = load(arguments.world, device="cpu") if arguments.world else make_world()
    passes = arguments.passes or world.num_passes
    latency = step_latency(world, STEPS, num_passes=passes, rounds=20)
    parameters = sum(parameter.numel() for parameter in world.parameters())
    height, width = world.game.frame_size
    print(
        f"{parameters / 1e6:.2f} M parameters, {height}x{width}, {passes} denoising passes, "
        f"{torch.get_num_threads()} thread"
    )
    for step, times in latency.items():
        print(f"step {step:>5,}: {times['p50']:6.2f} ms p50  {times['p95']:6.2f} ms p95")
    ratio = latency[STEPS[-1]]["p50"] / latency[STEPS[0]]["p50"]
    print(f"step {STEPS[-1]:,} / step {STEPS[0]}: {ratio:.3f} (p50)")


if __name__ == "__main__":
    main()
