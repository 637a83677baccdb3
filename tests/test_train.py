"""Training, by real runs of a few steps: how they end, go on again, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import worldsim
from tests.tiny_worlds import losses_by, make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.system.options import options_of
from worldsim.system.settings import with_values
from worldsim.train import dynamics
from worldsim.train import run as run_module
from worldsim.train.config import TrainConfig, main
from worldsim.train.dynamics import train
from worldsim.train.objective import encode
from worldsim.train.presets import begin_from
from worldsim.train.progress import TrainProgress
from worldsim.train.recipe import Recipe
from worldsim.train.run_folder import list_checkpoints

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "square"
    write_tiny_recording(path, steps=12, episodes=6, settings={"player": "\x1b[2J a stranger"})
    return path


def make_config(recording: Path, out: Path, **changes: Any) -> TrainConfig:
    """A small run. Its settings are named as in a file: ``**{"optim.lr": 0.1}``."""
    values: dict[str, Any] = {"steps": 7, "model.window": 4, "optim.lr": 4e-3}
    values |= {"optim.batch_size": 2, "optim.warmup_steps": 2, "wandb": "disabled"}
    values |= {"model.chance_bits": 3, "run.log_steps": 3, "run.num_evals": 0, **changes}
    config = TrainConfig((recording,), out)
    assert values.keys() <= {option.name for option in options_of(TrainConfig, config)}
    return with_values(config, values)


def arguments(config: TrainConfig) -> list[str]:
    """The words after `worldsim train` that make this run."""
    return shlex.split(config.command())[2:] + ["--resume"] * config.resume


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_losses(run: Path) -> dict[int, dict[str, float]]:
    """The logged losses by step; where a run went back, the later line counts."""
    return {
        line["step"]: {key: line[key] for key in line if key.startswith("loss/") or key == "lr"}
        for line in read_lines(run)
        if "loss/frame" in line
    }


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: raw weights, optimizer state, averaged weights."""
    files = (
        "training/shard-00001-model-00001-of-00001",
        "head",
        "model/diffusion_pytorch_model",
    )
    return {
        f"{file}:{name}": tensor
        for file in files
        for name, tensor in load_file(checkpoint / f"{file}.safetensors").items()
    }


def assert_same_tensors(one: Path, other: Path) -> None:
    ours, theirs = read_tensors(one), read_tensors(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def send_at(
    monkeypatch: pytest.MonkeyPatch, step: int, *signals: signal.Signals
) -> Callable[[], None]:
    """Let real signals arrive at the end of a step; returns what takes that back."""

    class Interrupting(TrainProgress):
        def show(self, fraction: float, at: int, values: Sequence[float], frames: int) -> None:
            super().show(fraction, at, values, frames)
            if at == step:
                for signum in signals:
                    signal.raise_signal(signum)

    monkeypatch.setattr(dynamics, "TrainProgress", Interrupting)
    return lambda: monkeypatch.setattr(dynamics, "TrainProgress", TrainProgress)


def test_a_finished_run_is_a_world_with_card_figures_and_images(
    recording: Path, tmp_path: Path
) -> None:
    config = make_config(recording, tmp_path / "run", **{"run.num_evals": 1})
    ended, checkpoint, progress = train(config)
    assert (ended, checkpoint.name, progress.step) == ("finished", "step_00000007", 7)

    world = worldsim.load(tmp_path / "run")
    assert config.command() in world.card
    assert "| 8 |" in world.card
    assert "player \\x1b[2J a stranger" in world.card  # which clears no terminal
    assert world.metrics["horizons"]["8"]["psnr_moving_world"] > 0
    assert world.metrics["action_shuffle_ratio"] > 0
    assert (checkpoint / "filmstrip.png").stat().st_size > 1000
    rollout = worldsim.Rollout(world)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], [0])
    assert rollout.step(np.array([1])).frames.shape == (1, 16, 16, 3)

    lines = read_lines(tmp_path / "run")
    logged = {key for line in lines for key in line}
    assert {"loss/tau_0.00", "loss/tau_0.75", "frames_per_second", "lr"} <= logged
    for player in ("world", "copy_last", "median"):
        assert f"horizon_8/psnr_moving_{player}" in logged
    assert sum("action_shuffle_ratio" in line for line in lines) == 2
    videos = [line["rollout"] for line in lines if "rollout" in line]
    assert len(videos) == 2
    assert all(Path(video).stat().st_size > 500 for video in videos)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_continues_bit_for_bit_like_one_that_was_not(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
) -> None:
    monkeypatch.setattr(run_module, "CODE_SHARE_STEPS", 2)
    changes = {"engine.accumulate": 2}
    whole = train(make_config(recording, tmp_path / "whole", **changes))
    let_run = send_at(monkeypatch, 5, signum)
    monkeypatch.setitem(run_module.READ_AHEAD, "cpu", 2)  # the same windows
    stopped = train(make_config(recording, tmp_path / "parts", **changes))
    assert (stopped.ended, stopped.progress.step) == ("stopped", 5)
    assert list(read_losses(tmp_path / "parts")) == [3]
    let_run()
    resumed = train(make_config(recording, tmp_path / "parts", resume=True, **changes))
    assert (resumed.ended, resumed.progress.step) == ("finished", 7)
    assert_same_tensors(whole.checkpoint, resumed.checkpoint)
    assert read_losses(tmp_path / "parts") == read_losses(tmp_path / "whole")
    assert list(read_losses(tmp_path / "whole")) == [3, 6, 7]


def test_a_second_ctrl_c_stops_at_once(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setitem(run_module.READ_AHEAD, "cpu", 2)
    send_at(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(recording, tmp_path / "run"))
    assert list_checkpoints(tmp_path / "run") == []
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(each.name.startswith("read ahead") for each in threading.enumerate())


def test_a_run_stopped_in_its_last_evaluation_only_needs_that(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(recording, tmp_path / "run", steps=2)
    let_run = send_at(monkeypatch, 2, signal.SIGINT)
    stopped = train(config)
    assert (stopped.ended, stopped.progress.step) == ("stopped", 2)
    weights = read_tensors(stopped.checkpoint)
    let_run()
    ended, checkpoint, _ = train(dataclasses.replace(config, resume=True))
    assert (ended, checkpoint) == ("finished", stopped.checkpoint)
    assert torch.equal(
        read_tensors(checkpoint)["head:reward.weight"], weights["head:reward.weight"]
    )
    assert worldsim.load(checkpoint).card


def test_the_command_prints_how_a_run_ended_and_the_next_command(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "my run"
    config = make_config(recording, run)
    let_run = send_at(monkeypatch, 5, signal.SIGINT)
    assert main(arguments(config)) == 130
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"stopped after 5 steps: {run}/step_00000005 ")
    let_run()

    # What the line says is enough: the run remembers its own settings.
    command = shlex.split(line.partition("to continue: ")[2])
    assert command[:2] == ["worldsim", "train"]
    assert main(command[2:]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("trained 7 steps in ")
    assert line.endswith(f"{run}/step_00000007; next: worldsim play {shlex.quote(str(run))}")

    assert main(command[2:]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("this run was finished already, after 7 steps")
    assert main([*command[2:], "--steps", "8"]) == 0
    assert "trained 8 steps" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"already holds a run \(step_00000008\): add --resume"):
        main(arguments(config))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = {"optim.lr": 1e6, "optim.warmup_steps": 0, "run.save_minutes": 0.0}
    config = make_config(recording, run, **changes)
    assert main(arguments(config)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("worldsim: the loss or its gradient is ")
    (checkpoint,) = list_checkpoints(run)
    assert f"the last good checkpoint is {checkpoint}" in error
    assert all(bool(t.isfinite().all()) for t in read_tensors(checkpoint).values())
    assert main([*arguments(config), "--resume", "--optim.lr", "0.001"]) == 0
    assert worldsim.load(run).card


def test_minutes_end_a_run_and_resumed_time_counts(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(recording, tmp_path / "run", steps=None, minutes=0.01)
    ended, checkpoint, progress = train(config)
    assert ended == "finished"
    assert progress.step >= 1
    assert 0.6 <= progress.seconds < 60

    config = dataclasses.replace(config, out=tmp_path / "parts", minutes=60.0)
    let_run = send_at(monkeypatch, 3, signal.SIGTERM)
    checkpoint = train(config).checkpoint
    let_run()
    path = checkpoint / "training.json"
    about = json.loads(path.read_text())
    assert about["seconds"] > 0
    path.write_text(json.dumps({**about, "seconds": 3600.0}))
    ended, _, progress = train(dataclasses.replace(config, resume=True))
    assert (ended, progress.step) == ("finished", 3)
    assert progress.seconds >= 3600


def test_the_settings_of_a_run_repeat_it(recording: Path, tmp_path: Path) -> None:
    changes = {"steps": 3, "seed": 5, "recipe.object_focus": (0.6, 0.15), "run.log_steps": 1}
    one = train(make_config(recording, tmp_path / "one", **changes))
    words = [str(recording), "--out", str(tmp_path / "other")]
    assert main([*words, "--config", str(tmp_path / "one" / "config.toml")]) == 0
    assert len(read_losses(tmp_path / "one")) == 3
    assert read_losses(tmp_path / "one") == read_losses(tmp_path / "other")
    assert_same_tensors(one.checkpoint, tmp_path / "other" / one.checkpoint.name)
    files = [(tmp_path / run / "config.toml").read_text() for run in ("one", "other")]
    assert files[0] == files[1]


def test_one_episode_is_too_few(tmp_path: Path) -> None:
    write_tiny_recording(tmp_path / "one", episodes=1)
    with pytest.raises(ValueError, match="has one episode, but two are needed"):
        train(make_config(tmp_path / "one", tmp_path / "run"))


def test_a_run_cannot_be_resumed_as_another_model(recording: Path, tmp_path: Path) -> None:
    config = make_config(recording, tmp_path / "run", steps=1)
    train(config)
    other = with_values(config, {"steps": 2, "model.patch_size": (4,), "resume": True})
    with pytest.raises(ValueError, match="its patch_size is 8, this run's is 4: resume with"):
        train(other)


@pytest.mark.slow
def test_a_run_may_begin_from_another_world(tmp_path: Path) -> None:
    torch.manual_seed(1)
    given = make_tiny_world()
    given.save(tmp_path / "given")
    world = make_tiny_world(chance_bits=3)
    torch.nn.init.normal_(world.dit.embed.weight)
    fresh = {name: tensor.clone() for name, tensor in world.state_dict().items()}
    begin_from(world, str(tmp_path / "given"))
    for name, tensor in world.state_dict().items():
        expected = given.state_dict().get(name, fresh[name])
        assert torch.equal(tensor, expected), name
    with pytest.raises(ValueError, match="other shapes: take its --size"):
        begin_from(make_tiny_world(width=64), str(tmp_path / "given"))


def test_as_a_program_it_imports_nothing_that_it_does_not_use(
    recording: Path, tmp_path: Path
) -> None:
    words = arguments(make_config(recording, tmp_path / "run", steps=1))
    script = (
        "import sys, worldsim.train.dynamics\n"
        "early = {'wandb', 'pygame', 'av'} & set(sys.modules)\n"
        "from worldsim.__main__ import main\n"
        "status = main(['train', *sys.argv[1:]])\n"
        "late = {'wandb', 'pygame'} & set(sys.modules)\n"
        "sys.exit(f'imported {early | late}' if early | late else status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"next: worldsim play {tmp_path / 'run'}")


def test_a_step_in_bf16_as_on_a_gpu_has_gradients_everywhere(
    recording: Path, tmp_path: Path
) -> None:
    checkpoint = train(make_config(recording, tmp_path / "run", steps=1)).checkpoint
    world = worldsim.load(checkpoint).train()  # chance codes learn too
    windows = Recording(recording).sample_windows(np.random.default_rng(0), 2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_by(world, encode(world, windows), Recipe(self_rollout=1.0))
    losses.total().backward()
    for name, weights in world.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.dtype == torch.float32
        assert bool(weights.grad.isfinite().all()), name


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    deadline = time.monotonic() + 300
    while not list_checkpoints(run)[1:]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_the_program_survives_a_kill_and_obeys_ctrl_c(recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_config(recording, run, steps=5000, **{"run.save_minutes": 0.0})
    program = [sys.executable, "-m", "worldsim", "train"]
    words = [*program, *arguments(config)]
    for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_checkpoint(process, run)
        process.send_signal(signum)
        out, errors = process.communicate()
        if signum == signal.SIGKILL:
            assert process.returncode == -signum
        else:
            assert process.returncode == 130, errors
            assert out.startswith("stopped after "), errors
            assert out.endswith(f"to continue: worldsim train {recording} --out {run} --resume\n")
        words = [*program, str(recording), "--out", str(run), "--resume"]
        # Two checkpoints stay; the next round waits for a newer one.
        shutil.rmtree(list_checkpoints(run)[0])
    step = int(list_checkpoints(run)[-1].name[5:])
    done = subprocess.run(
        [*words, "--steps", str(step + 1)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"trained {step + 1:,} steps in ")


@pytest.mark.slow
def test_wandb_offline_gets_every_figure_and_the_video(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    train(make_config(recording, tmp_path / "run", wandb="auto"))
    wandb.teardown()
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (binary,) = kept.glob("*.wandb")
    content = binary.read_bytes()
    for name in (
        "loss/tau_0.50",
        "frames_per_second",
        "action_shuffle_ratio",
        "horizon_8/psnr_world",
        "horizon_8/psnr_copy_last",
        "horizon_8/psnr_moving_median",
    ):
        assert name.encode() in content
    assert list(kept.glob("files/media/videos/rollout*.mp4"))
