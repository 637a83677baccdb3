"""Locations on the command line: a URL stays one, all else is a path, and no URL is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.data.writer import RecordingWriter
from worldsim.envs.record import main as record
from worldsim.eval.report.command import EvalConfig
from worldsim.game.config import GameConfig
from worldsim.system.command_line import parse
from worldsim.system.location import Location, as_location
from worldsim.train.bench import BenchConfig
from worldsim.train.config import TrainConfig


@pytest.mark.parametrize(
    ("word", "location"),
    [
        ("s3://bucket/pong", "s3://bucket/pong"),
        ("zip://pong::s3://bucket/all.zip", "zip://pong::s3://bucket/all.zip"),
        ("recordings/pong/", Path("recordings/pong")),
        ("recordings//pong", Path("recordings/pong")),
        ("file:///data/pong", Path("/data/pong").absolute()),
    ],
)
def test_a_url_is_read_as_it_is_and_all_else_as_a_path(word: str, location: Location) -> None:
    assert as_location(word) == location
    train = parse(TrainConfig, [word, "--out", "run"], "worldsim train")
    assert train.recording == location
    assert train.command() == f"worldsim train {location} --out run"
    assert train.settings()["recordings"] == (str(location),)
    assert parse(EvalConfig, ["pong", word], "worldsim eval").recording == location
    assert parse(BenchConfig, ["--train", word], "worldsim bench").train == location


def test_what_is_written_is_on_this_machine() -> None:
    url = "s3://bucket/pong"
    with pytest.raises(ValueError, match=rf"got {url}: .* as by aws s3 sync FOLDER {url}"):
        parse(TrainConfig, ["recording", "--out", url], "worldsim train")
    with pytest.raises(ValueError, match="as by aws s3 sync FOLDER"):
        record(["worldsim/Pong-v0", "--steps", "10", "--out", url])
    game = GameConfig("worldsim/Pong-v0", frame_size=(8, 8), action_meanings=("NOOP",))
    with pytest.raises(ValueError, match=r"got gs://bucket/pong: .* gcloud storage rsync"):
        RecordingWriter("gs://bucket/pong", game)
    assert not Path("s3:").exists()
