from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.tiny_worlds import save_tiny_world
from worldsim.system import threads
from worldsim.train.bench import BenchConfig, bench, main


@pytest.fixture
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> object:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_chosen", False)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_command_prints_a_line_for_each_batch_size_and_number_of_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = save_tiny_world(tmp_path / "square")
    assert main([str(world), "--batch-sizes", "1", "3", "--passes", "2", "--seconds", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "GFLOP/s" in printed
    assert "1 thread of the CPU" in printed
    assert re.search(r"A lane keeps 0\.\d\d MB of past frames", printed)
    lines = [line.split("│") for line in printed.splitlines() if "eager" in line]
    assert [(line[2].strip(), line[3].strip()) for line in lines] == [("1", "2"), ("3", "2")]


@pytest.mark.usefixtures("_one_thread")
def test_arithmetic_grows_with_lanes_and_passes(tmp_path: Path) -> None:
    world = save_tiny_world(tmp_path / "square")
    costs = bench(BenchConfig(str(world), batch_sizes=(1, 4), passes=(1, 3), seconds=0.01))
    once = costs["eager", 1, 1]
    assert 0 < once.p50 <= once.p95
    assert once.peak_mb > 10
    for (_, size, passes), cost in costs.items():
        # but for the head, which looks once whatever the passes
        assert cost.gflop == pytest.approx(once.gflop * size * passes, rel=0.02)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch-sizes", "0"], "--batch-sizes must be a whole number from 1 to .*, got 0"),
        (["--passes", "2", "-1"], "--passes must be a whole number from 1 to 1,000, got -1"),
        (["--threads", "0"], r"--threads must be a whole number from 1 to \d+, got 0"),
        (["--seconds", "0"], r"--seconds must be a number above 0 and at most 86,400, got 0\.0"),
    ],
)
def test_settings_that_make_no_sense(options: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        main(["pong", *options])


def test_a_world_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        main(["nowhere"])
