"""Settings of a run: what they build, and the command that says them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.test_pictures import write_pictures
from tests.tiny_worlds import make_tiny_game, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.train.config import (
    Model,
    RunOptions,
    TrainConfig,
    check,
    main,
    read_config,
    resumed_config,
)
from worldsim.train.data import Data
from worldsim.train.optim import Optim
from worldsim.train.presets import build_world
from worldsim.train.processes import Processes
from worldsim.train.recipe import Recipe
from worldsim.train.run_log import Logging


def test_settings_make_the_world(tmp_path: Path) -> None:
    write_tiny_recording(tmp_path, steps=12, episodes=3)
    recording = Recording(tmp_path)
    model = Model(window=6, patch_size=(4,), time_every=2, passes=3)
    config = TrainConfig((tmp_path,), tmp_path / "run", device="cpu", model=model)
    world = build_world(config, Data.of(config, None, Processes()))
    assert (world.window, world.num_passes) == (6, 3)
    assert (world.dit.config.patch_size, world.dit.config.time_every) == (4, 2)
    wide = dataclasses.replace(config, model=Model(window=6, patch_size=(8, 4)))
    assert build_world(wide, Data.of(wide, None, Processes())).dit.config.patch_size == (8, 4)
    np.testing.assert_array_equal(world.background, recording.median_frame(episodes=[0, 1]))
    held_out = recording.episode(2).frames
    for start in world.starts.frames:
        assert start.shape == (6, 16, 16, 3)
        assert any((held_out[i : i + 6] == start).all() for i in range(len(held_out) - 5))


def test_the_command_on_the_card_makes_the_same_run(tmp_path: Path) -> None:
    config = TrainConfig(
        recordings=(tmp_path / "a b",),
        out=tmp_path / "c",
        size="small",
        steps=9,
        logging=Logging(("tensorboard", "wandb"), wandb_tags=("a", "b c")),
        recipe=Recipe(object_focus=(0.6, 0.15)),
        run=RunOptions(num_evals=0),
    )
    words = shlex.split(config.command())
    assert words[:2] == ["worldsim", "train"]
    assert words[-5:] == ["--recipe.object-focus", "0.6", "0.15", "--run.num-evals", "0"]
    assert read_config(words[2:]) == config


def test_several_recordings_and_their_shares_are_read_and_said(tmp_path: Path) -> None:
    url, out = "s3://bucket/maze", str(tmp_path / "run")
    words = ["a b", url, "stills", "--out", out, "--mix", "0.5", "0.3", "0.2"]
    config = read_config(words)
    assert config.recordings == (Path("a b"), url, Path("stills"))
    assert config.mix == (0.5, 0.3, 0.2)
    assert config.recording == Path("a b")
    check(config)
    assert shlex.split(config.command()) == ["worldsim", "train", *words]
    # In a checkpoint and in a file of settings.
    settings = json.loads(json.dumps(config.settings()))
    assert settings["recordings"] == ["a b", url, "stills"]
    assert resumed_config(read_config(words[:-4]), settings) == config
    config.write()
    file = f"{out}/config.toml"
    assert read_config([*words[:-4], "--config", file]).mix == config.mix
    assert "s3" not in Path(file).read_text(encoding="utf-8")


def test_settings_from_before_there_could_be_several_recordings_resume(tmp_path: Path) -> None:
    config = TrainConfig((Path("here"),), tmp_path, resume=True)
    old = {"recording": "recordings/pong", "seed": 4}
    assert resumed_config(config, old) == dataclasses.replace(config, seed=4)


def test_recordings_are_looked_at_before_anything_slow(tmp_path: Path) -> None:
    write_tiny_recording(tmp_path / "data", steps=12, episodes=2)
    game = make_tiny_game(channels=1)
    write_tiny_recording(tmp_path / "grey", steps=12, episodes=2, game=game)
    write_pictures(tmp_path / "stills")
    for names, sentence in (
        (["data", "none"], "none is not a recording"),
        (["stills"], "stills holds pictures, which show no actions"),
        (["data", "stills", "grey"], "must all be in colour or all be grey"),
    ):
        with pytest.raises(ValueError, match=sentence):
            main([*(str(tmp_path / name) for name in names), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_stays_and_falls() -> None:
    optim = Optim(lr=2.0, warmup_steps=10, decay_fraction=0.4)
    rates = [optim.lr_at(step, step / 100) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 5)
    assert set(rates[9:60]) == {2.0}
    np.testing.assert_allclose(rates[60:], np.linspace(2, 0, 41), atol=1e-12)
    assert Optim(lr=2.0, warmup_steps=0, decay_fraction=0.0).lr_at(0, 0.5) == 2.0


def test_the_recipe_changes_with_time() -> None:
    recipe = Recipe(object_focus=(0.6, 0.2), self_rollout=0.8, corrupt_history=0.3)
    parts = [recipe.at(part) for part in (0.0, 1 / 3, 0.5, 0.8, 1.0)]
    assert [part.object_focus[0] for part in parts] == pytest.approx([0.6, 0.6, 0.6, 0.4, 0.2])
    assert [part.self_rollout for part in parts] == pytest.approx([0, 0, 0.4, 0.8, 0.8])
    assert [part.corrupt_history for part in parts] == pytest.approx([0, 0, 0.15, 0.3, 0.3])
    early = [Recipe(unknown_codes=0.2).at(part / 12).unknown_codes for part in range(6)]
    assert early == pytest.approx([1, 1, 1, 0.6, 0.2, 0.2])
    steady = Recipe(object_focus=(0.7, 0.7))
    assert {steady.at(part).object_focus for part in (0.0, 0.7, 1.0)} == {(0.7, 0.7)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--steps 5 --minutes 1", "give --steps or --minutes, not both"),
        ("--steps 0", "--steps must be a whole number from 1 to .*, got 0"),
        ("--optim.lr nan", r"--optim\.lr must be a number above 0 and .*, got nan"),
        ("--recipe.action-dropout 1.5", "-dropout must be a number from 0 to 1, got 1.5"),
        ("--recipe.tau-mixture 0.6 0.5", "add up to 1 at most, got .0.6, 0.5."),
        ("--run.num-evals -1", r"--run\.num-evals must be a whole number from 0 to .*, got -1"),
        ("--run.held-out 1", r"--run\.held-out must be a number above 0 and below 1, got 1\.0"),
        ("--device abacus", "the device 'abacus' cannot be used here: "),
        ("--mix 0.4", "shares of a mix must be above 0 and add up to 1, got 0.4,"),
        ("--mix 0.5 0.5", "one share for each of the 1 recordings, got 0.5 0.5"),
        ("--mix 0 1", r"--mix must be a number above 0 and at most 1, got 0\.0"),
        ("--resume", "there is no run in .* to resume: leave out --resume"),
        ("--own-history 0.8", r"^--own-history is now --recipe\.self-rollout$"),
        ("--final-presence=0.1", r"^--final-presence is now value 2 of --recipe\.object-focus$"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, words: str, sentence: str) -> None:
    write_tiny_recording(tmp_path / "data", steps=12, episodes=2)
    with pytest.raises(ValueError, match=sentence) as error:
        main([str(tmp_path / "data"), "--out", str(tmp_path / "run"), *words.split()])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
