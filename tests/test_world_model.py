from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import worldsim
from tests.tiny_worlds import (
    make_tiny_game,
    make_tiny_vae_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.dit import DiTOutput
from worldsim.find_world import BUNDLED
from worldsim.recording import Recording, Windows
from worldsim.rollout import Rollout
from worldsim.world_folder import load
from worldsim.world_model import Losses, WorldModel

LENGTH = 8  # frames of a window; num_history of them are not targets


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", episodes=3)


@pytest.fixture
def world() -> WorldModel:
    return make_tiny_world(window=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read_windows(recording: Recording, batch_size: int = 3) -> Windows:
    return recording.windows(list(range(batch_size)), [5] * batch_size, LENGTH)


def changed_columns(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).any(dim=0).nonzero().flatten().tolist()


class TestTimeContract:
    """frames[t] --actions[t]--> frames[t+1], rewards[t], terminations[t]."""

    @torch.no_grad()
    def losses(self, world: WorldModel, windows: Windows) -> Losses:
        return world.losses(windows, seeded())

    @pytest.mark.parametrize("at", range(LENGTH - 1))
    def test_an_action_leads_into_the_next_frame(
        self, world: WorldModel, recording: Recording, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        windows.actions[:, at] = (windows.actions[:, at] + 1) % 3
        after = self.losses(world, windows)
        target = at + 1 - world.num_history  # column of frame at + 1
        changed = changed_columns(before.frame, after.frame)
        # later targets see it through attention over time, earlier ones not at all
        assert changed == (list(range(target, LENGTH - world.num_history)) if target >= 0 else [])
        assert changed_columns(before.head, after.head) == changed

    @pytest.mark.parametrize("at", range(LENGTH))
    def test_a_frame_is_a_target_and_the_history_of_those_after_it(
        self, world: WorldModel, recording: Recording, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        windows.frames[:, at] = 255 - windows.frames[:, at]
        after = self.losses(world, windows)
        first = max(at - world.num_history, 0)
        assert changed_columns(before.frame, after.frame) == list(
            range(first, LENGTH - world.num_history)
        )

    @pytest.mark.parametrize("field", ["rewards", "terminations"])
    @pytest.mark.parametrize("at", range(LENGTH - 1))
    def test_reward_and_end_are_told_at_the_frame_they_came_with(
        self, world: WorldModel, recording: Recording, field: str, at: int
    ) -> None:
        windows = read_windows(recording)
        before = self.losses(world, windows)
        getattr(windows, field)[:, at] = 1
        after = self.losses(world, windows)
        target = at + 1 - world.num_history
        assert changed_columns(before.head, after.head) == ([target] if target >= 0 else [])
        assert torch.equal(before.frame, after.frame)

    @pytest.mark.parametrize("at", range(LENGTH))
    def test_padding_counts_nothing(self, world: WorldModel, recording: Recording, at: int) -> None:
        windows = read_windows(recording)
        windows.valid[:, at] = False
        losses = self.losses(world, windows)
        valid = torch.ones(LENGTH)
        valid[at] = 0
        assert torch.equal(losses.valid, valid[world.num_history :].expand(3, -1))
        mean = losses.mean(losses.frame)
        kept = losses.frame[losses.valid > 0]
        torch.testing.assert_close(mean, kept.mean())

    def test_history_is_the_frames_before_newest_first(self) -> None:
        world = make_tiny_world(num_history=3)
        latents = torch.arange(7.0)[None, :, None, None, None].expand(1, 7, 3, 1, 1)
        history = world.history(latents)[0, :, ::3, 0, 0]
        assert history.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 4, 3]]

    def test_windows_that_begin_before_their_episode_have_its_first_frame_as_history(
        self, world: WorldModel, recording: Recording
    ) -> None:
        padded = recording.windows([0], [-world.num_history], LENGTH)
        losses = self.losses(world, padded)
        assert losses.valid.all()  # the episode's first frame is the first target
        assert (padded.frames[0, : world.num_history + 1] == padded.frames[0, 0]).all()


class TestLosses:
    def test_a_perfect_predictor_has_no_loss(self, world: WorldModel, recording: Recording) -> None:
        windows = read_windows(recording)
        truth = world.encode(torch.from_numpy(windows.frames))[:, world.num_history :]
        features = torch.zeros(*truth.shape[:2], 32)
        seen: list[torch.Tensor] = []

        def predict(noisy: torch.Tensor, tau: torch.Tensor, *_: torch.Tensor) -> DiTOutput:
            seen.append(noisy)
            return DiTOutput(truth, features)

        world.dit.forward = predict  # type: ignore[method-assign]
        losses = world.losses(windows, seeded(), moving_weight=10.0)
        assert not losses.frame.any()
        assert not world.dynamics_errors(windows, seeded()).any()
        clean = world.losses(windows, seeded(), clean_fraction=1.0)
        assert (clean.tau == 1).all()
        assert torch.equal(seen[-1], truth)

    def test_noise_follows_from_the_generator_alone(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        options = {
            "clean_fraction": 0.3,
            "history_noise": 0.2,
            "own_history": 0.5,
            "action_dropout": 0.5,
        }
        one, same, other = (world.losses(windows, seeded(s), **options) for s in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not torch.equal(one.frame, other.frame)

    @pytest.mark.parametrize(
        "option", ["history_noise", "own_history", "damaged_history", "action_dropout"]
    )
    def test_what_is_hidden_is_seen_in_the_inputs(
        self, world: WorldModel, recording: Recording, option: str
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[torch.Tensor, ...]] = []
        world.dit.register_forward_pre_hook(lambda _, inputs: captured.append(inputs))
        world.losses(windows, seeded())
        world.losses(windows, seeded(), **{option: 1.0})
        (noisy, _, actions, history), changed = captured[0], captured[-1]
        assert (changed[0].shape, changed[3].shape) == (noisy.shape, history.shape)
        if option == "action_dropout":
            assert (changed[2] == world.game.num_actions).all()
            assert torch.equal(actions, torch.from_numpy(windows.actions[:, 1:]))
        else:
            assert torch.equal(changed[2], actions)
            assert not torch.equal(changed[3], history)

    def test_own_history_is_what_the_model_drew_in_the_place_of_those_frames(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[tuple[torch.Tensor, ...], DiTOutput]] = []
        world.dit.register_forward_hook(lambda _, inputs, out: captured.append((inputs, out)))
        world.losses(windows, seeded(), own_history=1.0)
        (first, drawn), (second, _) = captured
        shown = world.encode(world.decode(drawn.latents))  # clipped and rounded, as in play
        k, c = world.num_history, 3
        assert torch.equal(second[0], first[0])
        assert torch.equal(second[3][:, 0], first[3][:, 0])  # before any target: the real ones
        for t in range(1, LENGTH - k):
            assert torch.equal(second[3][:, t, :c], shown[:, t - 1])
        for t in range(2, LENGTH - k):
            assert torch.equal(second[3][:, t, c:], shown[:, t - 2])

    def test_dynamics_errors_takes_other_actions_and_leaves_the_windows_alone(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        before = dataclasses.replace(windows, actions=windows.actions.copy())
        own = world.dynamics_errors(windows, seeded())
        other = world.dynamics_errors(windows, seeded(), actions=(windows.actions + 1) % 3)
        assert own.shape == (3,)
        again = world.dynamics_errors(windows, seeded(), actions=windows.actions)
        assert torch.equal(own, again)
        assert (own != other).all()
        assert not own.requires_grad
        assert np.array_equal(windows.actions, before.actions)

    def test_dynamics_errors_foretells_the_last_frame_from_noise_alone(
        self, world: WorldModel, recording: Recording
    ) -> None:
        windows = read_windows(recording)
        captured: list[tuple[torch.Tensor, ...]] = []
        world.dit.register_forward_pre_hook(lambda _, inputs: captured.append(inputs))
        first = world.dynamics_errors(windows, seeded())
        windows.frames[:, -1] = 255 - windows.frames[:, -1]
        assert (world.dynamics_errors(windows, seeded()) != first).all()
        one, other = captured
        assert one[1].tolist() == [[1.0] * (LENGTH - world.num_history - 1) + [0.0]] * 3
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))  # it cannot peek
        assert torch.equal(one[2], torch.from_numpy(windows.actions[:, world.num_history - 1 :]))
        windows.valid[1:, -1] = False
        errors = world.dynamics_errors(windows, seeded())
        assert errors[0] > 0
        assert not errors[1:].any()

    def test_a_vae_world_trains_its_denoiser_only(self, recording: Recording) -> None:
        world = make_tiny_world(codec=make_tiny_vae_codec(), patch_size=4)
        losses = world.losses(read_windows(recording), seeded(), moving_weight=10.0)
        losses.mean(losses.frame + losses.head).backward()
        assert all(p.grad is None for p in world.codec.parameters())
        assert world.dit.unembed.weight.grad.any()


def play(world: WorldModel, steps: int = 6) -> list[np.ndarray]:
    rollout = Rollout(world)
    rollout.reset(world.starts.frames[:1], world.starts.actions[:1], seeds=[5])
    return [part for t in range(steps) for part in rollout.step(np.array([t % 3]))]


class TestFolder:
    @pytest.mark.parametrize("with_vae", [False, True])
    def test_a_saved_world_plays_the_very_same_frames(self, tmp_path: Path, with_vae: bool) -> None:
        codec = make_tiny_vae_codec() if with_vae else None
        world = make_tiny_world(codec=codec)
        world.metrics, world.card, world.num_passes = {"psnr": {"1": 30.5}}, "# Square\nτ", 3
        world.save(tmp_path / "square")
        loaded = load(tmp_path / "square", device="cpu")
        assert not loaded.training
        assert (loaded.metrics, loaded.card) == (world.metrics, world.card)
        assert (loaded.num_passes, loaded.window) == (3, world.window)
        assert loaded.game == world.game
        assert np.array_equal(loaded.background, world.background)
        for field in dataclasses.fields(Windows):
            ours, theirs = (getattr(w.starts, field.name) for w in (world, loaded))
            assert np.array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        weights = world.state_dict()
        assert all(torch.equal(weights[name], p) for name, p in loaded.state_dict().items())
        for ours, theirs in zip(play(world), play(loaded), strict=True):
            assert np.array_equal(ours, theirs)

    def test_no_file_of_it_is_a_pickle(self, tmp_path: Path) -> None:
        make_tiny_world(codec=make_tiny_vae_codec()).save(tmp_path / "square")
        files = [path for path in (tmp_path / "square").rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".json", ".safetensors", ".h5", ".md"}
        assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in files)

    @pytest.mark.parametrize("folder", ["model", "codec"])
    def test_a_pickle_in_it_is_not_opened(self, tmp_path: Path, folder: str) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        weights = path / folder / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
        with pytest.raises(ValueError, match=re.escape(f"the world in {path} is damaged")):
            load(path)

    def test_of_another_format_it_is_refused_with_both_numbers(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path)
        (tmp_path / "config.json").write_text('{"format": 1}')
        with pytest.raises(ValueError, match="has format 1 and this version of worldsim reads 3"):
            load(tmp_path)

    def test_whoever_may_read_the_folder_may_read_its_weights(self, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "square")
        files = [path for path in (tmp_path / "square").rglob("*") if path.is_file()]
        assert len({path.stat().st_mode for path in files}) == 1

    def test_saving_again_replaces_the_whole_world(self, tmp_path: Path) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        world = make_tiny_world(make_tiny_game(fps=30.0))
        world.save(path)
        assert load(path).game.fps == 30
        assert not (path / "codec").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["square"]

    def test_a_grey_world_of_odd_size_comes_back(self, tmp_path: Path) -> None:
        game = make_tiny_game(frame_size=(20, 27), channels=1)
        world = make_tiny_world(game)
        world.save(tmp_path / "grey")
        for ours, theirs in zip(play(world), play(load(tmp_path / "grey")), strict=True):
            assert np.array_equal(ours, theirs)


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff\x00\x81" * 40)


def forget_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path, metadata={"format": "pt"})


def forget_an_entry(path: Path) -> None:
    values = json.loads(path.read_text())
    values.pop("num_passes")
    path.write_text(json.dumps(values))


class TestDamage:
    @pytest.mark.parametrize("damage", [halve, scramble, Path.unlink])
    @pytest.mark.parametrize(
        "name",
        [
            "config.json",
            "head.safetensors",
            "starts.h5",
            "metrics.json",
            "model/config.json",
            "model/diffusion_pytorch_model.safetensors",
            "codec/diffusion_pytorch_model.safetensors",
        ],
    )
    def test_is_told_in_one_sentence(
        self, tmp_path: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        path = tmp_path / "square"
        make_tiny_world(codec=make_tiny_vae_codec()).save(path)
        damage(path / name)
        gone = damage is Path.unlink and name == "config.json"  # then it is no world at all
        reason = "no world at" if gone else f"the world in {path} is damaged"
        with pytest.raises(ValueError, match=re.escape(reason)) as error:
            load(path)
        assert "\n\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("config.json", forget_an_entry),
            ("head.safetensors", forget_a_weight),
            ("model/diffusion_pytorch_model.safetensors", forget_a_weight),
        ],
    )
    def test_what_lacks_a_part_is_not_filled_up_at_random(
        self, tmp_path: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        make_tiny_world().save(tmp_path / "square")
        damage(tmp_path / "square" / name)
        with pytest.raises(ValueError, match="is damaged"):
            load(tmp_path / "square")


class TestNames:
    def test_an_unknown_name_lists_the_bundled_ones(self) -> None:
        bundled = sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())
        with pytest.raises(ValueError, match="no world at 'atlantis'") as error:
            worldsim.load("atlantis")
        assert f"({', '.join(bundled)})" in str(error.value)

    def test_a_run_folder_means_its_newest_checkpoint(self, tmp_path: Path) -> None:
        for step in (999, 10_000, 9_000):
            make_tiny_world(make_tiny_game(fps=step)).save(tmp_path / f"step_{step:08d}")
        (tmp_path / "step_00020000.partial").mkdir()
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        assert load(tmp_path).game.fps == load(str(tmp_path)).game.fps == 10_000

    def test_an_empty_run_is_no_world(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a run folder with a checkpoint"):
            load(tmp_path)


def test_it_says_what_it_is_in_a_line() -> None:
    world = make_tiny_world()
    number = sum(p.numel() for p in world.parameters())
    assert repr(world) == (
        f"WorldModel(game='tests/Square-v0', frame_size=(16, 16), parameters={number:,}, "
        "window=4, num_passes=2, device='cpu')"
    )
