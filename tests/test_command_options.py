"""Options that no command takes: a sentence on stderr, status 2, nothing done, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_worlds import make_tiny_game, save_tiny_world, write_tiny_recording
from worldsim.__main__ import main

DIGITS = "9" * 20


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLDSIM_TRACEBACK", raising=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "record worldsim/Pong-v0 --seed X",
            "--seed must be a whole number from 0 to 4,294,967,295",
        ),
        (
            "train nowhere --out run --seed X",
            "--seed must be a whole number from 0 to 4,294,967,295",
        ),
        ("play pong --seed X", "--seed must be a whole number from 0 to 4,294,967,295"),
        ("demo --seed X", "--seed must be a whole number from 0 to 4,294,967,295"),
        ("agent pong --out run --seed X", "--seed must be a whole number from 0 to 4,294,967,295"),
        (
            "cost LTXPipeline --seconds 1e400",
            "--seconds must be a number above 0 and at most 86,400",
        ),
        ("bench pong --seconds 1e400", "--seconds must be a number above 0 and at most 86,400"),
        (
            "imagine words --num-inference-steps X",
            "--num-inference-steps must be a whole number from",
        ),
        (
            "cost LTXPipeline --num-inference-steps X",
            "--num-inference-steps must be a whole number",
        ),
        ("play pong --speed 1e-320", "--speed must be a number from 0.01 to 100, got 1e-320"),
        ("demo --seconds nan", "--seconds must be a number above 0 and at most 86,400, got nan"),
        (
            "record worldsim/Pong-v0 --ray there",
            "--ray must be auto, HOST:PORT or ray://HOST:PORT, got 'there'",
        ),
        ("train nowhere --out run --own-history 0.8", "--own-history is now --recipe.self-rollout"),
        ("agent pong --out run --evals 2", "--evals is now --num-evals"),
        ("eval pong nowhere --device x", "not a recording"),
        ("bench pong --device x", "the device 'x' cannot be used here"),
        ("bench pong --device meta", "the device 'meta' cannot be used here"),
        ("bench pong --device cuda:99", "the device 'cuda:99' cannot be used here"),
        ("play pong --start nowhere.png", "--start: there is no file nowhere.png"),
        ("eval pong nowhere --i3d nowhere.pt", "--i3d: there is no file nowhere.pt"),
    ],
)
def test_what_is_out_of_range_is_one_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([DIGITS if word == "X" else word for word in words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("worldsim: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "record worldsim/Pong-v0 --out FILE",
        "train nowhere --out FILE",
        "train nowhere --out FILE/run",
        "agent pong --out FILE",
        "eval pong nowhere --out FILE",
        "probe motion --out FILE",
        "play pong --record FILE",
        "play pong --screenshots FILE",
        "demo --no-window --out FILE",
        "demo --no-window --gif FOLDER",
        "imagine words --out FOLDER",
        "animate FILE --out FOLDER",
        "cost LTXPipeline --out FILE/cost.png",
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_done(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "FOLDER").mkdir()
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words.split()[-2] in said
    assert "not a folder" in said or "must be a f" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["FILE", "FOLDER"]


def test_a_batch_that_cannot_fit_is_refused_with_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_world(tmp_path / "world", game=make_tiny_game(frame_size=(256, 256)))
    for words, what in (
        ("demo --world world --no-window --seconds 86400", "a demo of 86,400.0 seconds"),
        ("bench world --batch-sizes 1000000000", "the cache of 1,000,000,000 lanes"),
    ):
        assert main(words.split()) == 2
        assert f"too little memory: {what} takes at least" in capsys.readouterr().err
    write_tiny_recording(tmp_path / "data", steps=12, episodes=3)
    for option in ("--optim.batch-size", "--model.window"):
        assert main(["train", "data", "--out", "run", option, "100000000"]) == 2
        said = capsys.readouterr().err
        assert "too little memory: a step of " in said
        assert "take a smaller --optim.batch-size or --model.window" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "world"]
