from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tiny_worlds import (
    SIDE,
    make_tiny_game,
    make_tiny_world,
    write_pong_recording,
    write_tiny_recording,
)
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.eval.report import command, control, effort, events, speed, study
from worldsim.eval.report.command import EvalConfig, evaluate, main
from worldsim.eval.report.sections import SECTIONS, measure
from worldsim.eval.speed import step_latency
from worldsim.eval.unseen import unseen

GAME = make_tiny_game(action_meanings=("NOOP", "$\\frac{$", "<b>RIGHT"))
"""Its names, like that of the world below, are no formulas and no HTML."""


@pytest.fixture(autouse=True)
def _be_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "step_latency", partial(step_latency, rounds=1))
    brief = effort.QUICK._replace(
        horizon=16,
        flicker_windows=1,
        event_stretches=8,
        drift_bounds=(5, 20),
        shuffle_batches=2,
        inverse_steps=5,
        latency_steps=(3, 20),
    )
    monkeypatch.setattr(command, "QUICK", brief)
    monkeypatch.setattr(command, "FULL", brief._replace(windows=8))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("data") / "square", steps=80, game=GAME)


@pytest.fixture(scope="module")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "square$^$"
    make_tiny_world(GAME).save(path)
    return path


@pytest.fixture(scope="module")
def pong_recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_pong_recording(tmp_path_factory.mktemp("recordings") / "pong", steps=100)


def test_command_reports_as_page_text_json_and_image(
    recording: Recording, world_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = [str(world_path), str(recording.path), "--out", str(out), "--quick"]
    assert main([*arguments, "--windows", "6", "--passes", "1"]) == 0

    printed = capsys.readouterr().out
    last_line = printed.strip().splitlines()[-1]
    assert str(out) in last_line
    assert last_line.endswith(f"worldsim play {world_path}")
    text = (out / "report.txt").read_text()
    for words in ("copied", "median", "moving", "action-shuffle ratio", "step     3: "):
        assert words in text
        assert words in printed
    for section in SECTIONS:
        assert f"\n{section.title}: " in text
    assert "rewards and ends predicted up to 8 steps ahead" in text

    report = json.loads((out / "report.json").read_text())
    assert report["unseen_episodes"] == list(Split.of(recording, 0.1).held_out)
    assert "An older version wrote it without its training episodes" in " ".join(text.split())
    (figures,) = report["worlds"]
    horizons = figures["fidelity"]["horizons"]
    assert list(horizons) == ["1", "2", "4", "8", "16"]
    for row in horizons.values():
        for kind in ("psnr", "psnr_moving"):
            for name in ("world", "copy_last", "median"):
                value, low, high = row[kind][name]
                assert 0 < value < 59
                assert low is None or low <= value <= high
    assert "cannot be made here" in figures["fidelity"]["no_game_again"]
    assert figures["windows"] == 6
    assert figures["num_passes"] == 1
    assert list(figures["speed"]["step_ms"]) == ["3", "20"]
    assert figures["control"]["action_shuffle_ratio"] > 0
    assert set(figures["verdicts"]) == {section.key for section in SECTIONS}
    bins = figures["events"]["termination_reliability"]
    assert sum(one["steps"] for one in bins) == figures["events"]["steps"] > 0

    with Image.open(out / "filmstrip.png") as picture:
        scale = 128 // SIDE
        # the frame given and 7 steps of 3 windows, real above and imagined below
        assert picture.width > 8 * SIDE * scale
        assert picture.height > 6 * SIDE * scale
    assert sorted(path.name for path in out.iterdir()) == [
        "filmstrip.png",
        "report.html",
        "report.json",
        "report.txt",
    ]


@pytest.mark.slow
def test_page_needs_nothing_else_and_shows_worlds_side_by_side(
    recording: Recording, world_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "<other> & co"
    make_tiny_world(make_tiny_game(env_id="tests/Other-v0")).save(other)
    evaluate(
        EvalConfig(str(world_path), recording.path, (str(other),), tmp_path / "out", quick=True)
    )
    page = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert page.count("<video") == 2 * 3
    assert page.count('<svg class="chart"') >= len(SECTIONS)
    assert page.count("PSNR on moving pixels, 16 steps ahead") == 2  # the score of each
    for section in SECTIONS:
        assert f"<h2>{section.title}</h2>" in page
        assert f'<section class="card" id="{section.key}">' in page
    assert "&lt;other&gt; &amp; co" in page  # escaped
    assert "It is a world of another game, tests/Other-v0." in page
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [figures["world"] for figures in report["worlds"]] == [str(world_path), str(other)]


@pytest.mark.slow
def test_the_real_game_is_played_again_where_it_can_be(
    pong_recording: Recording, tmp_path: Path
) -> None:
    make_tiny_world(pong_recording.game).save(tmp_path / "world")
    report = evaluate(
        EvalConfig(str(tmp_path / "world"), pong_recording.path, quick=True, windows=2)
    )
    (figures,) = report["worlds"]
    row = figures["fidelity"]["horizons"]["8"]
    assert row["psnr"]["game_again"].value == pytest.approx(58.9, abs=0.1)  # no chance in it
    assert figures["fidelity"]["no_game_again"] == ""
    assert set(figures["control"]["effect_by_action"]) == {"world", "real"}
    text = (tmp_path / "world" / "eval" / "report.txt").read_text()
    assert "again" in text


@pytest.mark.slow
def test_only_held_out_episodes_are_measured(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    world = make_tiny_world()
    world.split = Split.of(recording, 0.3)
    world.save(tmp_path / "world")

    def watched(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            asked.append(args[2])
            return function(*args, **options)

        return call

    for owner, name in (
        (study, "choose_windows"),
        (control, "action_shuffle_ratio"),
        (events, "predict"),
    ):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    evaluate(EvalConfig(str(tmp_path / "world"), recording.path, windows=4))
    assert asked == [list(world.split.held_out)] * 3


@pytest.mark.slow
def test_same_seed_same_figures(recording: Recording) -> None:
    @contextmanager
    def stage(words: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: None

    world, brief = make_tiny_world(), command.QUICK._replace(windows=4)
    episodes = unseen([world], recording)
    judge = study.train_judge(recording, episodes.reference, brief, stage)
    first, again, other = (
        measure(
            study.begin_study("square", world, recording, episodes, judge, brief, stage, seed=seed)
        ).to_json()
        for seed in (0, 0, 1)
    )
    for figures in (first, again, other):
        del figures["speed"], figures["verdicts"]["speed"], figures["grades"]["speed"]
    assert json.dumps(first) == json.dumps(again)
    assert first["fidelity"] != other["fidelity"]


@pytest.mark.slow
def test_reports_which_episodes_the_world_was_trained_on(
    recording: Recording, tmp_path: Path
) -> None:
    world = make_tiny_world()
    world.split = Split.of(recording, 0.2)
    world.save(tmp_path / "world")
    report = evaluate(EvalConfig(str(tmp_path / "world"), recording.path, windows=2))
    assert report["unseen_episodes"] == list(world.split.held_out)
    seen = "It was trained on this recording with 1 episode held out."
    assert report["worlds"][0]["seen"] == seen
    out = tmp_path / "world" / "eval"  # the place for reports by default
    assert seen in (out / "report.txt").read_text()
    assert seen in (out / "report.html").read_text()


@pytest.mark.slow
def test_unmeasurable_figures_are_null(tmp_path: Path) -> None:
    """Nothing moves and nothing is chosen: no moving pixels, no shuffle ratio."""
    recording = write_tiny_recording(tmp_path / "still", still=True)
    world = make_tiny_world()
    world.background = recording.median_frame()
    world.save(tmp_path / "world")
    evaluate(EvalConfig(str(tmp_path / "world"), recording.path, out=tmp_path, windows=2))
    (figures,) = json.loads((tmp_path / "report.json").read_text())["worlds"]
    assert figures["control"]["action_shuffle_ratio"] is None
    row = figures["fidelity"]["horizons"]["1"]
    assert row["psnr_moving"]["world"][0] is None
    assert row["psnr"]["copy_last"][0] == pytest.approx(58.9, abs=0.1)
    assert figures["verdicts"]["control"].startswith("The recording's actions never differ")
    assert "undefined" in (tmp_path / "report.txt").read_text()


def test_world_and_recording_must_fit(recording: Recording, tmp_path: Path) -> None:
    make_tiny_world(make_tiny_game(channels=1)).save(tmp_path / "grey")
    with pytest.raises(ValueError, match=r"16x16x1 frames .* has 16x16x3") as error:
        main([str(tmp_path / "grey"), str(recording.path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [("--windows", "whole number from 1 to 2"), ("--passes", "whole number from 1 to 1,0")],
)
def test_options_out_of_range(option: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        main([str(tmp_path), str(tmp_path), option, "0"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "episodes", "changes"),
    [
        (40, 2, {}),
        (1, 4, {}),
        (3, 8, {}),
        (20, 4, {"channels": 1, "frame_size": (33, 33)}),
        (20, 4, {"action_meanings": ("NOOP",), "key_bindings": {}}),
    ],
)
def test_whatever_was_recorded_there_is_a_report_that_claims_nothing(
    steps: int, episodes: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    game = make_tiny_game(**changes)
    recorded = write_tiny_recording(tmp_path / "rec", steps=steps, episodes=episodes, game=game)
    world = make_tiny_world(game)
    world.split = Split.of(recorded, 0.3)
    world.save(tmp_path / "world")
    report = evaluate(EvalConfig(str(tmp_path / "world"), recorded.path, windows=2, quick=True))
    verdicts = report["worlds"][0]["verdicts"]
    grades = report["worlds"][0]["grades"]
    for section in ("fidelity", "flicker", "control", "stability", "memory"):
        assert grades[section] in ("unclear", "not measured"), verdicts[section]
    never = verdicts["control"].startswith("The recording's actions never differ")
    assert never == (steps == 1 or "action_meanings" in changes)


def test_missing_world_and_recording(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no world at"):
        main([str(tmp_path / "nowhere"), str(recording.path)])
    with pytest.raises(ValueError, match="nowhere"):
        main(["pong", str(tmp_path / "nowhere")])


def test_no_report_goes_through_a_link_in_the_worlds_folder(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "eval").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"eval is a link, and no report goes through one"):
        evaluate(EvalConfig(str(tmp_path / "world"), tmp_path / "recording"))
