"""The run's log: JSON lines always, wandb offline for real, and nothing that blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.train import wandb_log
from worldsim.train.run_log import RunLog
from worldsim.train.wandb_log import choose_wandb_mode, has_wandb_login


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine on which nobody is logged in to wandb, whatever this one knows."""
    for name in ("API_KEY", "MODE", "BASE_URL", "PROJECT", "ENTITY", "TAGS"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # it reads the environment once a process


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_figures_are_json_lines(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", {}, wandb="disabled") as log:
        log.log({"loss": torch.tensor(0.5), "frames": np.int64(12), "size": 3}, step=1)
        log.log({"loss": float("nan")}, step=2)
    first, second = read_lines(tmp_path / "run")
    assert {key: first[key] for key in ("step", "loss", "frames", "size")} == {
        "step": 1,
        "loss": 0.5,
        "frames": 12.0,
        "size": 3,
    }
    assert second["loss"] is None
    assert second["time"] >= first["time"]


def test_a_resumed_run_continues_and_drops_a_line_cut_by_a_kill(tmp_path: Path) -> None:
    with RunLog(tmp_path, {}, wandb="disabled") as log:
        log.log({"loss": 1.0}, step=1)
    with log.path.open("a") as file:
        file.write('{"step": 2, "lo')
    with RunLog(tmp_path, {}, wandb="disabled") as log:
        log.log({"loss": 0.5}, step=2)
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path)] == [(1, 1.0), (2, 0.5)]


def test_figures_survive_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from worldsim.train.run_log import RunLog\n"
        "log = RunLog(sys.argv[1], {}, wandb='disabled')\n"
        "log.log({'loss': 0.25}, step=7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert [line["loss"] for line in read_lines(tmp_path)] == [0.25]


def test_a_figure_must_be_one_number(tmp_path: Path) -> None:
    with (
        RunLog(tmp_path, {}, wandb="disabled") as log,
        pytest.raises(TypeError, match="one number, got Tensor for 'loss'"),
    ):
        log.log({"loss": torch.zeros(2)}, step=1)


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from worldsim.train.run_log import RunLog\n"
        "log = RunLog(sys.argv[1], {}, wandb='disabled')\n"
        "log.log({'loss': 1.0}, step=1)\n"
        "log.finish()\n"
        "sys.exit('wandb' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


@pytest.mark.slow
def test_auto_without_a_login_is_a_real_offline_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")
    from worldsim.media import write_mp4

    video = tmp_path / "rollout.mp4"
    write_mp4(video, np.zeros((3, 16, 16, 3), np.uint8), fps=5, scale=1)
    with RunLog(tmp_path / "run", {"size": "tiny", "out": tmp_path}, name="first") as log:
        assert log.mode == "offline"
        log.log({"loss/tau_0.1": 0.5}, step=3)
        log.log_video("rollout", video, step=3)
    wandb.teardown()  # as at the end of a process: waits until its files are written
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (binary,) = kept.glob("*.wandb")
    assert b"loss/tau_0.1" in binary.read_bytes()
    assert b"first" in binary.read_bytes()
    assert list(kept.glob("files/media/videos/rollout*.mp4"))
    assert [line["step"] for line in read_lines(tmp_path / "run")] == [3, 3]
    assert f"wandb sync {kept}" in capsys.readouterr().out
    log.finish()  # a second call does nothing


def offline_run(run_dir: Path, **options: Any) -> bytes:
    """Everything that wandb keeps of a run."""
    wandb = pytest.importorskip("wandb")
    with RunLog(run_dir, {}, note=lambda _: None, **options) as log:
        log.log({"loss": 1.0}, step=1)
    wandb.teardown()
    (binary,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    return binary.read_bytes()


def test_project_entity_and_tags_are_those_given_or_those_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "their-project")
    monkeypatch.setenv("WANDB_ENTITY", "their-team")
    monkeypatch.setenv("WANDB_TAGS", "their-tag,other-tag")
    theirs = offline_run(tmp_path / "theirs")
    for word in (b"their-project", b"their-team", b"their-tag", b"other-tag"):
        assert word in theirs
    ours = offline_run(
        tmp_path / "ours",
        wandb_project="our-project",
        wandb_entity="our-team",
        wandb_tags=("our-tag", "its-twin"),
    )
    for word in (b"our-project", b"our-team", b"our-tag", b"its-twin"):
        assert word in ours
    assert b"their-project" not in ours


def test_tensorboard_gets_figures_and_videos_and_continues_a_resumed_run(
    tmp_path: Path,
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from worldsim.media import write_mp4

    video = write_mp4(tmp_path / "rollout.mp4", np.zeros((7, 16, 16, 3), np.uint8), fps=5, scale=1)
    run = tmp_path / "run"
    for steps in ((3, 6, 9), (6, 12)):  # the second goes on from step 5
        with RunLog(run, {"size": "tiny"}, log=("tensorboard",)) as log:
            assert log.mode == "disabled"
            for step in steps:
                log.log({"loss/tau_0.1": 1 / step, "lr": float("nan")}, step=step)
            log.log_video("rollout", video, step=steps[-1])
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss/tau_0.1", "lr"]
    shown = [(event.step, event.value) for event in events.Scalars("loss/tau_0.1")]
    assert [step for step, _ in shown] == [3, 6, 12]
    np.testing.assert_allclose([value for _, value in shown], [1 / 3, 1 / 6, 1 / 12])
    *_, shown_video = events.Images("rollout")
    assert (shown_video.step, shown_video.width, shown_video.height) == (12, 16, 16)
    assert shown_video.encoded_image_string.startswith(b"GIF89a")
    assert len(read_lines(run)) == 7


def test_a_missing_tensorboard_is_reported_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="tensorboard"):
        RunLog(tmp_path / "run", {}, log=("tensorboard",))
    assert not (tmp_path / "run").exists()


def test_figures_are_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="is a link"):
        RunLog(tmp_path / "run", {}, wandb="disabled")
    assert (tmp_path / "victim").read_text() == "kept"


def test_online_without_a_network_falls_back_with_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_log, "INIT_TIMEOUT_SECONDS", 1.0)
    notes: list[str] = []
    log = RunLog(tmp_path, {}, wandb="online", note=notes.append)
    assert log.mode == "offline"
    assert len(notes) == 1
    assert "this run is logged offline" in notes[0]
    log.log({"loss": 1.0}, step=1)
    log.finish()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_without_wandb_the_note_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    notes: list[str] = []
    with RunLog(tmp_path, {}, note=notes.append) as log:
        log.log({"loss": 1.0}, step=1)
    assert len(notes) == 1
    assert "`pip install wandb`" in notes[0]
    assert len(read_lines(tmp_path)) == 1


def test_a_login_is_found_in_the_environment_and_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_wandb_login()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_wandb_login()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_wandb_login()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_wandb_login()


def test_modes_follow_the_login_and_never_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    assert choose_wandb_mode("auto", notes.append) == "offline"
    assert notes == []
    assert choose_wandb_mode("online", notes.append) == "offline"
    assert len(notes) == 1
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert choose_wandb_mode("auto", notes.append) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_wandb_mode("auto", notes.append) == "disabled"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="got 'sometimes'"):
        choose_wandb_mode("auto", notes.append)
    with pytest.raises(ValueError, match=r"one of online, offline, disabled, auto, got 'of'"):
        choose_wandb_mode("of", notes.append)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "wandb_id.txt", "wandb", "tensorboard", "videos"]
)
def test_nothing_is_logged_through_a_link(tmp_path: Path, name: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    (run / name).symlink_to(victim)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        RunLog(run, {}, wandb="offline")
    assert not victim.exists()


def test_another_name_of_the_log_keeps_what_it_had(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", {}, wandb="disabled") as log:
        log.log({"loss": 1.0}, step=1)
    backup = tmp_path / "backup"
    os.link(log.path, backup)
    before = backup.read_bytes()
    with RunLog(tmp_path / "run", {}, wandb="disabled") as log:
        log.log({"loss": 0.5}, step=2)
    assert backup.read_bytes() == before
    assert [line["step"] for line in read_lines(tmp_path / "run")] == [1, 2]
