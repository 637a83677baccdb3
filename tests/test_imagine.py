"""`worldsim animate` and `worldsim imagine`, on true pipelines of tiny random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from tests.tiny_pipelines import save_tiny_pipeline
from tests.tiny_worlds import make_tiny_world
from worldsim.__main__ import main
from worldsim.eval.flicker import measure_steps
from worldsim.media import read_frames
from worldsim.video.animate import Clip, choose
from worldsim.video.chain import Chain
from worldsim.video.film import write_film
from worldsim.video.imagine import count_windows, until_interrupted

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SMALL = ["--frame-size", "32", "32", "--num-inference-steps", "2"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def svd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline("StableVideoDiffusionPipeline", tmp_path_factory.mktemp("svd"))


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline("LTXPipeline", tmp_path_factory.mktemp("ltx"))


def decode(path: Path) -> np.ndarray:
    return read_frames(path, last=10_000)


def test_a_photo_is_animated_at_each_strength_and_the_rule_chooses(
    svd: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clip.mp4"
    command = ["animate", str(photo), "--model", str(svd), "--out", str(out), *SMALL]
    command += ["--num-frames", "4", "--motion-bucket-ids", "20", "220"]
    assert main([*command, "--flicker-limit", "255", "--max-warping-error", "0.01"]) == 1
    printed = capsys.readouterr().out
    assert "the most motion with a warping error of at most 255" in printed
    assert "not stable: warping error" in printed
    found = json.loads((tmp_path / "clip.json").read_text())
    assert [clip["motion_bucket_id"] for clip in found["clips"]] == [20, 220]
    best = max(found["clips"], key=lambda clip: clip["flow"])
    assert found["chosen"] == best["motion_bucket_id"]
    frames = decode(out)
    assert frames.shape == (4, 32, 32, 3)
    steps = measure_steps(frames)  # what the file shows is what was measured
    assert steps.errors.mean() == pytest.approx(best["warping_error"], rel=0.1)
    for name in ("clip_sheet.png", "clip_trade_off.png"):
        assert min(read_frames(tmp_path / name).shape[1:3]) > 100


def test_the_rule() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    clips = [Clip(50, frames, 1.0, 2.0), Clip(127, frames, 2.0, 5.0), Clip(200, frames, 6.0, 9.0)]
    assert choose(clips, 4.0).motion_bucket_id == 127
    assert choose(clips, 10.0).motion_bucket_id == 200
    assert choose(clips, 0.5).motion_bucket_id == 50


def test_what_animate_refuses(
    ltx: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        ([str(tmp_path / "none.png")], "there is no file"),
        ([str(photo), "--model", str(ltx)], "is a LTXPipeline, which has no motion_bucket_id"),
        (
            [str(photo), "--motion-bucket-ids", "300"],
            "must be a whole number from 0 to 255, got 300",
        ),
    ):
        assert main(["animate", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_a_prompt_becomes_a_long_video_in_windows(
    ltx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    command = ["imagine", "a ball", "--model", str(ltx), "--num-frames", "9", "--fps", "10"]
    assert main([*command, "--seconds", "1.9", "--out", str(out), *SMALL]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["windows"], found["overlap"], found["num_frames"]) == (4, 5, 19)
    assert "at the 3 seams of its windows: warping error" in capsys.readouterr().out
    frames = decode(out)
    assert len(frames) == 19
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 10
    again = tmp_path / "again.mp4"
    assert main([*command, "--seconds", "1.9", "--out", str(again), *SMALL]) == 0
    np.testing.assert_array_equal(frames, decode(again))
    assert read_frames(tmp_path / "out_sheet.png").shape[2] > 6 * 100


def test_a_video_is_gone_on_from(ltx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    command = ["imagine", "a ball", "--model", str(ltx), "--num-frames", "9", *SMALL]
    assert main([*command, "--out", str(out)]) == 0
    more = tmp_path / "more.mp4"
    assert main([*command, "--image", str(out), "--out", str(more)]) == 0
    assert len(decode(more)) == 9
    assert not np.array_equal(decode(out), decode(more))


def test_another_model_continues_where_the_first_takes_text_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = save_tiny_pipeline("WanPipeline", tmp_path / "first")
    second = save_tiny_pipeline("WanImageToVideoPipeline", tmp_path / "second")
    out = tmp_path / "out.mp4"
    command = ["imagine", "a ball", "--model", str(first), "--num-frames", "5", *SMALL]
    command += ["--seconds", "0.5", "--out", str(out)]
    assert main(command) == 2
    assert "takes text only and cannot continue a window" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--continue-with", str(second)]) == 0
    assert len(decode(out)) == 8


def test_a_world_continues_in_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_tiny_world()
    world.save(tmp_path / "world")
    out = tmp_path / "out.mp4"
    command = ["imagine", "--model", str(tmp_path / "world"), "--out", str(out)]
    seconds = ["--seconds", str(20 / world.game.fps)]
    assert main([*command, *seconds]) == 0  # from its memory
    assert "seam" not in capsys.readouterr().out
    in_one = decode(out)
    assert len(in_one) == 20
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["windows"], found["overlap"]) == (1, 0)
    steps = measure_steps(in_one)
    assert found["colour_shift"] == pytest.approx(steps.colour_shifts.mean(), abs=0.5)
    command += ["--num-frames", "8", "--overlap", "2"]
    assert main([*command, "--seconds", str(20 / world.game.fps)]) == 0
    assert "at the 2 seams of its windows" in capsys.readouterr().out
    frames = decode(out)
    assert len(frames) == 20
    assert frames.shape[1:3] == world.game.frame_size
    assert main([*command[:1], "a ball", *command[1:]]) == 2
    assert "takes no prompt, got 'a ball'" in capsys.readouterr().err
    assert main([*command, "--negative-prompt", "a ball"]) == 2
    assert "is a world, which takes no negative prompt" in capsys.readouterr().err


def test_what_imagine_refuses(
    ltx: Path, svd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["--model", str(ltx)], "LTXPipeline needs a prompt, as in"),
        (["--model", str(svd)], "begins from an image: give one with --image"),
        (["a ball", "--model", str(svd)], "takes no prompt: leave it out"),
        (["a ball", "--model", str(ltx), "--num-frames", "16"], "take 13 or 17"),
        (["a ball", "--seconds", "-1"], "--seconds must be a number above 0 and at most"),
        (["a", "--model", str(ltx), "--num-frames", "9", "--overlap", "9", "--seconds", "9"],
         "got 9 frames with an overlap of 9"),
    ):  # fmt: skip
        out = tmp_path / "out.mp4"
        assert main(["imagine", *arguments, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()


def test_ctrl_c_keeps_what_was_made(tmp_path: Path) -> None:
    def make_window(context: np.ndarray | None, index: int) -> np.ndarray:
        if index == 2:
            raise KeyboardInterrupt
        return np.random.default_rng(index).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)

    interrupted: list[bool] = []
    chain = Chain(make_window, 100, overlap=2)
    film = write_film(tmp_path / "out.mp4", until_interrupted(chain, interrupted), 10, 100)
    assert interrupted == [True]
    assert film.num_frames == len(decode(tmp_path / "out.mp4")) == 12


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (8, 1), (9, 2), (14, 2), (15, 3)])
def test_windows_are_counted_beforehand(frames: int, windows: int) -> None:
    assert count_windows(frames, 8, 2) == windows


def test_a_missing_package_is_named_before_anything_slow(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['accelerate'] = None\n"
        "from worldsim.__main__ import main\n"
        "status = main(['imagine', 'a ball', '--model', 'some/model'])\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "accelerate is not installed: pip install \"accelerate\" (the extra 'video' of worldsim)\n"
    )
