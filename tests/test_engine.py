"""How a training step is computed: in parts, with layers computed again, compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_train import make_config
from tests.tiny_worlds import write_tiny_recording
from worldsim.model.dit import VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.train import presets
from worldsim.train.compiling import compile_layers
from worldsim.train.config import TrainConfig, check
from worldsim.train.engine import Engine
from worldsim.train.optim import Optim
from worldsim.train.run import Run
from worldsim.train.run_folder import RunProgress

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("tiny_is_tinier")]

LATE = RunProgress(step=6)  # half of the windows have the world's own history


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "square"
    write_tiny_recording(path, steps=12, episodes=6)
    return path


def make_run(recording: Path, out: Path, **changes: Any) -> Run:
    run = Run.of(make_config(recording, out, device="cpu", **changes), None)
    for parameter in run.world.parameters():  # the last layers begin at 0
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return run


def gradients(run: Run) -> list[torch.Tensor]:
    grads = [p.grad.clone() for p in run.world.parameters() if p.grad is not None]
    run.world.zero_grad(set_to_none=True)
    return grads


def test_a_step_in_parts_takes_the_mean_of_their_gradients(recording: Path, tmp_path: Path) -> None:
    changes = {"optim.batch_size": 6, "engine.accumulate": 3, "optim.max_grad_norm": 1e6}
    run = make_run(recording, tmp_path, **changes, **{"model.chance_bits": 0})
    losses = [run.losses_at(LATE, part) for part in range(3)]
    sum(loss.total() / 3 for loss in losses).backward()  # type: ignore[union-attr]
    expected = gradients(run)
    for optimizer in run.optimizers:
        optimizer.step = optimizer.zero_grad = lambda **_: None  # type: ignore[assignment,misc]
    taken, (loss, _) = run.take_step(LATE)
    for ours, theirs in zip(gradients(run), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert torch.equal(taken.frame, torch.cat([part.frame for part in losses]))
    assert len(taken.frame) == 6
    assert loss == pytest.approx(sum(part.total().item() for part in losses) / 3)
    assert not torch.equal(losses[0].tau, losses[1].tau)


def test_layers_computed_again_give_the_same_gradients(recording: Path, tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        run = make_run(recording, tmp_path, **{"engine.activation_checkpointing": again})
        run.losses_at(LATE).total().backward()
        found.append(gradients(run))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("in_float32")
def test_compiled_layers_train_as_the_others_do(recording: Path, tmp_path: Path) -> None:
    plain, compiled = make_run(recording, tmp_path), make_run(recording, tmp_path)
    buffers = [buffer.clone() for buffer in compiled.world.buffers()]
    assert compile_layers(compiled, LATE) is None
    for now, before in zip(compiled.world.buffers(), buffers, strict=True):
        assert torch.equal(now, before)
    assert all(parameter.grad is None for parameter in compiled.world.parameters())
    for run in (plain, compiled):
        for _ in range(2):
            run.take_step(LATE)
    for ours, theirs in zip(plain.world.parameters(), compiled.world.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)
    assert plain.world.state_dict().keys() == compiled.world.state_dict().keys()


@pytest.mark.slow
def test_what_cannot_be_compiled_trains_with_a_note(recording: Path, tmp_path: Path) -> None:
    torch.compiler.reset()
    plain, failing = make_run(recording, tmp_path), make_run(recording, tmp_path)
    with torch._inductor.config.patch("cpp.cxx", ("no-such-compiler",)):
        note = compile_layers(failing, LATE)
    assert note is not None
    assert note.startswith("compiling failed, steps are slower: ")
    assert "compiler" in note
    for run in (plain, failing):
        run.take_step(LATE)
    pairs = zip(plain.world.parameters(), failing.world.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


class TestWhatIsNotGiven:
    def test_comes_from_the_device_and_the_size(self, tmp_path: Path) -> None:
        config = TrainConfig((tmp_path,), tmp_path, device="cpu")
        assert presets.complete(config, (64, 64)).optim == Optim(batch_size=4, lr=4e-3)
        large = TrainConfig((tmp_path,), tmp_path, device="cpu", size="large")
        assert presets.complete(large, (64, 64)).optim.lr == 1e-3
        given = TrainConfig((tmp_path,), tmp_path, device="cpu", optim=Optim(batch_size=3, lr=0.1))
        assert presets.complete(given, (64, 64)) == given

    @pytest.mark.parametrize(("parts", "windows"), [(3, 3), (2, 4), (8, 8)])
    def test_a_batch_has_whole_parts(self, tmp_path: Path, parts: int, windows: int) -> None:
        config = TrainConfig((tmp_path,), tmp_path, device="cpu", engine=Engine(accumulate=parts))
        assert presets.complete(config, (64, 64)).optim.batch_size == windows

    def test_parts_that_do_not_divide_the_batch(self, tmp_path: Path) -> None:
        optim, engine = Optim(batch_size=4), Engine(accumulate=3)
        with pytest.raises(ValueError, match=r"accumulate must divide .*, got 3 and 4"):
            check(TrainConfig((tmp_path,), tmp_path, optim=optim, engine=engine))

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_a_gpu_larger_batches_until_its_memory_ends(self, tmp_path: Path) -> None:
        config = TrainConfig((tmp_path,), tmp_path, device="cuda")
        assert presets.complete(config, (64, 64)).optim.batch_size == 64
        assert presets.complete(config, (4096, 4096)).optim.batch_size == 1


def test_sizes_are_on_one_dial() -> None:
    counts = []
    for name, size in presets.SIZES.items():
        if name != "tiny":  # which is smaller here
            with torch.device("meta"):
                dit = VideoDiT(DiTConfig(num_actions=6, **size))
            counts.append(sum(parameter.numel() for parameter in dit.parameters()) / 1e6)
    assert counts == pytest.approx([6, 33, 250, 1000], rel=0.1)
