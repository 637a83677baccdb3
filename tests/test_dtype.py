"""Worlds in bfloat16: half of the memory, nearly the same frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from tests.tiny_worlds import make_tiny_world, save_tiny_world
from worldsim.rollout import Rollout
from worldsim.system.devices import LARGE, pick_dtype
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_world(tmp_path / "world", chance_bits=3)


def play(world: WorldModel, steps: int) -> np.ndarray:
    rollout = Rollout(world, 2)
    rollout.begin([0, 1], [5, 6])
    return np.stack([rollout.step(np.array([t % 3, 1])).frames for t in range(steps)])


def test_a_step_in_bfloat16_is_nearly_that_in_float32(folder: Path) -> None:
    full = worldsim.load(folder, dtype="float32")
    half = worldsim.load(folder, dtype="bfloat16")
    assert half.dit.dtype == torch.bfloat16
    one, other = (play(world, 1).astype(int) for world in (full, half))
    difference = np.abs(one - other)
    assert 0 < difference.mean() < 1.5  # of 255; weights have 8 bits
    assert np.array_equal(play(half, 3), play(half, 3))


def test_its_cache_takes_half_of_the_memory(folder: Path) -> None:
    full, half = (
        worldsim.load(folder, dtype=dtype).dit.new_cache(2, (16, 16)).keys
        for dtype in ("float32", "bfloat16")
    )
    assert [keys.nbytes for keys in half] == [keys.nbytes // 2 for keys in full]


def test_the_last_layer_and_the_prior_stay_exact(folder: Path) -> None:
    dit = worldsim.load(folder, dtype="bfloat16").dit
    exact = {name for name, p in dit.named_parameters() if p.dtype == torch.float32}
    assert {"detail.head.3.weight", "detail.head.3.bias"} <= exact
    assert all(name.startswith(("chance.", "detail.head.3.")) for name in exact)


def test_a_state_of_another_type_is_refused(folder: Path) -> None:
    full, half = (Rollout(worldsim.load(folder, dtype=d)) for d in ("float32", "bfloat16"))
    full.begin([0], [0])
    with pytest.raises(ValueError, match="belongs to another world or to other weights"):
        half.restore_state(full.clone_state())


def test_by_itself_only_a_large_world_on_a_gpu_is_in_bfloat16() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu, 10 * LARGE) == torch.float32
    assert pick_dtype("bfloat16", cpu, 1) == torch.bfloat16
    assert worldsim.load("pong", device="cpu").dit.dtype == torch.float32


def test_it_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    half = worldsim.load(folder, dtype="bfloat16")
    with pytest.raises(ValueError, match=r'saved in float32.*load it with dtype="float32"'):
        half.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("make", [worldsim.WorldModelEnv, worldsim.WorldModelVectorEnv])
def test_environments_load_their_world_in_it(folder: Path, make: type) -> None:
    env = make(str(folder), dtype="bfloat16")
    assert env.world.dit.dtype == torch.bfloat16
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"dtype must be .*'float16'"):
        make(str(folder), dtype="float16")
    with pytest.raises(ValueError, match=r"load it with worldsim.load\(\.\.\., dtype='bfloat16'\)"):
        make(make_tiny_world(), dtype="bfloat16")
