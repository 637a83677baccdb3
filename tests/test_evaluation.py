from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_worlds import SIDE, make_tiny_game, make_tiny_world, write_tiny_recording
from worldsim.metrics import step_latency
from worldsim.recording import Recording
from worldsim.train import evaluation
from worldsim.train.evaluation import EvalConfig, comes_from, evaluate, main
from worldsim.world_model import WorldModel


@pytest.fixture(autouse=True)
def _be_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "step_latency", partial(step_latency, rounds=1))
    monkeypatch.setattr(evaluation, "SHUFFLE_BATCHES", 2)
    monkeypatch.setattr(evaluation, "LATENCY_STEPS", (3, 20))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("data") / "square", steps=80)


@pytest.fixture(scope="module")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "square"
    make_tiny_world().save(path)
    return path


def test_command_reports_as_text_json_and_picture(
    recording: Recording, world_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = [str(world_path), str(recording.path), "--out", str(out)]
    assert main([*arguments, "--windows", "6", "--passes", "1"]) == 0

    printed = capsys.readouterr().out
    last_line = printed.strip().splitlines()[-1]
    assert str(out) in last_line
    assert last_line.endswith(f"worldsim play {world_path}")
    text = (out / "report.txt").read_text()
    for words in ("copy-last", "median", "moving", "action-shuffle ratio", "step     3: "):
        assert words in text
        assert words in printed

    report = json.loads((out / "report.json").read_text())
    assert list(report["horizons"]) == ["1", "8", "16", "32", "64"]
    for row in report["horizons"].values():
        for kind in ("psnr", "psnr_moving"):
            for name in ("world", "copy_last", "median"):
                assert 0 < row[f"{kind}_{name}"] < 59
    assert report["windows"] == 6
    assert report["num_passes"] == 1
    assert report["held_out_episodes"] == recording.split()[1]
    assert list(report["step_ms"]) == ["3", "20"]
    assert report["action_shuffle_ratio"] > 0

    with Image.open(out / "filmstrip.png") as picture:
        scale = 128 // SIDE
        # the frame given and 11 steps of 3 windows, real above and dreamed below
        assert picture.width > 12 * SIDE * scale
        assert picture.height > 6 * SIDE * scale
    assert sorted(path.name for path in out.iterdir()) == [
        "filmstrip.png",
        "report.json",
        "report.txt",
    ]


def test_only_held_out_episodes_are_measured(
    recording: Recording, world_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = recording.split()[1]
    seen: set[int] = set()
    read = Recording.windows

    def watch(self: Recording, episodes: list[int], starts: list[int], length: int) -> object:
        if length > 1:  # single frames are for the median
            seen.update(episodes)
        return read(self, episodes, starts, length)

    monkeypatch.setattr(Recording, "windows", watch)
    evaluate(EvalConfig(str(world_path), recording.path, out=tmp_path, windows=4))
    assert seen == set(held_out)


def test_same_seed_same_figures(recording: Recording, world_path: Path, tmp_path: Path) -> None:
    first, again, other = (
        evaluate(EvalConfig(str(world_path), recording.path, tmp_path, windows=4, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first["horizons"] == again["horizons"]
    assert first["action_shuffle_ratio"] == again["action_shuffle_ratio"]
    assert first["horizons"] != other["horizons"]


def test_says_whether_the_world_was_trained_on_the_recording(
    recording: Recording, world_path: Path, tmp_path: Path
) -> None:
    _, held_out = recording.split()
    assert not comes_from(make_tiny_world(), recording, held_out)
    world = trained_on(recording)
    assert comes_from(world, recording, held_out)
    world.save(tmp_path / "world")
    for path, known in ((tmp_path / "world", True), (world_path, False)):
        report = evaluate(EvalConfig(str(path), recording.path, windows=2))
        assert report["trained_on_this_recording"] is known
        text = (path / "eval" / "report.txt").read_text()  # the place for reports by default
        assert ("Note: the world's start windows are not among" in text) is not known


def trained_on(recording: Recording) -> WorldModel:
    """A world whose start windows come from held-out episodes, as training picks them."""
    world = make_tiny_world()
    _, held_out = recording.split()
    world.starts = recording.windows(held_out[:1] * 2, [-1, 5], world.window)
    return world


def test_unmeasurable_figures_are_null(world_path: Path, tmp_path: Path) -> None:
    """Nothing moves and nothing is chosen: no moving pixels, no shuffle ratio."""
    recording = write_tiny_recording(tmp_path / "still", still=True)
    evaluate(EvalConfig(str(world_path), recording.path, tmp_path, windows=2))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["action_shuffle_ratio"] is None
    assert report["horizons"]["1"]["psnr_moving_world"] is None
    assert report["horizons"]["1"]["psnr_copy_last"] == pytest.approx(58.9, abs=0.1)
    assert "undefined" in (tmp_path / "report.txt").read_text()


def test_world_and_recording_must_fit(recording: Recording, tmp_path: Path) -> None:
    make_tiny_world(make_tiny_game(frame_size=(32, 32))).save(tmp_path / "small")
    with pytest.raises(ValueError, match=r"32x32x3 frames .* has 16x16x3") as error:
        main([str(tmp_path / "small"), str(recording.path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "words"), [("--windows", "--windows must be 1"), ("--passes", "--passes must be 1")]
)
def test_options_out_of_range(option: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        main([str(tmp_path), str(tmp_path), option, "0"])


def test_missing_world_and_recording(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no world at"):
        main([str(tmp_path / "nowhere"), str(recording.path)])
    with pytest.raises(ValueError, match="nowhere"):
        main(["pong", str(tmp_path / "nowhere")])
