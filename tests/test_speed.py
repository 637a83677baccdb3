from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny_worlds import make_tiny_world
from worldsim.eval.speed import begin, matrix_rate, step_cost, step_latency
from worldsim.world_model import WorldModel


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


def test_arithmetic_is_that_of_the_layers() -> None:
    world = make_tiny_world()
    dit = world.dit
    rollout = begin(world, 1)
    rollout.num_passes = 1
    counted = step_cost(rollout, 0.01).gflop
    by_hand = 0.0  # 2 operations for each weight of a linear layer or a convolution, and place
    places = {"detail": 8 * 8, "embed": 4, "place_embedding": 4, "unembed": 4}
    for name, module in dit.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            tokens = 1 if "level" in name else 4 + dit.num_special
            by_hand += 2e-9 * module.weight.numel() * places.get(name.split(".")[0], tokens)
    attention = 4e-9 * 32 * (2 * 7 * 7 + 7 * dit.config.window)
    head = 2e-9 * sum(p.numel() for p in world.head.parameters() if p.ndim == 2)
    assert counted == pytest.approx(by_hand + attention + head, rel=0.01)


def test_the_rate_of_the_machine_is_that_of_large_matrices() -> None:
    assert 1 < matrix_rate(torch.device("cpu")) < 100_000


class TestStepLatency:
    def test_times_steps_early_and_late(self, world: WorldModel) -> None:
        walked: list[int] = []
        latency = step_latency(world, (3, 12), rounds=2, on_step=lambda: walked.append(1))
        assert list(latency) == [3, 12]
        assert len(walked) == 13
        for times in latency.values():
            assert times.shape == (20,)
            assert ((times > 0) & (times < 10_000)).all()

    def test_more_passes_take_longer(self, world: WorldModel) -> None:
        one, many = (
            np.median(step_latency(world, (2,), num_passes=n, rounds=2)[2]) for n in (1, 16)
        )
        assert many > 2 * one
