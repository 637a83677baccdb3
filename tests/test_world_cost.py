"""What a world costs: counted on fake tensors, and for real, by its attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.memory import allocated_peak
from tests.tiny_worlds import WINDOW, make_tiny_world, save_tiny_world
from worldsim.model.conditions import Conditions
from worldsim.model.dit import VideoDiT
from worldsim.model.layout import Layout
from worldsim.rollout import Rollout
from worldsim.video.cost import CostConfig, cost, plan
from worldsim.video.world_cost import with_attention, world_denoiser
from worldsim.world_model import WorldModel

PATTERNS = [
    "space space+time",
    "full",
    "local:near=2,reach=1",
    "strided",
    "space+local:near=2,reach=1 full space time",
]


def attention_flops(attention: str, depth: int, layout: Layout, width: int) -> int:
    """In closed form, the operations of attention in a network, masked ones included."""
    t, patches, n = layout.times, layout.num_patches, layout.tokens_per_time
    pairs = 0
    for layer in range(depth):
        for part in attention.split()[layer % len(attention.split())].split("+"):
            if part == "space":
                pairs += t * n**2
            elif part == "time":
                pairs += n * t**2
            elif part == "full":
                pairs += n**2 * t * (t + 1) // 2
            elif part == "strided":  # the newest two, and multiples of 4
                seen = [
                    sum(s % 4 == 0 or time - s < 2 for s in range(time + 1)) for time in range(t)
                ]
                pairs += n**2 * sum(seen)
            else:  # the newest two and the first, in tiles of 2x2 with a patch around them
                seen = [min(3, time + 1) for time in range(t)]
                in_tiles = patches // 4 * 4 * (16 + layout.num_special)
                pairs += (in_tiles + layout.num_special * n) * sum(seen)
    return 4 * width * pairs


def sequence(world: WorldModel, t: int) -> tuple[torch.Tensor, Conditions]:
    size = world.game.frame_size
    actions, history = torch.zeros(1, t, dtype=torch.int64), torch.zeros(1, t, 6, *size)
    return torch.zeros(1, t, 3, *size), Conditions(torch.zeros(1, t), actions, history)


@pytest.mark.slow
def test_a_world_in_all_three_ways(tmp_path: Path) -> None:
    out, path = tmp_path / "a.png", str(save_tiny_world(tmp_path / "square"))
    schemes = cost(CostConfig(path, seconds=3.2, tflops=1.0, out=out))
    assert schemes["one sequence"].tokens == 32 * (4 + 3)  # 2x2 patches, action, level, register
    assert schemes["chained"].tokens == 8 * (4 + 3)
    assert schemes["ring"].times == 32
    assert schemes["ring"].memory < schemes["chained"].memory < schemes["one sequence"].memory


def test_the_ring_of_a_world_costs_the_same_for_every_frame() -> None:
    denoiser = world_denoiser(make_tiny_world(), "square")
    assert denoiser.ring is not None
    short, long = (plan(denoiser, denoiser.ring, 1, frames, 0) for frames in (32, 64))
    assert long.total == 2 * short.total
    assert long.memory == short.memory
    one, twice = denoiser.forward(32), denoiser.forward(64)
    assert twice.attention > 2.5 * one.attention
    assert twice.activations > 1.8 * one.activations


@pytest.mark.parametrize("attention", PATTERNS)
def test_a_world_counted_is_a_world_run(attention: str) -> None:
    small = make_tiny_world(depth=4, width=128, num_heads=4, num_kv_heads=2)
    world = with_attention(small.at_size((64, 64)), attention)
    denoiser = world_denoiser(world, "square")
    assert denoiser.window == WINDOW
    t = 3 * WINDOW  # a sequence sees all of itself
    forward = denoiser.forward(t)
    layout = Layout(t, 8, 8, 3)
    assert denoiser.tokens(t) == layout.num_tokens
    assert forward.attention == attention_flops(attention, 4, layout, 128)
    dit = VideoDiT(replace(world.dit.config, window=t)).eval()
    noisy, conditions = sequence(world, t)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            dit(noisy, conditions)  # PyTorch's own formulas alone, attention written out
        assert forward.attention + forward.rest == counter.get_total_flops()
        measured = allocated_peak(
            lambda: dit(noisy.clone(), Conditions(*(part.clone() for part in conditions[:3])))
        )
    assert forward.activations == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("attention", PATTERNS)
def test_a_step_of_the_ring_counted_is_a_step_run(attention: str) -> None:
    # Smaller frames would be convolved in memory that is not counted.
    small = make_tiny_world(width=128, num_heads=4, num_kv_heads=2, detail_width=16)
    world = with_attention(small.at_size((96, 96)), attention)
    ring = world_denoiser(world, "square").ring
    assert ring is not None
    rollout = Rollout(world)
    rollout.begin([0], [0])
    rollout.step(np.zeros(1, np.int64))
    measured = allocated_peak(lambda: rollout.step(np.zeros(1, np.int64)))
    assert ring.activations == pytest.approx(measured + rollout.bytes_per_lane, rel=0.05)


def test_a_world_with_patches_of_two_frames_has_half_of_the_tokens() -> None:
    one, two = (world_denoiser(make_tiny_world(patch_frames=p), "square") for p in (1, 2))
    assert (one.window, two.window) == (WINDOW, 2 * WINDOW - 1)
    assert two.latent_frames(two.window) == WINDOW
    assert two.tokens(WINDOW) == one.tokens(WINDOW)
    assert two.forward(WINDOW).attention == one.forward(WINDOW).attention
    assert one.ring is not None
    assert two.ring is not None
    assert two.ring.attention == one.ring.attention


@pytest.mark.slow
def test_patterns_and_frame_sizes_of_a_world_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = str(save_tiny_world(tmp_path / "square")), "space local:near=2,reach=1"
    schemes = cost(
        CostConfig(
            path, frame_size=(64, 48), attention=("full", other), tflops=1.0, out=tmp_path / "a.png"
        )
    )
    assert schemes["one sequence"].tokens == 16 * (8 * 6 + 3)
    assert "64x48" in capsys.readouterr().out
    own, full, local = (
        [schemes[name + scheme].attention for scheme in ("one sequence", "chained", "ring")]
        for name in ("", "full, ", f"{other}, ")
    )
    assert full[0] > 3 * full[1]  # 4 (4 t + 1) / (t + 1) at windows of 4 frames
    assert full[0] > 5 * own[0]
    assert full[0] > 5 * local[0]
    assert local[0] < 1.5 * local[1]
    assert schemes["full, ring"].memory > schemes[f"{other}, ring"].memory
    assert (tmp_path / "a.png").stat().st_size > 10_000
