"""Worlds called as video pipelines are, and `worldsim imagine` from words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_text import CAPTIONS, make_text_world, save_tiny_encoder
from tests.tiny_worlds import SIDE, make_tiny_game, make_tiny_video_codec, make_tiny_world
from worldsim import WorldPipeline
from worldsim.__main__ import main
from worldsim.media import read_frames, write_mp4
from worldsim.model.pretrained_text import PretrainedEncoder

pytestmark = pytest.mark.numeric

RED, BLUE = "a red ball", "two blue balls"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "balls"
    make_text_world().save(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> WorldPipeline:
    return WorldPipeline.from_pretrained(folder)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames_of(pipe: WorldPipeline, *arguments: Any, **options: Any) -> np.ndarray:
    options = {"num_frames": 6, "generator": seeded(), **options}
    return pipe(*arguments, **options).frames


class TestCalls:
    def test_make_a_video_from_words(self, pipe: WorldPipeline) -> None:
        frames = frames_of(pipe, RED)
        assert frames.shape == (1, 6, SIDE, SIDE, 3)
        assert frames.dtype == np.float32
        assert 0 <= frames.min() < frames.max() <= 1
        assert np.array_equal(frames, frames_of(pipe, RED))
        assert (frames != frames_of(pipe, BLUE)).mean() > 0.1
        assert (frames != frames_of(pipe, RED, generator=seeded(1))).mean() > 0.1

    def test_make_one_for_each_prompt(self, pipe: WorldPipeline) -> None:
        both = frames_of(pipe, [RED, BLUE], num_frames=2, generator=[seeded(0), seeded(1)])
        for row, prompt in enumerate((RED, BLUE)):
            alone = frames_of(pipe, prompt, num_frames=2, generator=seeded(row))
            assert np.abs(both[row] - alone[0]).max() < 2 / 255

    def test_follow_guidance(self, pipe: WorldPipeline) -> None:
        plain, one, three = (
            frames_of(pipe, RED, **scale)
            for scale in ({}, {"guidance_scale": 1.0}, {"guidance_scale": 3.0})
        )
        assert np.array_equal(plain, one)
        assert (plain != three).mean() > 0.1

    def test_without_words_begin_from_a_start_with_its_caption(self, pipe: WorldPipeline) -> None:
        frames = frames_of(pipe)
        starts = pipe.world.starts.frames / np.float32(255)
        (row,) = [row for row in range(3) if np.array_equal(frames[0, :4], starts[row])]
        image = [Image.fromarray(frame) for frame in pipe.world.starts.frames[row]]
        again = frames_of(pipe, CAPTIONS[row], image=image)
        assert np.array_equal(again, frames)

    def test_take_a_picture_of_any_size(self, pipe: WorldPipeline) -> None:
        picture = Image.fromarray(pipe.world.starts.frames[1, -1]).resize((40, 40), 0)
        frames = frames_of(pipe, RED, image=picture)
        assert frames.shape[1] == 6
        as_array = frames_of(pipe, RED, image=np.asarray(picture))
        assert np.array_equal(frames, as_array)
        assert np.abs(frames[0, 0] * 255 - pipe.world.starts.frames[1, -1]).mean() < 20

    def test_take_actions(self, pipe: WorldPipeline) -> None:
        left, right = (frames_of(pipe, RED, actions=[action] * 5) for action in (1, 2))
        assert np.array_equal(left[:, 0], right[:, 0])
        assert (left[:, 1:] != right[:, 1:]).any()

    @pytest.mark.parametrize("channels", [1, 3])
    def test_give_frames_as_asked(self, channels: int) -> None:
        pipe = WorldPipeline(make_tiny_world(make_tiny_game(channels=channels)))
        as_np = frames_of(pipe)
        as_pt = frames_of(pipe, output_type="pt")
        assert as_pt.shape == (1, 6, channels, SIDE, SIDE)
        assert np.array_equal(as_pt.permute(0, 1, 3, 4, 2).numpy(), as_np)
        ((first, *rest),) = frames_of(pipe, output_type="pil")
        assert len(rest) == 5
        pixels = np.asarray(first).reshape(SIDE, SIDE, channels)
        assert np.array_equal(pixels, (as_np[0, 0] * 255).round())

    @pytest.mark.parametrize("num_frames", [1, 4, 7])
    @pytest.mark.parametrize("kind", ["patches", "codec"])
    def test_of_worlds_with_several_frames_a_step(self, kind: str, num_frames: int) -> None:
        codec = {"codec": make_tiny_video_codec()}
        pipe = WorldPipeline(make_text_world(**({"patch_frames": 2}, codec)[kind == "codec"]))
        frames = frames_of(pipe, RED, num_frames=num_frames)
        assert frames.shape == (1, num_frames, SIDE, SIDE, 3)
        longer = frames_of(pipe, RED, num_frames=9)
        assert np.array_equal(longer[:, :num_frames], frames)

    def test_take_as_many_passes_as_asked(self, pipe: WorldPipeline) -> None:
        one, own = (frames_of(pipe, RED, num_inference_steps=passes) for passes in (1, None))
        assert np.array_equal(one[:, 0], own[:, 0])
        assert (one != own).any()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"output_type": "latent"}, "output_type must be one of"),
            ({"num_frames": 0}, "num_frames"),
            ({"actions": [1]}, "expected 5 action"),
            ({"image": np.zeros((4, 4), np.uint8)}, "uint8 arrays"),
            ({"image": []}, "pictures of one size"),
            ({"generator": []}, "1 prompts need a generator"),
            ({"prompt": "a green ball"}, "no word 'green'"),
            ({"guidance_scale": -1.0}, "guidance_scale"),
        ],
    )
    def test_say_what_does_not_fit(
        self, pipe: WorldPipeline, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            frames_of(pipe, **{"prompt": RED, **options})


class TestImagine:
    def test_a_clip_from_words_alone(self, folder: Path, tmp_path: Path) -> None:
        clips = []
        for prompt, scale in ((RED, "1"), (BLUE, "1"), (RED, "3")):
            out = tmp_path / f"{len(clips)}.mp4"
            command = ["imagine", prompt, "--model", str(folder), "--guidance-scale", scale]
            command += ["--num-frames", "8", "--overlap", "2", "--seconds", "1.4"]
            assert main([*command, "--out", str(out)]) == 0
            clips.append(read_frames(out, last=99))
            about = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
            assert (about["prompt"], about["num_frames"], about["windows"]) == (prompt, 14, 2)
        assert [len(clip) for clip in clips] == [14, 14, 14]
        for other in clips[1:]:
            assert np.abs(clips[0].astype(int) - other).mean() > 3

    def test_a_clip_from_words_and_a_start(self, folder: Path, tmp_path: Path) -> None:
        start = tmp_path / "start.mp4"
        write_mp4(start, make_text_world().starts.frames[0], 10)
        clips = []
        for prompt in (RED, BLUE):
            out = tmp_path / f"{len(clips)}.mp4"
            command = ["imagine", prompt, "--model", str(folder), "--image", str(start)]
            assert main([*command, "--num-frames", "8", "--out", str(out)]) == 0
            clips.append(read_frames(out, last=99).astype(int))
        first, later = (np.abs(clips[0] - clips[1])[part].mean() for part in (0, slice(3, None)))
        assert first < 1 < later

    def test_a_new_prompt_needs_the_encoder_by_name(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encoder = save_tiny_encoder(tmp_path / "encoder")
        world = make_text_world(PretrainedEncoder.of(encoder, ["a ball that rolls"]))
        world.starts.captions = ()
        world.save(tmp_path / "world")
        command = ["imagine", "a ball", "--model", str(tmp_path / "world"), "--num-frames", "3"]
        command += ["--overlap", "1", "--out", str(tmp_path / "out.mp4")]
        assert main(command) == 2
        assert "not loaded because a file names it" in capsys.readouterr().err
        assert not (tmp_path / "out.mp4").exists()
        assert main([*command, "--text-encoder", encoder]) == 0
        assert len(read_frames(tmp_path / "out.mp4", last=99)) == 3
