from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.tiny_worlds import save_tiny_world, write_tiny_recording
from worldsim.system import threads
from worldsim.train.bench import BenchConfig, bench, main
from worldsim.train.engine import Engine
from worldsim.train.speed import begin_run, train_step_cost


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
    lines = [line.split() for line in printed.splitlines() if "eager" in line]
    assert [line[1:3] for line in lines] == [["1", "2"], ["3", "2"]]
    assert max(map(len, printed.splitlines()[1:])) <= 80


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


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "square"
    write_tiny_recording(path, steps=12, episodes=3)
    return path


@pytest.mark.usefixtures("tiny_is_tinier")
def test_training_is_a_line_for_each_size_and_batch_size_also_where_memory_is_short(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--sizes", "tiny", "--batch-sizes", "1", "100000000", "2", "--seconds", "0.01"]
    assert main(["--train", str(recording), *sizes]) == 0
    printed = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(printed) if "optimizer" in line)
    few, too_many, more = printed[begin + 1 :]
    assert too_many.split() == ["tiny", "100,000,000", "too", "little", "memory"]
    for line, size in ((few, "1"), (more, "2")):
        assert len(line.split()) == len(printed[begin].split())
        assert line.split()[:2] == ["tiny", size]
    assert max(map(len, printed[1:])) <= 80


@pytest.mark.usefixtures("tiny_is_tinier")
def test_steps_that_are_timed_train_as_in_the_last_fifth_of_a_run(recording: Path) -> None:
    run = begin_run(recording, "tiny", 2, torch.device("cpu"), Engine(accumulate=2))
    before = {name: weights.clone() for name, weights in run.ema_world.named_parameters()}
    cost = train_step_cost(run, 0.01)
    assert list(cost.phases) == ["data", "forward", "backward", "optimizer"]
    assert all(ms > 0 for ms in cost.phases.values())
    assert 0.5 < sum(cost.phases.values()) / cost.whole < 2
    assert cost.frames == 2 * run.config.model.window
    assert cost.gflop > 0
    for name, weights in run.ema_world.named_parameters():
        assert not torch.equal(weights, before[name]), name
    # Half of the learning rate's decay is over then.
    lr = run.optimizers[0].param_groups[0]["lr"]
    assert lr == pytest.approx(run.config.optim.lr / 2, rel=0.01)


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "no world at 'nowhere': "),
        ([], "needs a world, such as pong, or --train RECORDING"),
        (["--train", "nowhere"], "nowhere is not a recording: "),
        (["pong", "--train", "data"], r"give a world \(pong\) or --train data, not both"),
        (["pong", "--engine.accumulate", "2"], "--engine.accumulate has no effect here: give"),
        (["--train", "data", "--engine.accumulate", "3"], "must divide --batch-sizes, got 3 and 4"),
        (["pong", "--sizes", "base"], "--sizes has no effect here: give --train RECORDING"),
        (["--train", "data", "--passes", "1"], "--passes has no effect here: leave it out"),
        (["--train", "data", "--sizes"], r"--sizes must be one or more, got \(\)"),
    ],
)
def test_what_cannot_be_timed(words: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        main(words)
