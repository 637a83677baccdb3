"""Runs on several recordings: other frame sizes, other games, pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import worldsim
from tests.tiny_worlds import make_tiny_game, make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.eval.held_out import check_match, choose_windows, fitted, roll_out
from worldsim.game.config import GameConfig
from worldsim.rollout import Rollout
from worldsim.system.command_line import parse
from worldsim.train.config import TrainConfig, main
from worldsim.train.data import Data, draw_groups
from worldsim.train.draws import draw_all
from worldsim.train.dynamics import train
from worldsim.train.objective import encode, objective
from worldsim.train.processes import Processes
from worldsim.train.recipe import Recipe
from worldsim.train.run import Run
from worldsim.train.run_folder import RunProgress

WINDOW = 6
SMALL = ["--model.window", str(WINDOW), "--model.patch-size", "8", "--wandb", "disabled"]


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """A recording, one of another game and size, and a folder of pictures."""
    write_tiny_recording(tmp_path / "square", episodes=3)
    other = GameConfig(
        "tests/Other-v0",
        frame_size=(24, 16),
        action_meanings=("NOOP", "JUMP"),
        key_bindings={"space": 1},
    )
    write_tiny_recording(tmp_path / "other", game=other, episodes=3)
    (tmp_path / "stills").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "stills" / f"{number}.png")
    return [str(tmp_path / name) for name in ("square", "other", "stills")]


def config_of(paths: list[str], out: Path, *words: str) -> TrainConfig:
    mix = ["--mix", "0.5", "0.3", "0.2"] if len(paths) == 3 else []
    words = ("--out", str(out), "--device", "cpu", *SMALL, *mix, "--optim.batch-size", "4", *words)
    return parse(TrainConfig, [*paths, *words], "worldsim train")


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    (folder,) = sorted(out.glob("step_*"))[-1:]
    return load_file(folder / "model" / "diffusion_pytorch_model.safetensors")


def test_the_losses_of_a_clip_are_those_of_the_clip_alone(three: list[str], tmp_path: Path) -> None:
    config = config_of(three, tmp_path / "run")
    data = Data.of(config, None, Processes())
    world = make_tiny_world(data.game, window=WINDOW)
    mixture = data.mixture(config, world.num_history, world.patch_frames)
    groups = draw_groups(mixture, 0, 0, 0, 10)
    sizes = {(one.windows.frames.shape[1] - 2, *one.windows.frames.shape[2:4]) for one in groups}
    assert sizes == {(6, 16, 16), (6, 24, 16), (1, 16, 16)}
    recipe = Recipe(self_rollout=0.0)
    batches = [encode(world, one.windows, data.backgrounds_of(one)) for one in groups]
    draws = draw_all(world, [batch.latents for batch in batches], recipe, (0, 1))
    joint = objective(world, batches, recipe, draws)
    assert joint.frame.shape == (1, 10 * WINDOW)
    alone = [
        objective(world, [batch], recipe, [each])
        for batch, each in zip(batches, draws, strict=True)
    ]
    for name, field in joint._asdict().items():
        parts = [getattr(one, name).flatten() for one in alone]
        torch.testing.assert_close(field[0], torch.cat(parts), atol=1e-5, rtol=1e-4, msg=name)


def test_a_batch_costs_what_its_tokens_cost(three: list[str], tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = config_of(three, tmp_path / "run")
    data = Data.of(config, None, Processes())
    world = make_tiny_world(data.game, window=WINDOW)
    groups = draw_groups(data.mixture(config, world.num_history, world.patch_frames), 0, 0, 0, 10)
    batches = [encode(world, one.windows, data.backgrounds_of(one)) for one in groups]
    draws = draw_all(world, [batch.latents for batch in batches], Recipe(), (0, 1))

    def flops(which: slice) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            objective(world, batches[which], Recipe(), draws[which])
        return counter.get_total_flops()

    assert flops(slice(None)) == sum(flops(slice(i, i + 1)) for i in range(len(batches)))


@pytest.mark.slow
def test_steps_of_clips_and_of_pictures_share_a_log(three: list[str], tmp_path: Path) -> None:
    config = config_of(three, tmp_path / "run", "--steps", "6", "--run.num-evals", "0")
    optim = dataclasses.replace(config.optim, batch_size=1)
    run = Run.of(dataclasses.replace(config, optim=optim), None)
    assert {len(run.groups.at(step)[0].sources) for step in range(6)} == {1, WINDOW}
    train(dataclasses.replace(config, optim=optim))
    (line,) = [each for each in read_lines(tmp_path / "run") if "waste" in each]
    assert line["step"] == 6


@pytest.mark.slow
def test_a_run_resumes_as_if_it_had_not_stopped(three: list[str], tmp_path: Path) -> None:
    short = ("--run.num-evals", "0", "--run.log-steps", "1")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config_of(three, whole, "--steps", "4", *short))
    train(config_of(three, resumed, "--steps", "2", *short))
    train(config_of(three, resumed, "--steps", "4", "--resume", *short))
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    wastes = [line["waste"] for line in read_lines(whole) if "waste" in line]
    assert len(wastes) == 4
    assert all(0 <= waste < 0.3 for waste in wastes)


@pytest.mark.slow
def test_a_world_of_two_games_plays_both_and_is_measured_on_each(
    three: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main([*three, "--out", str(out), "--steps", "2", "--device", "cpu", *SMALL]) == 0
    world = worldsim.load(out)
    square = make_tiny_game()
    assert world.game.env_id == f"{square.env_id}+tests/Other-v0"
    assert world.game.action_meanings == (*square.action_meanings, "JUMP")
    assert (world.background == 128).all()
    assert len(world.starts.frames) == 64  # those of the two games take turns
    rollout = Rollout(world, 2)
    rollout.begin([0, 1], [0, 1])
    assert rollout.step(np.array([0, 3])).frames.shape == (2, 16, 16, 3)
    for path, size in zip(three[:2], [(16, 16), (24, 16)], strict=True):
        sized, recording = fitted(world, Recording(path))
        check_match(sized, recording)
        held_out = choose_windows(sized, recording, [0, 1], horizons=(2,), num_windows=2)
        assert roll_out(sized, held_out).shape == (2, 2, *size, 3)
        assert recording.game.env_id == Recording(path).game.env_id
        own = recording.own_actions(recording.episode(0).actions)
        assert np.array_equal(own, Recording(path).episode(0).actions)
    jumps = fitted(world, Recording(three[1]))[1]
    assert jumps.own_actions(np.array([0, 1, 3])).tolist() == [0, 0, 1]  # it has no UP


def test_recordings_of_one_game_keep_its_median_frame(three: list[str], tmp_path: Path) -> None:
    config = config_of([three[0], three[0], three[2]], tmp_path / "run")
    data = Data.of(config, None, Processes())
    expected = Recording(three[0]).median_frame(episodes=data.split.parts[0].trained_on)
    assert all(np.array_equal(frame, expected) for frame in (data.background, *data.backgrounds))
    assert data.game.env_id == Recording(three[0]).game.env_id


def test_another_number_of_recordings_is_no_resumed_run(three: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config_of(three, out, "--steps", "1", "--run.num-evals", "0"))
    with pytest.raises(ValueError, match="began with 3 recordings, and now has 1: resume with"):
        train(config_of(three[:1], out, "--steps", "2", "--resume"))


def test_parts_of_a_step_have_clips_of_the_same_shapes(three: list[str], tmp_path: Path) -> None:
    config = config_of(three, tmp_path / "run", "--engine.accumulate", "2")
    run = Run.of(config, None, Processes())
    with run.groups, run.writer:
        for step in range(3):
            shapes = [
                [group.windows.frames.shape for group in run.groups.at(2 * step + part)]
                for part in (0, 1)
            ]
            assert shapes[0] == shapes[1]
        losses, _ = run.take_step(RunProgress())
        assert losses.frame.shape == (1, 4 * WINDOW)


def test_a_world_at_another_size_is_the_same_network() -> None:
    world = make_tiny_world()
    large = world.at_size((40, 24))
    assert large.dit is world.dit
    assert large.starts.frames.shape[2:] == (40, 24, 3)
    assert large.game.frame_size == (40, 24)
    rollout = Rollout(large)
    rollout.begin([0], [0])
    frame = rollout.step(np.array([1])).frames
    assert frame.shape == (1, 40, 24, 3)
    # What encodes frames of another size scales the median frame alike.
    latents = world.encode(torch.from_numpy(frame)[None])
    torch.testing.assert_close(latents, large.encode(torch.from_numpy(frame)[None]))
    assert np.array_equal(world.decode(latents)[0].numpy(), frame)
