"""Training on several processes: real ones, joined by gloo on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import worldsim
from tests.distributed_runs import BY_PRECISION, TINIER, never
from tests.test_train import make_config, read_losses
from tests.tiny_worlds import write_tiny_recording
from worldsim.train import presets
from worldsim.train.dynamics import train
from worldsim.train.run_folder import list_checkpoints
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SIX = {"optim.batch_size": 6, "engine.accumulate": 6}  # parts: for 1, 2, 3 or 6 processes
THREE = {"optim.batch_size": 6, "engine.accumulate": 3, "run.num_evals": 1}
CLOSE = {"rel": 1e-4, "abs": 1e-6}  # sums of float32 in another order, over seven steps
# Runs that are compared train in float32 on every CPU: bfloat16 rounds a thousand times as much.


def command(num_processes: int, *words: str, restarts: int = 0) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={num_processes}", f"--max-restarts={restarts}"]
    return [*torchrun, "-m", *words]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def run_together(
    num_processes: int, recording: Path, runs: Mapping[Path, Mapping[str, Any]], **env: str
) -> None:
    """Train runs one after the other, each on all processes."""
    each = json.dumps([(str(out), changes) for out, changes in runs.items()])
    words = command(num_processes, "tests.distributed_runs", str(recording), each)
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def weights_of(world: WorldModel) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in world.state_dict().values()])


def assert_same_training(one: Path, other: Path) -> None:
    """The same losses at each step, and the same averaged world, up to rounding."""
    ours, theirs = read_losses(one), read_losses(other)
    assert ours.keys() == theirs.keys()
    for step in ours:
        assert ours[step] == pytest.approx(theirs[step], **CLOSE)
    weights = [weights_of(worldsim.load(run)) for run in (one, other)]
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distributed") / "square"
    write_tiny_recording(path, steps=12, episodes=6)
    return path


@pytest.fixture(scope="module")
def alone(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process: of six parts a step, and of three."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(presets.SIZES, "tiny", TINIER)
        for module in BY_PRECISION:
            monkeypatch.setattr(module, "has_fast_bfloat16", never)
        train(make_config(recording, folder / "six", **SIX))
        train(make_config(recording, folder / "three", **THREE))
    return folder


@pytest.fixture(scope="module")
def together(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, which are replicated and sharded; the second was stopped."""
    folder = tmp_path_factory.mktemp("together")
    part = {"engine.parallel": "fsdp", "stop_at": 3, **SIX}
    run_together(2, recording, {folder / "ddp": {**SIX}, folder / "part": part})
    return folder


def test_two_processes_train_as_one_does(together: Path, alone: Path) -> None:
    assert_same_training(together / "ddp", alone / "six")
    (checkpoint,) = list_checkpoints(together / "ddp")
    assert len(list((checkpoint / "training").iterdir())) == 2
    assert "2 processes of 1 thread" in worldsim.load(together / "ddp").card


def test_two_machines_replicate_what_each_shards_even_if_parts_are_fewer(
    recording: Path, alone: Path, tmp_path: Path
) -> None:
    changes = {"engine.parallel": "hsdp", "engine.activation_checkpointing": True, **THREE}
    # Four processes that are told of two on each machine.
    run_together(4, recording, {tmp_path / "hsdp": changes}, TEST_LOCAL_WORLD_SIZE="2")
    assert_same_training(tmp_path / "hsdp", alone / "three")
    lines = (tmp_path / "hsdp" / "metrics.jsonl").read_text().splitlines()
    assert sum("action_shuffle_ratio" in line for line in lines) == 2


@pytest.mark.usefixtures("tiny_is_tinier", "in_float32")
def test_a_sharded_run_goes_on_with_another_number_of_processes(
    recording: Path, together: Path, alone: Path, tmp_path: Path
) -> None:
    for name in ("one", "three"):
        shutil.copytree(together / "part", tmp_path / name)
        assert newest_step(tmp_path / name) == 3
    train(make_config(recording, tmp_path / "one", resume=True, **SIX))
    run_together(3, recording, {tmp_path / "three": {"resume": True, **SIX}})
    for name, count in {"one": 1, "three": 3}.items():
        assert_same_training(tmp_path / name, alone / "six")
        assert len(list((tmp_path / name).glob("step_00000007/training/*"))) == count


def test_a_killed_process_is_named_and_the_run_goes_on(recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", str(recording), "--out", str(run), "--steps", "100000", "--wandb", "disabled"]
    words += ["--run.num-evals", "0", "--run.save-minutes", "0.02", "--optim.batch-size", "2"]
    start = command(2, "worldsim", *words, restarts=1)
    with subprocess.Popen(
        start, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        wait_for_step(run, 1, process)
        first = kill(process.pid)
        step = newest_step(run)
        wait_for_step(run, step + 1, process)  # torchrun has begun again
        last, killed_at = kill(process.pid), time.monotonic()
        said = process.stderr.read()
        assert process.wait(60) != 0
        assert time.monotonic() - killed_at < 60
    for victim, todo in (
        (first, "torchrun begins again"),
        (last, "the same command with --resume"),
    ):
        where = f"{os.uname().nodename}, process id {victim}"
        assert (
            f"process 1 of 2 ({where}) ended or no longer answers, so the run stops: {todo}" in said
        )
    assert f"{run}, from step {step}" in said

    # One process goes on from there.
    step = newest_step(run)
    same = {"model.window": 12, "model.chance_bits": 0, "steps": step + 1}
    assert train(make_config(recording, run, resume=True, **same)).progress.step == step + 1


def newest_step(run: Path) -> int:
    checkpoints = list_checkpoints(run)
    return int(checkpoints[-1].name[5:]) if checkpoints else 0


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while newest_step(run) < step:
        assert process.poll() is None
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.2)


def kill(torchrun: int) -> int:
    """Kill process 1, and return its id."""
    children = psutil.Process(torchrun).children()
    victim = next(child for child in children if child.environ().get("RANK") == "1")
    victim.kill()
    return victim.pid
