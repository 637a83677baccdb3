"""Worlds that follow words: prompts of lanes, guidance, first frames, and their folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.edits import edit_json
from tests.tiny_text import CAPTIONS, make_text_world, save_tiny_encoder
from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim import Rollout, load
from worldsim.first_frame import first_frames
from worldsim.model.conditions import Conditions
from worldsim.model.pretrained_text import PretrainedEncoder
from worldsim.model.text import Text
from worldsim.rollout_output import RolloutStep
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

RED, BLUE = "a red ball", "two blue balls"
ACTIONS = (1, 2, 0, 1, 2, 2)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_text_world()


def play(
    world: WorldModel, prompts: Sequence[str | None], seeds: Sequence[int] = (7, 7), **options: Any
) -> tuple[Rollout, list[RolloutStep]]:
    """Steps of lanes that begin from one start."""
    rollout = Rollout(world, len(prompts), **options)
    rollout.begin([1] * len(prompts), seeds[: len(prompts)], prompts=prompts)
    return rollout, steps_of(rollout)


def steps_of(rollout: Rollout) -> list[RolloutStep]:
    return [rollout.step(np.full(rollout.batch_size, action)) for action in ACTIONS]


def frames_of(steps: Sequence[RolloutStep]) -> np.ndarray:
    return np.stack([step.frames for step in steps], axis=1)


def sequence(world: WorldModel, text: Text | None, b: int = 2) -> torch.Tensor:
    """The prediction for a sequence of random frames."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 3, 3, SIDE, SIDE, generator=rng).expand(b, -1, -1, -1, -1)
    history = torch.randn(1, 3, 6, SIDE, SIDE, generator=rng).expand(b, -1, -1, -1, -1)
    actions = torch.ones(b, 3, dtype=torch.int64)
    conditions = Conditions(torch.full((b, 3), 0.3), actions, history, text=text)
    with torch.no_grad():
        return world.predict(latents, conditions).latents


def test_words_change_what_is_predicted(world: WorldModel) -> None:
    of_red, of_blue = sequence(world, world.encode_text([RED, BLUE]))
    assert (of_red - of_blue).abs().max() > 0.05


def test_two_captions_in_a_batch_are_each_as_alone(world: WorldModel) -> None:
    together = sequence(world, world.encode_text([RED, BLUE]))
    for row, prompt in enumerate((RED, BLUE)):
        alone = sequence(world, world.encode_text([prompt]), b=1)
        torch.testing.assert_close(alone[0], together[row])


def test_no_caption_is_as_good_as_none_given(world: WorldModel) -> None:
    given = sequence(world, world.encode_text([None, ""]))
    torch.testing.assert_close(given, sequence(world, None))
    hidden = world.encode_text([RED, BLUE]).drop(torch.tensor([True, True]))
    torch.testing.assert_close(sequence(world, hidden), given)


def test_groups_of_several_sizes_have_their_own_captions(world: WorldModel) -> None:
    latents = [torch.randn(b, t, 3, side, side) for b, t, side in ((1, 3, 16), (2, 1, 24))]
    texts = [world.encode_text([RED]), world.encode_text([BLUE, None])]
    conditions = [
        Conditions(
            torch.full(each.shape[:2], 0.3),
            torch.zeros(each.shape[:2], dtype=torch.int64),
            each.repeat(1, 1, 2, 1, 1),
            text=text,
        )
        for each, text in zip(latents, texts, strict=True)
    ]
    with torch.no_grad():
        both = world.dit(latents, conditions)
        for each, condition, output in zip(latents, conditions, both, strict=True):
            alone = world.dit(each, condition)
            torch.testing.assert_close(output.latents, alone.latents)


def test_without_text_nothing_is_there_that_was_not() -> None:
    world = make_tiny_world()
    assert not [name for name in world.state_dict() if "text" in name]
    rollout = Rollout(world, 2)
    rollout.begin([0, 1], [0, 1])
    assert rollout.clone_state().text is None


def test_a_denoiser_and_a_text_encoder_must_fit() -> None:
    with pytest.raises(ValueError, match="text_width 16 needs a text encoder of that width, got 0"):
        make_tiny_world(text_width=16)


class TestLanes:
    def test_follow_their_prompts(self, world: WorldModel) -> None:
        _, steps = play(world, [RED, BLUE])
        red, blue = frames_of(steps)
        assert (red != blue).mean() > 0.1

    def test_play_as_they_would_alone(self, world: WorldModel) -> None:
        _, both = play(world, [RED, BLUE], (7, 8))
        _, alone = play(world, [BLUE], (8,))
        difference = np.abs(frames_of(both)[1].astype(int) - frames_of(alone)[0])
        assert difference[0].max() <= 1

    def test_begin_with_the_captions_of_their_starts(self, world: WorldModel) -> None:
        rollout = Rollout(world, 3)
        rollout.begin([0, 1, 2], [7, 7, 7])
        with_captions = frames_of(steps_of(rollout))
        rollout.begin([0, 1, 2], [7, 7, 7], prompts=CAPTIONS)
        assert np.array_equal(frames_of(steps_of(rollout)), with_captions)

    def test_that_begin_anew_leave_the_prompts_of_others(self, world: WorldModel) -> None:
        _, expected = play(world, [RED, BLUE])
        rollout = Rollout(world, 2)
        rollout.begin([1, 1], [7, 7], prompts=[RED, RED])
        rollout.begin([1], [7], lanes=[1], prompts=[BLUE])
        assert np.array_equal(frames_of(steps_of(rollout)), frames_of(expected))

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_are_restored_with_their_prompts(self, world: WorldModel, scale: float) -> None:
        rollout = Rollout(world, 2, guidance_scale=scale)
        rollout.begin([1, 0], [7, 8], prompts=[RED, BLUE])
        state = rollout.clone_state()
        expected = frames_of(steps_of(rollout))
        other = Rollout(world, 2, guidance_scale=scale)
        other.begin([2, 2], [1, 2], prompts=[None, RED])
        other.restore_state(state)
        assert np.array_equal(frames_of(steps_of(other)), expected)
        other.restore_state(state.take_lanes([1, 1]))
        twins = frames_of(steps_of(other))
        assert np.array_equal(twins[0], twins[1])
        assert np.abs(twins[1].astype(int) - expected[1])[0].max() <= 1

    def test_are_not_restored_with_other_guidance(self, world: WorldModel) -> None:
        state = play(world, [RED])[0].clone_state()
        guided = Rollout(world, guidance_scale=2.0)
        with pytest.raises(ValueError, match="same guidance_scale"):
            guided.restore_state(state)

    @pytest.mark.parametrize(
        ("prompts", "error", "words"),
        [
            ([RED], ValueError, "2 lanes need a list of a prompt for each, got 1 prompts"),
            (RED, ValueError, "got the text 'a red ball'"),
            ([RED, 3], TypeError, "a text or None, got 3"),
            ([RED, "a green ball"], ValueError, "no word 'green'"),
        ],
    )
    def test_need_prompts_that_the_world_can_read(
        self, world: WorldModel, prompts: Any, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            play(world, prompts) if len(prompts) == 2 else Rollout(world, 2).begin(
                [0, 0], [0, 0], prompts=prompts
            )

    def test_of_a_world_without_text_take_no_prompt(self) -> None:
        with pytest.raises(ValueError, match="takes no prompt, got 'a red ball'"):
            play(make_tiny_world(), [RED])
        with pytest.raises(ValueError, match="guidance_scale 2 for a world without"):
            Rollout(make_tiny_world(), guidance_scale=2.0)


class TestGuidance:
    def test_of_1_is_the_prediction_itself(self, world: WorldModel) -> None:
        plain, steps = play(world, [RED, None])
        same, again = play(world, [RED, None], guidance_scale=1.0)
        assert np.array_equal(frames_of(steps), frames_of(again))
        assert same.bytes_per_lane == plain.bytes_per_lane

    def test_of_nearly_1_is_nearly_the_prediction(self, world: WorldModel) -> None:
        first = frames_of(play(world, [RED, BLUE])[1])[:, 0]
        guided = frames_of(play(world, [RED, BLUE], guidance_scale=1 + 1e-6)[1])[:, 0]
        assert np.abs(first.astype(int) - guided).max() <= 1

    def test_of_0_plays_as_without_a_prompt(self, world: WorldModel) -> None:
        _, free = play(world, [None], (7,))
        _, guided = play(world, [RED], (7,), guidance_scale=0.0)
        assert np.array_equal(frames_of(free), frames_of(guided))

    def test_moves_predictions_away_from_those_without_words(self, world: WorldModel) -> None:
        """The first pass of the first step, whose latents are known in closed form."""
        latents = {}
        for scale in (0.0, 1.0, 3.0):
            rollout = Rollout(world, num_passes=1, guidance_scale=scale)
            rollout.begin([1], [7], prompts=[RED])
            noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
            latents[scale] = rollout._pass(noise, 0.0, None).latents
        expected = latents[0.0] + 3 * (latents[1.0] - latents[0.0])
        torch.testing.assert_close(latents[3.0], expected, rtol=1e-4, atol=1e-4)

    def test_changes_nothing_without_a_prompt(self, world: WorldModel) -> None:
        _, free = play(world, [None], (7,))
        _, guided = play(world, [None], (7,), guidance_scale=4.0)
        assert np.array_equal(frames_of(free), frames_of(guided))


class TestFirstFrames:
    def test_follow_words_and_seeds(self, world: WorldModel) -> None:
        frames = first_frames(world, [RED, BLUE, RED, RED], [0, 0, 1, 0])
        assert frames.shape == (4, 1, SIDE, SIDE, 3)
        assert frames.dtype == np.uint8
        assert np.abs(frames[0].astype(int) - frames[3]).max() <= 1
        assert (frames[0] != frames[1]).mean() > 0.1
        assert (frames[0] != frames[2]).mean() > 0.1

    def test_follow_guidance(self, world: WorldModel) -> None:
        plain, guided = (
            first_frames(world, [RED], [0], guidance_scale=scale) for scale in (1.0, 3.0)
        )
        assert (plain != guided).mean() > 0.1

    def test_need_a_world_with_text(self) -> None:
        with pytest.raises(ValueError, match="takes no prompt"):
            first_frames(make_tiny_world(), [RED], [0])


class TestFolder:
    def test_a_world_with_a_vocabulary_plays_the_same(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        world.save(tmp_path / "world")
        loaded = load(tmp_path / "world")
        assert loaded.starts.captions == CAPTIONS
        expected, found = (frames_of(play(each, [RED, BLUE])[1]) for each in (world, loaded))
        assert np.array_equal(expected, found)
        state = play(world, [RED])[0].clone_state()
        Rollout(loaded).restore_state(state)

    def test_a_world_with_a_frozen_encoder_plays_its_starts_without_it(
        self, tmp_path: Path
    ) -> None:
        name = save_tiny_encoder(tmp_path / "encoder")
        captions = ("a ball", None, "a ball that rolls")
        world = make_text_world(PretrainedEncoder.of(name, captions))
        world.starts.captions = captions
        world.save(tmp_path / "world")
        loaded = load(tmp_path / "world")
        expected, found = (frames_of(play(each, ["a ball", None])[1]) for each in (world, loaded))
        assert np.array_equal(expected, found)
        with pytest.raises(ValueError, match="not loaded because a file names it"):
            play(loaded, ["the ball"])
        _, steps = play(load(tmp_path / "world", text_encoder=name), ["the ball"])
        assert (frames_of(steps)[0] != frames_of(play(loaded, ["a ball"])[1])[0]).any()

    @pytest.mark.parametrize("kind", ["vocabulary", "frozen"])
    def test_what_encodes_words_is_guarded_like_all_else(self, kind: str, tmp_path: Path) -> None:
        text = None
        if kind == "frozen":
            text = PretrainedEncoder.of(save_tiny_encoder(tmp_path / "encoder"), ["a ball"])
        world = make_text_world(text)
        world.starts.captions = ("a ball", None, None)
        world.save(tmp_path / "world")
        for file in (tmp_path / "world/text").iterdir():
            whole = file.read_bytes()
            file.write_bytes(whole[:-1] + b"x")
            with pytest.raises(ValueError, match=rf"{file.name} is damaged .*checksum differs"):
                load(tmp_path / "world")
            file.write_bytes(whole)
        (tmp_path / "world/text").rename(tmp_path / "elsewhere")
        (tmp_path / "world/text").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="is a link, which is not followed"):
            load(tmp_path / "world")

    @pytest.mark.parametrize(
        "captions", [["a ball"], "a ball", [3, None, None], ["", None, None], ["a\nb", None, None]]
    )
    def test_captions_of_starts_that_make_no_sense_are_named(
        self, world: WorldModel, captions: object, tmp_path: Path
    ) -> None:
        world.save(tmp_path / "world")
        edit_json(tmp_path / "world/config.json", lambda it: {**it, "start_captions": captions})
        with pytest.raises(ValueError, match=r"config.json is damaged \(.*start_captions"):
            load(tmp_path / "world")

    def test_a_text_encoder_for_a_world_without_is_refused(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "world")
        with pytest.raises(ValueError, match="no text encoder of transformers"):
            load(tmp_path / "world", text_encoder="some/encoder")

    def test_a_world_without_text_has_no_trace_of_it(self, tmp_path: Path) -> None:
        world = make_tiny_world()
        world.starts.captions = CAPTIONS
        world.save(tmp_path / "world")
        assert not (tmp_path / "world/text").exists()
        assert "captions" not in (tmp_path / "world/config.json").read_text(encoding="utf-8")
        assert load(tmp_path / "world").starts.captions == ()
