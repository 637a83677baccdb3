"""Checkpoints: whole or not there, and complete."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import worldsim
from tests.edits import edit_json
from tests.tiny_worlds import make_tiny_world
from worldsim.system.files import checksum
from worldsim.train.checkpoint import (
    CheckpointWriter,
    load_checkpoint,
    read_losses,
)
from worldsim.train.config import TrainConfig, resumed_config
from worldsim.train.objective import Losses
from worldsim.train.optimizers import block_matrices, make_optimizers
from worldsim.train.run_folder import (
    RunProgress,
    alone,
    find_checkpoint,
    list_checkpoints,
    read_progress,
)
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

SHARD = "training/shard-00001-model-00001-of-00001.safetensors"
SETTINGS = {"lr": 0.001, "recording": "recordings/pong"}


class State:
    """Worlds and optimizers as a run has them, of which no two numbers are alike."""

    def __init__(self, seed: int, num_updates: int = 2) -> None:
        self.world, self.ema_world = make_tiny_world(), make_tiny_world()
        self.generator = torch.Generator().manual_seed(seed)
        for world in (self.world, self.ema_world):
            for tensor in world.parameters():
                tensor.data = torch.randn(tensor.shape, generator=self.generator)
        self.optimizers = make_optimizers(self.world, block_matrices(self.world), weight_decay=0.01)
        for _ in range(num_updates):
            self.update()
        shape = (2, 3)
        self.unlogged = [
            Losses(*(torch.randn(shape, generator=self.generator) for _ in Losses._fields))
            for _ in range(2)
        ]

    def update(self) -> None:
        for tensor in self.world.parameters():
            tensor.grad = torch.randn(tensor.shape, generator=self.generator)
        for optimizer in self.optimizers:
            optimizer.step()

    def save(self, run: Path, step: int) -> Path:
        progress = RunProgress(step=step, seconds=1.5 * step, evals=1)
        whole = copy.deepcopy(self.ema_world)
        with CheckpointWriter(run, self.world, self.ema_world, self.optimizers, whole) as writer:
            writer.begin(progress, SETTINGS, self.unlogged)
            path = writer.finish()
        assert path is not None
        return path

    def load(self, checkpoint: Path) -> list[Losses]:
        return load_checkpoint(checkpoint, self.world, self.ema_world, self.optimizers)


def weights_of(world: WorldModel) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in world.state_dict().values()])


def test_everything_is_restored_and_training_continues_alike(tmp_path: Path) -> None:
    one, other = State(1), State(2, num_updates=0)
    checkpoint = one.save(tmp_path, 7)
    assert read_progress(checkpoint) == (RunProgress(7, 10.5, 1), SETTINGS)
    unlogged = other.load(checkpoint)
    other.generator = one.generator.clone_state()
    one.update()
    other.update()
    assert torch.equal(weights_of(one.world), weights_of(other.world))
    assert torch.equal(weights_of(one.ema_world), weights_of(other.ema_world))
    for before, after in zip(one.unlogged, unlogged, strict=True):
        assert all(torch.equal(*parts) for parts in zip(before, after, strict=True))
    kept = worldsim.load(tmp_path)  # a run folder is the world of its newest checkpoint
    assert torch.equal(weights_of(kept), weights_of(one.ema_world))


def test_a_checkpoint_of_an_older_version_is_read(tmp_path: Path) -> None:
    one, other = State(1), State(2, num_updates=0)
    checkpoint = one.save(tmp_path, 7)
    file = checkpoint / "training.safetensors"
    (checkpoint / SHARD).rename(file)
    file.with_suffix("").rmdir()
    for checksums in ({"training.safetensors": checksum(file)}, {}):
        edit_json(checkpoint / "training.json", lambda a, c=checksums: {**a, "checksums": c})
        other.load(checkpoint)
        assert torch.equal(weights_of(one.world), weights_of(other.world))


def test_the_newest_two_are_kept_and_none_is_written_twice(tmp_path: Path) -> None:
    state = State(1)
    paths = [state.save(tmp_path, step) for step in (1, 20, 300)]
    assert list_checkpoints(tmp_path) == paths[1:]
    card = paths[2] / "README.md"
    card.write_text("# A card that was written since")
    state.save(tmp_path, 300)
    assert card.read_text() == "# A card that was written since"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths[1:]}


KILL_EVERYWHERE = """
import os, sys
from pathlib import Path
from tests.test_checkpoint import State

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
template, runs, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
state = State(3)
for kill_at in range(last):
    child = os.fork()
    if not child:
        run, events = runs / f"{kill_at:03}", 0
        run.mkdir()
        for path in template.rglob("*"):
            target = run / path.relative_to(template)
            target.mkdir() if path.is_dir() else os.link(path, target)

        def count(event, _arguments):
            global events
            events += event in CHANGES
            if events > kill_at:
                os._exit(9)

        sys.addaudithook(count)
        state.save(run, 3)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
else:
    sys.exit("the save was never finished")
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_leaves_complete_checkpoints(tmp_path: Path) -> None:
    template, runs = tmp_path / "template", tmp_path / "runs"
    runs.mkdir()
    for step in (1, 2):
        State(step).save(template, step)
    root = Path(__file__).parents[1]
    script = [sys.executable, "-W", "ignore", "-c", KILL_EVERYWHERE]
    subprocess.run([*script, str(template), str(runs), "400"], check=True, cwd=root)
    newest = set()
    killed = sorted(runs.iterdir())
    assert len(killed) > 20  # files and folders are made, renamed and removed in a save
    for run in killed:
        checkpoint = find_checkpoint(run, resume=True)
        assert checkpoint is not None
        State(0, num_updates=0).load(checkpoint)
        assert worldsim.load(run).game.num_actions == 3
        newest.add(read_progress(checkpoint)[0].step)
        with alone(run):
            assert not list(run.glob("*.partial*"))
    assert newest == {2, 3}


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    state = State(1)
    before = state.save(tmp_path, 1)
    resource = pytest.importorskip("resource")  # Windows has none
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond
    try:
        with pytest.raises(OSError, match=r"step_00000002 could not be written \(") as error:
            state.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    state.load(before)


@pytest.mark.parametrize(
    "file",
    [
        "training.json",
        SHARD,
        "head.safetensors",
        "model/diffusion_pytorch_model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damage_is_one_sentence_that_names_the_checkpoint(
    tmp_path: Path, file: str, damage: str
) -> None:
    state = State(1)
    checkpoint = state.save(tmp_path, 5)
    if damage == "gone":
        (checkpoint / file).unlink()
    else:
        content = (checkpoint / file).read_bytes()
        (checkpoint / file).write_bytes(content[: len(content) // 2])
    read = read_progress if file == "training.json" else state.load
    with pytest.raises(ValueError, match="step_00000005") as error:
        read(checkpoint)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("step", -1),
        ("step", 2.5),
        ("step", True),
        ("step", 10**30),
        ("seconds", "90"),
        ("seconds", float("nan")),
        ("seconds", -1.0),
        ("evals", None),
        ("settings", []),
        ("settings", None),
        ("checksums", 5),
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence_that_names_the_file(
    tmp_path: Path, entry: str, value: object
) -> None:
    checkpoint = State(1, num_updates=0).save(tmp_path, 5)
    edit_json(checkpoint / "training.json", lambda about: {**about, entry: value})
    with pytest.raises(ValueError, match=r"step_00000005/training.json is damaged") as error:
        read_progress(checkpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("optim.lr", "fast"), ("steps", 2.5), ("size", "vast"), ("wandb_tags", [5])],
)
def test_a_setting_of_the_wrong_type_is_named(tmp_path: Path, name: str, value: object) -> None:
    config = TrainConfig((tmp_path,), tmp_path / "run", resume=True)
    assert resumed_config(config, config.settings()) == config
    with pytest.raises(ValueError, match=f"training.json .* is damaged .{name} must be"):
        resumed_config(config, {**config.settings(), name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor * torch.nan, "is not finite"),
        (lambda tensor: tensor.flatten()[:1], "shape"),
    ],
)
def test_a_state_that_is_not_of_this_run_is_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    checkpoint = State(1).save(tmp_path, 5)
    file = checkpoint / SHARD
    for part in ("optimizer.0", "weights"):
        tensors = load_file(file)
        name = next(key for key in tensors if key.startswith(part) and tensors[key].ndim > 1)
        save_file({**tensors, name: change(tensors[name])}, tmp_path / "changed")
        original = file.read_bytes()
        file.write_bytes((tmp_path / "changed").read_bytes())
        with pytest.raises(ValueError, match=rf"{SHARD} is damaged .its checksum differs"):
            State(2).load(checkpoint)
        edit_json(checkpoint / "training.json", lambda about: {**about, "checksums": {}})
        with pytest.raises(ValueError, match=rf"{SHARD} is damaged .*({words})"):
            State(2).load(checkpoint)
        file.write_bytes(original)
        checksums = {SHARD: checksum(file)}
        edit_json(checkpoint / "training.json", lambda a, c=checksums: {**a, "checksums": c})


def test_no_link_in_a_run_is_followed(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    for folder in (run, victim):
        folder.mkdir()
    (victim / "thesis").touch()
    for name in ("step_00000001.partial", "step_00000001.partial.writing", "step_00000009"):
        (run / name).symlink_to(victim)
    assert list_checkpoints(run) == []
    with alone(run):
        State(1, num_updates=0).save(run, 1)
    assert [path.name for path in victim.iterdir()] == ["thesis"]
    checkpoint = run / "step_00000001"
    for name in ("training.json", SHARD, "training"):
        (checkpoint / name).rename(tmp_path / "away")
        (checkpoint / name).symlink_to(tmp_path / "away")
        with pytest.raises(ValueError, match=f"{name} is a link"):
            State(1, num_updates=0).load(checkpoint)
        (checkpoint / name).unlink()
        (tmp_path / "away").rename(checkpoint / name)


@pytest.mark.parametrize("name", ["../victim", "training/../../victim"])
def test_no_checksum_leads_out_of_a_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("a thesis")
    state = State(1, num_updates=0)
    checkpoint = state.save(tmp_path / "run", 5)
    sums = {name: checksum(tmp_path / "victim")}
    edit_json(checkpoint / "training.json", lambda about: {**about, "checksums": sums})
    with pytest.raises(ValueError, match=r"there is no .*victim: delete the checkpoint"):
        state.load(checkpoint)


def test_another_model_is_refused_before_anything_changes(tmp_path: Path) -> None:
    checkpoint = State(1).save(tmp_path, 5)
    other = State(2)
    other.world.dit.config = dataclasses.replace(other.world.dit.config, width=64)
    before = weights_of(other.world)
    with pytest.raises(ValueError, match="its width is 32, this run's is 64: resume with"):
        other.load(checkpoint)
    assert torch.equal(weights_of(other.world), before)


def test_a_run_is_held_by_one_process_and_cleared_of_leftovers(tmp_path: Path) -> None:
    (tmp_path / "step_00000003.partial").mkdir()
    (tmp_path / "step_00000003.partial.writing").mkdir()
    with alone(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        with pytest.raises(ValueError, match="another process is training in"), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass


def test_what_to_resume_is_found_or_explained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert find_checkpoint(run, resume=False) is None
    with pytest.raises(ValueError, match=r"there is no run in .* to resume"):
        find_checkpoint(run, resume=True)
    run.mkdir()
    assert find_checkpoint(run, resume=True) is None  # killed before its first checkpoint
    for name in ("step_00000009", "step_00000010", "step_00000011.partial"):
        (run / name).mkdir()
    assert find_checkpoint(run, resume=True) == run / "step_00000010"
    with pytest.raises(ValueError, match=r"already holds a run \(step_00000010\)"):
        find_checkpoint(run, resume=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_loss_that_is_no_number_names_its_step_and_the_checkpoint(value: float) -> None:
    unread = [torch.tensor(pair) for pair in ((2.0, 1.0), (3.0, 1.0))]
    assert read_losses(unread, 5, None) == [2.0, 3.0]
    assert unread == read_losses(unread, 5, None) == []
    for bad in ((1.0, value), (value, 1.0)):
        pairs = ((2.0, 1.0), bad, (value, value), (2.0, 1.0))
        unread = [torch.tensor(pair) for pair in pairs]
        with pytest.raises(FloatingPointError, match=r"at step 6, .* no checkpoint was saved yet"):
            read_losses(unread, 9, None)
        with pytest.raises(FloatingPointError, match="last good checkpoint is runs/step_1: cont"):
            read_losses(unread, 9, Path("runs/step_1"))
