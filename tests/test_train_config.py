"""Settings of a run: what they build, and the command that says them."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro

from tests.tiny_worlds import write_tiny_recording
from worldsim.recording import Recording
from worldsim.split import Split
from worldsim.train.config import TrainConfig
from worldsim.train.presets import build_world
from worldsim.train.recipe import Recipe


def test_settings_make_the_world(tmp_path: Path) -> None:
    write_tiny_recording(tmp_path, steps=12, episodes=3)
    recording = Recording(tmp_path)
    config = TrainConfig(
        recording=tmp_path,
        out=tmp_path / "run",
        num_frames=6,
        patch_size=4,
        time_every=2,
        passes=3,
        device="cpu",
    )
    world = build_world(config, recording, Split.of(recording, 0.1))
    assert (world.window, world.num_passes) == (6, 3)
    assert (world.dit.config.patch_size, world.dit.config.time_every) == (4, 2)
    np.testing.assert_array_equal(world.background, recording.median_frame(episodes=[0, 1]))
    held_out = recording.episode(2).frames
    for start in world.starts.frames:
        assert start.shape == (6, 16, 16, 3)
        assert any((held_out[i : i + 6] == start).all() for i in range(len(held_out) - 5))


def test_the_command_on_the_card_makes_the_same_run(tmp_path: Path) -> None:
    config = TrainConfig(recording=tmp_path / "a b", out=tmp_path / "c", size="small", steps=9)
    config = dataclasses.replace(config, log=("tensorboard", "wandb"), wandb_tags=("a", "b c"))
    words = shlex.split(config.command())
    assert words[:2] == ["worldsim", "train"]
    assert tyro.cli(TrainConfig, args=words[2:]) == config


def test_the_learning_rate_rises_stays_and_falls(tmp_path: Path) -> None:
    config = TrainConfig(tmp_path, tmp_path, lr=2.0, warmup_steps=10, decay_fraction=0.4)
    rates = [config.lr_at(step, step / 100) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 5)
    assert set(rates[9:60]) == {2.0}
    np.testing.assert_allclose(rates[60:], np.linspace(2, 0, 41), atol=1e-12)
    steady = dataclasses.replace(config, warmup_steps=0, decay_fraction=0.0)
    assert steady.lr_at(0, 0.5) == 2.0


def test_the_recipe_changes_with_time() -> None:
    recipe = Recipe(object_focus=(0.6, 0.2), self_rollout=0.8, corrupt_history=0.3)
    parts = [recipe.at(part) for part in (0.0, 1 / 3, 0.5, 0.8, 1.0)]
    assert [part.object_focus[0] for part in parts] == pytest.approx([0.6, 0.6, 0.6, 0.4, 0.2])
    assert [part.self_rollout for part in parts] == pytest.approx([0, 0, 0.4, 0.8, 0.8])
    assert [part.corrupt_history for part in parts] == pytest.approx([0, 0, 0.15, 0.3, 0.3])
    steady = Recipe(object_focus=(0.7, 0.7))
    assert {steady.at(part).object_focus for part in (0.0, 0.7, 1.0)} == {(0.7, 0.7)}
