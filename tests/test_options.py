"""Options: one check by type, in a sentence that says the rule and the value."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import tyro

from tests.edits import ordinary_user
from worldsim.system.command_line import parse
from worldsim.system.options import (
    Count,
    Fraction,
    InFile,
    Number,
    OutFolder,
    OutVideo,
    Part,
    Passes,
    Positive,
    Seconds,
    Seed,
    check_options,
    check_value,
)
from worldsim.system.settings import with_values
from worldsim.train import agent_config
from worldsim.train.run_log import Logging


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Positive = 0.1
    """A rate."""


@dataclasses.dataclass(frozen=True)
class Settings:
    name: tyro.conf.Positional[str]
    """A name."""
    seed: Seed = 0
    """A seed."""
    num_frames: Count | None = None
    """A count."""
    batch_sizes: tuple[Count, ...] = (1, 2)
    """Counts."""
    frame_size: tuple[Count, Count] | None = None
    """Two counts."""
    share: Fraction = 0.5
    """A fraction."""
    free: float = 0.0
    """Any number."""
    kind: Literal["a", "b"] = "a"
    """One of two."""
    again: bool = False
    """Yes or no."""
    out: OutFolder = Path()
    """A folder."""
    inner: Inner = dataclasses.field(default_factory=Inner)
    """More."""


def read(*argv: str) -> Settings:
    return parse(Settings, argv, "worldsim try")


def test_what_is_in_range_is_read_as_it_is(tmp_path: Path) -> None:
    assert read("pong") == Settings("pong")
    read_settings = read(
        *("päng", "--seed", "4294967295", "--num-frames", "3", "--batch-sizes", "7", "8", "9"),
        *("--frame-size", "4", "5", "--share", "1", "--out", str(tmp_path / "new" / "folder")),
        *("--inner.rate", "1e-300"),
    )
    assert (read_settings.seed, read_settings.batch_sizes) == (2**32 - 1, (7, 8, 9))
    assert read_settings.inner.rate == 1e-300
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--seed", "-1"], "--seed must be a whole number from 0 to 4,294,967,295, got -1"),
        (["--seed", "9" * 20], f"--seed must be .*, got {'9' * 20}"),
        (["--num-frames", "0"], "--num-frames must be a whole number from 1 to 2,147,483,647"),
        (["--batch-sizes", "4", "0"], "--batch-sizes must be a whole number from 1 to .*, got 0"),
        (["--batch-sizes"], r"--batch-sizes must be one value or more, got \(\)"),
        (["--frame-size", "4", "-5"], "--frame-size must be .*, got -5"),
        (["--share", "1.5"], r"--share must be a number from 0 to 1, got 1\.5"),
        (["--share", "nan"], "--share must be a number from 0 to 1, got nan"),
        (["--free", "1e400"], "--free must be a number that is finite, got inf"),
        (["--free", "nan"], "--free must be a number that is finite, got nan"),
        (["--inner.rate", "0"], r"--inner\.rate must be a number above 0 and at most 1,000,000"),
        (["--out", ""], "--out is empty: give it a path, or leave it out"),
        (["--out="], "--out is empty"),
        (["--out", "a\nb"], "--out must be text without control characters, got 'a.nb'"),
        (["--out", "a\0b"], "--out must be text without control characters, got 'a.x00b'"),
        (["--out", "x" * 5000], "--out: 'xxx.*xxx' cannot be used: File name too long"),
    ],
)
def test_what_is_out_of_range_is_a_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^{sentence}") as caught:
        read("pong", *argv)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_a_name_with_controls_is_refused_and_one_of_joined_characters_is_not() -> None:
    assert read("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}").name
    for name in ("a\x1b[2J", "a\0", "a\udcff"):
        with pytest.raises(ValueError, match=r"^NAME must be text without control characters"):
            read(name)


def test_settings_made_elsewhere_are_checked_by_type_too() -> None:
    check_options(Settings("pong", seed=np.int64(3), share=np.float32(0.5)))
    wrong: dict[str, Any] = {"seed": 1.0, "share": "x", "kind": "c", "again": 1}
    for field, value in wrong.items():
        with pytest.raises(ValueError, match=rf"^--{field} must be .*, got {value!r}$"):
            check_options(dataclasses.replace(Settings("pong"), **{field: value}))
    with pytest.raises(ValueError, match=r"--seed must be a whole number .*, got True"):
        check_options(Settings("pong", seed=True))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Seed, [0, 2**32 - 1], [-1, 2**32, 0.0, math.nan, None, "1"]),
        (Count, [1, 2**31 - 1], [0, 2**31, 1.5]),
        (Number, [0], [-1]),
        (Passes, [1, 1000, np.int32(4)], [0, 1001, 1.5, 10**30]),
        (Part, [1e-9, 0.5], [0, 1, math.nan]),
        (Seconds, [1e-300, 86_400], [0, -1, math.inf, math.nan, 86_401]),
        (Positive | None, [None, 1], [0.0]),
        (Annotated[str, "no mark of ours"], ["", "x"], [1]),
    ],
)
def test_each_type_has_its_stated_limits(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_value("value", value, annotation)
    for value in bad:
        with pytest.raises(ValueError, match=r"^value must be "):
            check_value("value", value, annotation)


@pytest.mark.parametrize("written", ["{", "[]", '{"lr": "fast"}', '{"steps": 0}', '{"log": [5]}'])
def test_an_agent_with_damaged_settings_is_not_gone_on_with(tmp_path: Path, written: str) -> None:
    (tmp_path / "agent.json").write_text(written)
    with pytest.raises(ValueError, match=r"agent\.json is damaged") as error:
        agent_config.main(["pong", "--out", str(tmp_path), "--resume"])
    assert "\n" not in str(error.value)


def test_written_values_go_on_as_they_were_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    begun = agent_config.AgentConfig("pong", tmp_path, logging=Logging(("wandb", "tensorboard")))
    begun = dataclasses.replace(begun, ppo=agent_config.PPOOptions(lr=0.1))
    fresh = agent_config.AgentConfig("maze", tmp_path / "other")
    written = {**json.loads(json.dumps(begun.settings())), "of_an_older_version": 1}
    kept = with_values(fresh, written, keep=("world", "out"))
    assert kept == dataclasses.replace(begun, world="maze", out=tmp_path / "other")


def test_a_place_is_checked_before_anything_is_done(tmp_path: Path) -> None:
    file = tmp_path / "file.mp4"
    file.touch()
    check_value("out", tmp_path / "new" / "video.mp4", OutVideo)
    check_value("out", file, OutVideo)
    check_value("out", file, InFile)
    for path, annotation, sentence in (
        (tmp_path, OutVideo, "out must be a file, and .* is a folder: name a file in it"),
        (file, OutFolder, "out must be a folder, and .* is a file: name another place"),
        (file / "run", OutFolder, r"out: .*run cannot be written: .*mp4 is not a folder"),
        (tmp_path / "video.json", OutVideo, r"out must end in \.mp4, got"),
        (tmp_path / "none.png", InFile, r"out: there is no file .*none\.png"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_value("out", path, annotation)
    assert sorted(tmp_path.iterdir()) == [file]


def test_what_this_user_may_not_write_or_read_is_named(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir(mode=0o555)
    file.touch(mode=0o200)
    with ordinary_user(tmp_path):
        with pytest.raises(ValueError, match=f"this user may not write {folder}$"):
            check_value("out", folder / "a" / "b", OutFolder)
        with pytest.raises(ValueError, match=f"{file} may not be read by this user$"):
            check_value("start", file, InFile)
