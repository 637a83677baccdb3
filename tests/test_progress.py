"""What a run says of how far it is, and how long its evaluations may take."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_train import arguments, make_config, read_lines
from tests.tiny_worlds import write_tiny_recording
from worldsim.train import dynamics, progress
from worldsim.train.config import main
from worldsim.train.dynamics import train
from worldsim.train.progress import TimeLeft, TrainProgress

pytestmark = pytest.mark.usefixtures("tiny_is_tinier")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_recording(tmp_path_factory.mktemp("recording"), steps=12).path


def test_the_remaining_time_is_shown_once_it_is_known() -> None:
    now = 100.0
    left = TimeLeft(clock=lambda: now)
    assert left.words(1e-9) == ""
    now = 103.0
    assert left.words(0.01) == ""
    now = 110.0
    assert left.words(1e-9) == ""
    assert left.words(0.5) == ", 0:10 left"


def test_the_first_line_of_training_has_no_remaining_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_TO_FIRST_LINE", 0.0)
    with TrainProgress() as bar:
        bar.show(1e-9, 1, [0.25], 48)
    assert capsys.readouterr().err == "  0%  step 1, loss 0.2500\n"


def test_losses_are_shown_as_they_become_known_with_the_frames_of_all_their_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "SECONDS_TO_FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with TrainProgress() as bar:
        for step, values in enumerate(([1.0], [], [], [math.nan, 4.0, 1.0]), 1):
            bar.show(1e-9, step, values, 10)
            now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "  0%  step 3, loss 1.0000"
    assert lines[3] == "  0%  step 4, loss 2.0000, 20 frames/s"


def test_the_last_evaluation_shows_its_progress(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "SECONDS_TO_FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_TO_SETTLE", 0.0)
    train(make_config(recording, tmp_path / "run", steps=1))
    said = [line for line in capsys.readouterr().err.splitlines() if "%  evaluating" in line]
    assert "left" not in said[0]
    assert said[1].endswith("left")
    assert len(said) > 5


def test_an_evaluation_on_the_way_takes_a_tenth_of_the_minutes_at_most(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        recording, tmp_path / "run", steps=None, minutes=0.005, **{"run.num_evals": 3}
    )
    assert train(config).ended == "finished"
    said = capsys.readouterr().err
    assert said.count("an evaluation takes over a tenth of the run") == 1
    evaluated = ["action_shuffle_ratio" in line for line in read_lines(tmp_path / "run")]
    assert sum(evaluated) == 1


def test_ctrl_c_in_the_last_evaluation_keeps_the_world_and_names_the_missing_part(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Interrupting(TrainProgress):
        @contextmanager
        def evaluating(self) -> Iterator[Callable[[float], None]]:
            with super().evaluating():
                yield lambda fraction: signal.raise_signal(signal.SIGINT)

    config = make_config(recording, tmp_path / "run", steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "TrainProgress", Interrupting)
        assert main(arguments(config)) == 130
    said = capsys.readouterr().out
    assert "step_00000001 keeps them; to evaluate it: worldsim train" in said
    assert main([*arguments(config), "--resume"]) == 0
    assert "trained 1 steps" in capsys.readouterr().out
