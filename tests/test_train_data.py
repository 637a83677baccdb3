"""What a run learns from: never the held-out episodes, nothing in padding, any kind of frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import worldsim
from tests.tiny_worlds import losses_of, make_tiny_episode, make_tiny_game, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.writer import RecordingWriter
from worldsim.system.options import options_of
from worldsim.system.settings import with_values
from worldsim.train.config import TrainConfig
from worldsim.train.dynamics import train

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]


def make_config(recording: Path, out: Path, **changes: Any) -> TrainConfig:
    values = {"steps": 7, "optim.batch_size": 2, "model.window": 4, "run.num_evals": 0}
    values = {**values, "wandb": "disabled", **changes}
    config = TrainConfig((recording,), out)
    assert values.keys() <= {option.name for option in options_of(TrainConfig, config)}
    return with_values(config, values)


@pytest.mark.slow
def test_held_out_episodes_are_never_trained_on(tmp_path: Path) -> None:
    """Whatever the held-out episodes hold, the trained weights are the same."""
    game = make_tiny_game()

    def write(name: str, changed: int | None) -> Path:
        with RecordingWriter(tmp_path / name, game) as writer:
            for number in range(6):
                episode = make_tiny_episode(game, 12, number)
                if number == changed:
                    episode = make_tiny_episode(game, 12, 100 + number)
                    episode.rewards[:] = 5.0
                writer.write_episode(episode)
        return tmp_path / name

    (held_out,) = Split.of(Recording(write("square", None)), 0.1).held_out
    trained_on = (held_out + 1) % 6

    def weights(recording: Path) -> dict[str, torch.Tensor]:
        out = tmp_path / f"run_{recording.name}"
        config = make_config(recording, out, steps=8, **{"optim.batch_size": 6})
        (shard,) = (train(config).checkpoint / "training").iterdir()
        return load_file(shard)

    as_it_was = weights(tmp_path / "square")
    other_held_out = weights(write("other_held_out", held_out))
    other_trained_on = weights(write("other_trained_on", trained_on))
    assert all(torch.equal(as_it_was[name], other_held_out[name]) for name in as_it_was)
    assert not all(torch.equal(as_it_was[name], other_trained_on[name]) for name in as_it_was)


@pytest.mark.parametrize(
    ("steps", "changes", "settings"),
    [
        (2, {}, {"model.window": 8}),
        (12, {"channels": 1}, {}),
        (12, {"frame_size": (24, 37)}, {}),
        (
            12,
            {"action_meanings": tuple(f"A{i}" for i in range(50)), "key_bindings": {}},
            {},
        ),
    ],
    ids=["episodes shorter than the window", "grey", "not square", "many actions"],
)
def test_every_kind_of_recording_trains_and_plays(
    tmp_path: Path, steps: int, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    game = make_tiny_game(**changes)
    with RecordingWriter(tmp_path / "recording", game) as writer:
        for seed in range(5):
            episode = make_tiny_episode(
                make_tiny_game(**{**changes, "action_meanings": "abc"}), steps, seed
            )
            rng = np.random.default_rng(seed)
            actions = rng.integers(game.num_actions, size=steps)
            writer.write_episode(dataclasses.replace(episode, actions=actions))
    train(make_config(tmp_path / "recording", tmp_path / "run", steps=2, **settings))
    world = worldsim.load(tmp_path / "run")
    rollout = worldsim.Rollout(world)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], [0])
    step = rollout.step(np.array([game.num_actions - 1]))
    assert step.frames.shape == (1, *game.frame_size, game.channels)


def test_what_is_in_padding_does_not_count(tmp_path: Path) -> None:
    """Windows that reach past their episode give the same loss whatever stands there."""
    recording = write_tiny_recording(tmp_path / "short", steps=3, episodes=4)
    config = make_config(recording.path, tmp_path / "run", steps=1, **{"model.window": 6})
    world = worldsim.load(train(config).checkpoint)
    windows = recording.windows([0, 1], [-2, 0], 8)
    assert windows.valid.sum(1).tolist() == [4, 4]
    other = dataclasses.replace(
        windows, frames=windows.frames.copy(), rewards=windows.rewards.copy()
    )
    after = ~windows.valid
    after[0, :2] = False  # what stands before an episode is its first frame, and is seen
    other.frames[after] = 255
    other.rewards[after[:, 1:]] = 7.0
    losses = [losses_of(world, given) for given in (windows, other)]
    for part in ("frame", "head"):
        one, two = (each.mean(getattr(each, part)) for each in losses)
        torch.testing.assert_close(one, two, rtol=1e-6, atol=0)
