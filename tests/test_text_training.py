"""Training on captions: what is drawn, what is learned, and runs of a few steps."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import worldsim
from tests.test_distributed import assert_same_training, run_together
from tests.test_train import make_config as run_config
from tests.test_train import read_losses, send_at
from tests.tiny_text import make_text_world, save_tiny_encoder
from tests.tiny_worlds import (
    PLAIN,
    losses_by,
    make_tiny_episode,
    make_tiny_game,
    make_tiny_world,
)
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.data.writer import RecordingWriter
from worldsim.model.pretrained_text import PretrainedEncoder
from worldsim.model.text import VocabularyEncoder
from worldsim.system.settings import with_values
from worldsim.train.config import TrainConfig
from worldsim.train.draws import Draws, draw
from worldsim.train.dynamics import train
from worldsim.train.objective import encode, objective
from worldsim.train.presets import begin_from
from worldsim.world_model import WorldModel

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]

WORDS = ("a red ball", "two blue balls")


def write_captioned(path: Path, captions: tuple[str | None, ...] = WORDS) -> Recording:
    game = make_tiny_game()
    with RecordingWriter(path, game) as writer:
        for seed in range(6):
            episode = make_tiny_episode(game, 12, seed)
            caption = captions[seed % len(captions)]
            writer.write_episode(dataclasses.replace(episode, caption=caption))
    return Recording(path)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_captioned(tmp_path_factory.mktemp("captioned") / "square")


@pytest.fixture
def world() -> WorldModel:
    return make_text_world(window=8)


@pytest.fixture
def windows(recording: Recording) -> Windows:
    return recording.windows([0, 1, 2], [2, 2, 2], 8)


def losses_with(world: WorldModel, windows: Windows, **draws: Any) -> torch.Tensor:
    """The frame losses (b t), with some draws replaced."""
    batch = encode(world, windows)
    drawn = draw(world, batch.latents, PLAIN, (0,))
    none = torch.zeros(len(windows.frames), dtype=torch.bool)
    drawn = drawn._replace(**{"hidden_text": none, "stills": none, **draws})
    with torch.no_grad():
        return objective(world, [batch], PLAIN, [drawn]).frame


class TestDraws:
    def test_captions_are_hidden_as_often_as_asked(self, world: WorldModel) -> None:
        latents = torch.zeros(2000, 3, 3, 8, 8)
        for share in (0.0, 0.3, 1.0):
            recipe = dataclasses.replace(PLAIN, text_dropout=share)
            hidden = draw(world, latents, recipe, (0,)).hidden_text
            assert hidden is not None
            assert hidden.float().mean().item() == pytest.approx(share, abs=0.04)

    def test_a_world_without_text_draws_nothing_for_it_and_all_else_as_before(
        self, world: WorldModel
    ) -> None:
        latents = torch.zeros(4, 5, 3, 16, 16)
        recipe = dataclasses.replace(PLAIN, action_dropout=0.5, history_noise=0.1)
        without: Draws = draw(make_tiny_world(window=8), latents, recipe, (3,))
        with_text: Draws = draw(world, latents, recipe, (3,))
        assert without.hidden_text is without.stills is None
        for name in ("tau", "noise", "hidden_actions", "history_noise"):
            assert torch.equal(getattr(without, name), getattr(with_text, name))


class TestObjective:
    def test_captions_are_those_of_each_window(self, world: WorldModel, windows: Windows) -> None:
        losses = losses_with(world, windows)
        swapped = dataclasses.replace(windows, captions=(WORDS[1], WORDS[1], WORDS[0]))
        changed = (losses_with(world, swapped) != losses).any(dim=1)
        assert changed.tolist() == [True, False, False]

    def test_a_hidden_caption_is_none(self, world: WorldModel, windows: Windows) -> None:
        hidden = losses_with(world, windows, hidden_text=torch.tensor([True, False, True]))
        none = dataclasses.replace(windows, captions=(None, WORDS[1], None))
        assert torch.equal(hidden, losses_with(world, none))

    def test_windows_without_captions_can_be_learned_too(
        self, world: WorldModel, windows: Windows
    ) -> None:
        without = dataclasses.replace(windows, captions=())
        none = dataclasses.replace(windows, captions=(None,) * 3)
        assert torch.equal(losses_with(world, without), losses_with(world, none))

    def test_a_still_knows_nothing_of_what_was_before(
        self, world: WorldModel, windows: Windows
    ) -> None:
        """Neither frames nor the action; other windows stay as they were."""
        k = world.num_history
        stills = torch.tensor([True, False, False])
        losses = losses_with(world, windows, stills=stills)
        other = dataclasses.replace(
            windows, frames=windows.frames.copy(), actions=windows.actions.copy()
        )
        other.frames[:, :k] = 200
        other.actions[:, k - 1] = (other.actions[:, k - 1] + 1) % 3
        changed = losses_with(world, other, stills=stills) != losses
        assert changed.any(dim=1).tolist() == [False, True, True]

    def test_a_still_is_drawn_from_what_first_frames_are_drawn_from(
        self, world: WorldModel, windows: Windows
    ) -> None:
        batch, seen = encode(world, windows), []
        drawn = draw(world, batch.latents, PLAIN, (0,))
        drawn = drawn._replace(stills=torch.tensor([True, False, False]))
        predict = world.predict

        def watch(latents: torch.Tensor, conditions: Any, cache: Any = None) -> Any:
            seen.append(conditions)
            return predict(latents, conditions, cache)

        world.predict = watch  # type: ignore[method-assign]
        objective(world, [batch], PLAIN, [drawn])
        (conditions,) = seen[-1]
        assert torch.equal(conditions.history[0, 0], world.unknown_history((16, 16)))
        assert conditions.actions[:, 0].tolist()[0] == 3
        assert conditions.actions[1:, 0].max() < 3
        # The frame after it has it as its whole history, as after a start of one frame.
        twice = batch.latents[0, 2].repeat(2, 1, 1)
        assert torch.equal(conditions.history[0, 1], twice)

    def test_gradients_reach_the_vocabulary(self, world: WorldModel, windows: Windows) -> None:
        world.train()
        losses_by(world, encode(world, windows), PLAIN).total().backward()
        for name, parameter in world.named_parameters():
            if "text" in name:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name


def make_config(recording: Recording, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"steps": 6, "model.window": 4, "optim.batch_size": 2}
    values |= {"run.log_steps": 3, "run.num_evals": 0, "model.text": "vocabulary", **changes}
    return with_values(TrainConfig((Path(str(recording.path)),), out), values)


def test_words_of_another_world_are_taken_only_if_they_are_the_same(tmp_path: Path) -> None:
    captions = [*WORDS, "three green balls"]
    make_text_world(VocabularyEncoder.of(captions, 16)).save(tmp_path / "world")
    for seen, is_same in ((captions, True), ([*WORDS, "three large balls"], False)):
        torch.manual_seed(9)
        fresh = make_tiny_world(text=VocabularyEncoder.of(seen, 16))
        before = fresh.text.embedding.weight.clone()
        begin_from(fresh, str(tmp_path / "world"))
        taken = worldsim.load(tmp_path / "world")
        assert torch.equal(fresh.dit.blocks[0].text.out.weight, taken.dit.blocks[0].text.out.weight)
        assert torch.equal(fresh.text.embedding.weight, taken.text.embedding.weight) == is_same
        assert torch.equal(fresh.text.embedding.weight, before) != is_same


class TestRuns:
    @pytest.mark.parametrize("changes", [{}, {"model.chance_bits": 3}])
    def test_a_vocabulary_is_trained_with_its_world(
        self, recording: Recording, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        result = train(make_config(recording, tmp_path / "run", **changes))
        world = worldsim.load(result.checkpoint)
        assert isinstance(world.text, VocabularyEncoder)
        assert world.text.words == ("a", "ball", "balls", "blue", "red", "two")
        assert set(world.starts.captions) <= set(WORDS)
        torch.manual_seed(0)
        fresh = VocabularyEncoder.of(WORDS, 128)
        assert not torch.equal(world.text.embedding.weight, fresh.embedding.weight)
        env = worldsim.WorldModelEnv(world)
        env.reset(seed=0, options={"prompt": "two red balls"})
        assert env.step(1)[0].shape == (16, 16, 3)

    @pytest.mark.parametrize("kind", ["vocabulary", "frozen"])
    @pytest.mark.slow
    def test_a_resumed_run_equals_one_that_never_stopped(
        self, recording: Recording, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "vocabulary"
        if kind == "frozen":
            path = tmp_path / "captioned"
            recording = write_captioned(path, ("a ball", "a ball that rolls", None))
            text = save_tiny_encoder(tmp_path / "encoder")
        whole = train(make_config(recording, tmp_path / "whole", **{"model.text": text}))
        config = make_config(recording, tmp_path / "parts", **{"model.text": text})
        undo = send_at(monkeypatch, 3, signal.SIGINT)
        assert train(config).ended == "stopped"
        undo()
        parts = train(dataclasses.replace(config, resume=True))
        one, other = (
            load_file(each.checkpoint / "training/shard-00001-model-00001-of-00001.safetensors")
            for each in (whole, parts)
        )
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []

    @pytest.mark.slow
    @pytest.mark.parametrize("bits", [0, 3])
    @pytest.mark.usefixtures("in_float32")
    def test_several_processes_train_the_same_words(
        self, recording: Recording, tmp_path: Path, bits: int
    ) -> None:
        shared = {"optim.batch_size": 6, "engine.accumulate": 6, "model.text": "vocabulary"}
        # Later losses part by rounding, also without text.
        shared |= {"model.chance_bits": bits, "steps": 3, "run.log_steps": 1}
        runs = {tmp_path / how: {**shared, "engine.parallel": how} for how in ("ddp", "fsdp")}
        run_together(2, recording.path, runs)
        train(run_config(recording.path, tmp_path / "alone", **shared))
        assert_same_training(tmp_path / "alone", tmp_path / "ddp")
        ours, theirs = (read_losses(tmp_path / run) for run in ("alone", "fsdp"))
        for step in ours:
            assert ours[step] == pytest.approx(theirs[step], rel=1e-4, abs=1e-6)

    def test_a_frozen_encoder_is_not_trained_nor_kept(self, tmp_path: Path) -> None:
        recording = write_captioned(tmp_path / "captioned", ("a ball", None))
        name = save_tiny_encoder(tmp_path / "encoder")
        result = train(make_config(recording, tmp_path / "run", **{"model.text": name}))
        world = worldsim.load(result.checkpoint)
        assert isinstance(world.text, PretrainedEncoder)
        assert not [key for key in world.state_dict() if key.startswith("text")]
        assert (tmp_path / "run/captions.safetensors").exists()
        env = worldsim.WorldModelEnv(worldsim.load(result.checkpoint, text_encoder=name))
        env.reset(seed=0, options={"prompt": "a ball that rolls"[:6]})

    def test_a_run_that_goes_on_with_another_encoder_is_refused(self, tmp_path: Path) -> None:
        recording = write_captioned(tmp_path / "captioned", ("a ball",))
        one, other = (save_tiny_encoder(tmp_path / str(seed), seed=seed) for seed in (0, 1))
        train(make_config(recording, tmp_path / "run", **{"model.text": one, "steps": 2}))
        (tmp_path / "run/captions.safetensors").unlink()
        config = make_config(recording, tmp_path / "run", **{"model.text": other})
        with pytest.raises(ValueError, match="began with another text encoder"):
            train(dataclasses.replace(config, resume=True))

    def test_a_recording_without_captions_is_refused(self, tmp_path: Path) -> None:
        recording = write_captioned(tmp_path / "square", (None,))
        with pytest.raises(
            ValueError, match=r"learns from captions, and there are none in .*square"
        ):
            train(make_config(recording, tmp_path / "run"))

    def test_captions_change_nothing_unless_text_is_asked_for(
        self, recording: Recording, tmp_path: Path
    ) -> None:
        silent = write_captioned(tmp_path / "silent", (None,))
        found = []
        for each in (recording, silent):
            out = tmp_path / f"run{len(found)}"
            result = train(make_config(each, out, **{"model.text": "none"}))
            world = result.checkpoint
            assert not (world / "text").exists()
            tensors = load_file(world / "model/diffusion_pytorch_model.safetensors")
            config = json.loads((world / "config.json").read_text(encoding="utf-8"))
            found.append((tensors, config))
        (ours, one), (theirs, other) = found
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert one == other
