from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors.torch import load_file, save_file

from tests.tiny_worlds import make_tiny_dit
from worldsim.model.conditions import Conditions
from worldsim.model.detail import DetailPath
from worldsim.model.dit import DiTOutput, VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.dit_folder import load_dit, save_dit
from worldsim.model.kv_cache import KVCache
from worldsim.model.weights import WEIGHTS

pytestmark = pytest.mark.numeric

WINDOW = 5
LAYERS_OVER_TIME = 2
SIZES = [(16, 16, 3), (20, 28, 3), (63, 65, 1)]

Inputs = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def dit() -> VideoDiT:
    return make_tiny_dit(
        depth=4, num_heads=4, num_kv_heads=2, num_registers=2, width=32, window=WINDOW
    ).eval()


def make_inputs(dit: VideoDiT, b: int, t: int, h: int = 16, w: int = 16) -> Inputs:
    generator = torch.Generator().manual_seed(b * 1_000 + t)
    c, k = dit.config.latent_channels, dit.config.num_history
    return {
        "noisy_latents": torch.randn(b, t, c, h, w, generator=generator),
        "tau": torch.rand(b, t, generator=generator),
        "actions": torch.randint(dit.config.num_actions + 1, (b, t), generator=generator),
        "history": torch.randn(b, t, k * c, h, w, generator=generator),
    }


def predict(dit: VideoDiT, inputs: Inputs, cache: KVCache | None = None) -> DiTOutput:
    conditions = Conditions(inputs["tau"], inputs["actions"], inputs["history"])
    output: DiTOutput = dit(inputs["noisy_latents"], conditions, cache)
    return output


def frame(inputs: Inputs, t: int) -> Inputs:
    return {name: value[:, t : t + 1] for name, value in inputs.items()}


def lane(inputs: Inputs, b: int) -> Inputs:
    return {name: value[b : b + 1] for name, value in inputs.items()}


@torch.no_grad()
def play(dit: VideoDiT, inputs: Inputs, cache: KVCache) -> DiTOutput:
    """Feed a sequence frame by frame, each committed."""
    outputs = []
    for t in range(inputs["tau"].shape[1]):
        outputs.append(predict(dit, frame(inputs, t), cache))
        cache.commit()
    return DiTOutput(*(torch.cat(parts, dim=1) for parts in zip(*outputs, strict=True)))


def assert_equal(left: DiTOutput, right: DiTOutput) -> None:
    for ours, theirs in zip(left, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def changed_frames(before: DiTOutput, after: DiTOutput) -> list[int]:
    differ = (before.latents != after.latents).flatten(2).any(-1)
    differ |= (before.features != after.features).any(-1)
    return differ.any(0).nonzero().flatten().tolist()


class TestCausality:
    @pytest.mark.parametrize("name", ["noisy_latents", "tau", "actions", "history"])
    @pytest.mark.parametrize("at", [0, 3, 6])
    @torch.no_grad()
    def test_a_frame_changes_nothing_before_it(self, dit: VideoDiT, name: str, at: int) -> None:
        inputs = make_inputs(dit, 2, 7)
        before = predict(dit, inputs)
        inputs[name][:, at] = (inputs[name][:, at] + 1) % 3
        changed = changed_frames(before, predict(dit, inputs))
        # two layers over time reach back twice as far as one
        reach = at + LAYERS_OVER_TIME * (WINDOW - 1)
        assert changed == list(range(at, min(6, reach) + 1))

    def test_no_gradient_flows_from_later_frames(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 1, 7)
        inputs["noisy_latents"].requires_grad_()
        inputs["history"].requires_grad_()
        out = predict(dit, inputs)
        total = out.latents[:, 3].sum() + out.features[:, 3].sum()
        gradients = torch.autograd.grad(
            total, [inputs["noisy_latents"], inputs["history"]], retain_graph=True
        )
        for gradient in gradients:
            seen = gradient[0].flatten(1).abs().sum(-1) > 0
            assert seen.tolist() == [True] * 4 + [False] * 3

    @torch.no_grad()
    def test_memory_ends_with_the_window(self) -> None:
        dit = make_tiny_dit(depth=2, time_every=2, window=3)
        inputs = make_inputs(dit, 1, 7)
        before = predict(dit, inputs)
        inputs["noisy_latents"][:, 1] += 1
        assert changed_frames(before, predict(dit, inputs)) == [1, 2, 3]

    @torch.no_grad()
    def test_batch_rows_are_strangers(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 3, 4)
        whole = predict(dit, inputs)
        for b in range(3):
            alone = predict(dit, lane(inputs, b))
            assert_equal(alone, DiTOutput(*(part[b : b + 1] for part in whole)))


class TestRing:
    @pytest.mark.parametrize("size", SIZES)
    @torch.no_grad()
    def test_equals_the_uncached_computation(self, size: tuple[int, int, int]) -> None:
        h, w, c = size
        dit = make_tiny_dit(
            depth=4, num_heads=4, num_kv_heads=2, latent_channels=c, window=WINDOW
        ).eval()
        inputs = make_inputs(dit, 2, 3 * WINDOW + 2, h, w)
        assert_equal(play(dit, inputs, dit.new_cache(2, (h, w))), predict(dit, inputs))

    @pytest.mark.parametrize("start", [100_003, 10_000_000])
    def test_a_long_rollout_computes_as_a_new_one(self, dit: VideoDiT, start: int) -> None:
        t = (LAYERS_OVER_TIME + 2) * WINDOW
        inputs = make_inputs(dit, 1, t)
        cache = dit.new_cache(1, (16, 16))
        cache.positions += start
        outputs = play(dit, inputs, cache)
        assert cache.positions.tolist() == [start + t]
        with torch.no_grad():
            young = predict(dit, inputs)
        # its memory was blank and not empty, which is forgotten layer by layer
        newest = slice(LAYERS_OVER_TIME * WINDOW, None)
        assert_equal(
            DiTOutput(*(part[:, newest] for part in outputs)),
            DiTOutput(*(part[:, newest] for part in young)),
        )

    @torch.no_grad()
    def test_provisional_passes_leave_no_trace(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 2, 3 * WINDOW)
        cache, plain = (dit.new_cache(2, (16, 16)) for _ in range(2))
        junk = make_inputs(dit, 2, 2)
        for t in range(3 * WINDOW):
            for provisional in range(2):
                predict(dit, frame(junk, provisional), cache)
            ours, theirs = (predict(dit, frame(inputs, t), ring) for ring in (cache, plain))
            assert torch.equal(ours.latents, theirs.latents)
            assert torch.equal(ours.features, theirs.features)
            cache.commit()
            plain.commit()
        assert all(map(torch.equal, cache.tensors(), plain.tensors()))

    @torch.no_grad()
    def test_lanes_of_different_age_share_a_batch(self, dit: VideoDiT) -> None:
        ages = (0, 3, 2 * WINDOW + 1)
        inputs = make_inputs(dit, 3, max(ages) + 4)
        together = dit.new_cache(3, (16, 16))
        singles = []
        for b, age in enumerate(ages):
            single = dit.new_cache(1, (16, 16))
            past = {name: value[:, :age] for name, value in lane(inputs, b).items()}
            if age:
                play(dit, past, single)
            together.copy_lanes(single, torch.tensor([b]), torch.tensor([0]))
            singles.append(single)
        assert together.positions.tolist() == list(ages)
        newest = {name: value[:, -4:] for name, value in inputs.items()}
        outputs = play(dit, newest, together)
        for b, single in enumerate(singles):
            alone = play(dit, lane(newest, b), single)
            assert_equal(alone, DiTOutput(*(part[b : b + 1] for part in outputs)))

    @pytest.mark.parametrize("frames", [2, WINDOW])
    @torch.no_grad()
    def test_first_frames_at_once_fill_it_as_one_by_one(self, dit: VideoDiT, frames: int) -> None:
        inputs = make_inputs(dit, 2, frames + 2)
        first = {name: value[:, :frames] for name, value in inputs.items()}
        newest = {name: value[:, frames:] for name, value in inputs.items()}
        one_by_one, at_once = dit.new_cache(2, (16, 16)), dit.new_cache(2, (16, 16))
        outputs = play(dit, first, one_by_one)
        assert_equal(predict(dit, first, at_once), outputs)
        at_once.commit(frames)
        torch.testing.assert_close(at_once.tensors(), one_by_one.tensors())
        assert_equal(play(dit, newest, at_once), play(dit, newest, one_by_one))

    def test_new_cache_counts_tokens_and_layers(self, dit: VideoDiT) -> None:
        cache = dit.new_cache(2, (20, 28))  # 3 x 4 patches of 8, action, level, 2 registers
        assert [keys.shape for keys in cache.keys] == [(2, 16, 2, WINDOW, 8)] * LAYERS_OVER_TIME


class TestShapes:
    @pytest.mark.parametrize("size", [*SIZES, (5, 3, 3)])
    @pytest.mark.parametrize("patch_size", [4, 7, (4, 8), (6, 3)])
    def test_frames_of_any_size(
        self, size: tuple[int, int, int], patch_size: int | tuple[int, int]
    ) -> None:
        h, w, c = size
        dit = make_tiny_dit(latent_channels=c, patch_size=patch_size)
        inputs = make_inputs(dit, 1, 2, h, w)
        inputs["noisy_latents"].requires_grad_()
        out = predict(dit, inputs)
        assert out.latents.shape == inputs["noisy_latents"].shape
        assert out.features.shape == (1, 2, 32)
        # every pixel is drawn, and every pixel is seen: by its own patch at least
        (gradient,) = torch.autograd.grad(out.latents.square().sum(), inputs["noisy_latents"])
        assert (gradient != 0).all()

    @torch.no_grad()
    def test_a_still_image_is_a_video_of_one_frame(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 2, 4)
        whole = predict(dit, inputs)
        first = predict(dit, frame(inputs, 0))
        assert_equal(first, DiTOutput(*(part[:, :1] for part in whole)))

    @torch.no_grad()
    def test_sequences_longer_than_the_window(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 1, 4 * WINDOW)
        assert predict(dit, inputs).latents.isfinite().all()

    @pytest.mark.parametrize("changes", [{"num_registers": 0}, {"num_history": 1}, {"depth": 1}])
    @torch.no_grad()
    def test_options_at_their_least(self, changes: dict[str, int]) -> None:
        dit = make_tiny_dit(**changes)
        inputs = make_inputs(dit, 1, 6)
        whole = predict(dit, inputs)
        assert_equal(play(dit, inputs, dit.new_cache(1, (16, 16))), whole)


class TestInputs:
    @pytest.mark.parametrize("name", ["noisy_latents", "tau", "actions", "history"])
    @torch.no_grad()
    def test_each_matters_to_the_frame_and_its_feature(self, dit: VideoDiT, name: str) -> None:
        inputs = make_inputs(dit, 1, 3)
        inputs["actions"][:] = 0
        before = predict(dit, inputs)
        inputs[name][:, 2] = 0.5 * inputs[name][:, 2] + 1
        after = predict(dit, inputs)
        assert (before.latents[:, 2] - after.latents[:, 2]).abs().mean() > 1e-3
        assert (before.features[:, 2] - after.features[:, 2]).abs().mean() > 1e-3

    @torch.no_grad()
    def test_every_action_and_the_unknown_one_is_another(self, dit: VideoDiT) -> None:
        inputs = make_inputs(dit, 1, 1)
        drawn = []
        for action in range(dit.config.num_actions + 1):
            inputs["actions"][:] = action
            drawn.append(predict(dit, inputs).latents)
        for i, one in enumerate(drawn):
            assert all((one - other).abs().mean() > 1e-3 for other in drawn[:i])

    @torch.no_grad()
    def test_history_reaches_over_the_edge_of_a_patch(self) -> None:
        dit = make_tiny_dit(depth=1, time_every=1, patch_size=8)
        frames = torch.zeros(1, 3 + dit.config.num_history * 3, 24, 24)
        before = dit.detail.look(frames)
        frames[:, 3:, 4, 4] = 1  # in the first patch, 4 pixels from the second
        seen = (dit.detail.look(frames) != before).any(1)[0].nonzero()
        assert seen.max(0).values.tolist() == [4, 4]  # features of 2 pixels: the second patch's own


def pass_through(
    path: DetailPath, frames: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    return path.draw(path.look(frames), scale, shift)


class TestDetailPath:
    @torch.no_grad()
    @pytest.mark.parametrize("stride", [1, 2])
    def test_an_object_elsewhere_is_drawn_alike_there(self, stride: int) -> None:
        torch.manual_seed(0)
        path = DetailPath(6, 3, width=8, stride=stride)
        torch.nn.init.normal_(path.head[-1].weight)
        scale, shift = torch.randn(2, 1, 8, 1, 1).expand(2, 1, 8, 48 // stride, 48 // stride)
        frames = torch.zeros(1, 6, 48, 48)
        nothing = pass_through(path, frames, scale, shift)
        frames[..., 20:22, 23] = 10 * torch.randn(6, 1)
        drawn = pass_through(path, frames, scale, shift) - nothing
        moved = pass_through(path, frames.roll((4, -2), (2, 3)), scale, shift) - nothing
        assert drawn.shape == (1, 3, 48, 48)
        assert drawn[..., 20:22, 23].abs().mean() > 0.05
        inside = drawn[..., 12:30, 14:32]  # away from the edges
        torch.testing.assert_close(moved[..., 16:34, 12:30], inside, atol=1e-3, rtol=1e-3)

    @torch.no_grad()
    def test_features_of_a_place_are_drawn_there(self) -> None:
        path = DetailPath(3, 3, width=8, stride=2)
        torch.nn.init.normal_(path.head[-1].weight)
        frames = torch.randn(1, 3, 16, 16)
        scale, shift = torch.zeros(2, 1, 8, 8, 8)
        before = pass_through(path, frames, scale, shift)
        for said in (scale, shift):
            said[..., 4, 4] = 1
            changed = (pass_through(path, frames, scale, shift) != before).any(1)[0].nonzero()
            assert changed.min(0).values.tolist() == [4, 4]  # two convolutions reach two places
            assert changed.max(0).values.tolist() == [13, 13]
            said[..., 4, 4] = 0


class TestParameters:
    def test_training_continues_after_play_in_inference_mode(self) -> None:
        dit = make_tiny_dit(patch_size=9)  # whose tables no other test has made
        inputs = make_inputs(dit, 1, 2)
        with torch.inference_mode():
            predict(dit, inputs)
        predict(dit, inputs).latents.square().mean().backward()
        assert dit.place_embedding.weight.grad.any()

    def test_every_one_of_them_learns(self, dit: VideoDiT) -> None:
        dit = make_tiny_dit(depth=4, num_heads=4, num_kv_heads=2)
        out = predict(dit, make_inputs(dit, 4, 4))
        (out.latents.square().mean() + out.features.square().mean()).backward()
        still = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.any()]
        assert not still

    @torch.no_grad()
    def test_saved_and_loaded_it_computes_the_same_bits(
        self, dit: VideoDiT, tmp_path: Path
    ) -> None:
        save_dit(dit, tmp_path / "model")
        loaded = load_dit(tmp_path / "model")
        inputs = make_inputs(dit, 2, 3)
        ours, theirs = predict(dit, inputs), predict(loaded, inputs)
        assert torch.equal(ours.latents, theirs.latents)
        assert torch.equal(ours.features, theirs.features)
        assert {p.suffix for p in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}

    @torch.no_grad()
    def test_diffusers_reads_what_is_saved_and_its_own_is_read(
        self, dit: VideoDiT, tmp_path: Path
    ) -> None:
        class Theirs(VideoDiT, ModelMixin, ConfigMixin):
            config = None  # ours is kept instead of the property of ConfigMixin

            def build(self, **settings: int) -> None:
                VideoDiT.__init__(self, DiTConfig(**settings))
                self.register_to_config(**settings)

            own, _ = inspect.signature(build).parameters.values()
            names = inspect.signature(DiTConfig).parameters.values()
            build.__signature__ = inspect.Signature([own, *names])  # type: ignore[attr-defined]
            __init__ = build

        save_dit(dit, tmp_path / "ours")
        theirs = Theirs.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
        inputs = make_inputs(dit, 2, 3)
        assert_equal(predict(dit, inputs), predict(theirs, inputs))
        theirs.save_pretrained(tmp_path / "theirs")
        assert_equal(predict(dit, inputs), predict(load_dit(tmp_path / "theirs"), inputs))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                lambda w: w.pop("embed.weight"),
                r"embed.weight has shape none, but its config gives \(",
            ),
            (lambda w: w.update({"embed.weight": torch.zeros(2)}), r"has shape \(2,\), but"),
            (lambda w: w.update(other=torch.zeros(2)), r"other has shape \(2,\), .* gives none"),
        ],
    )
    def test_weights_of_another_network_are_refused(
        self, dit: VideoDiT, tmp_path: Path, change: Callable[[Any], object], words: str
    ) -> None:
        save_dit(dit, tmp_path / "model")
        weights = load_file(tmp_path / "model" / WEIGHTS)
        change(weights)
        save_file(weights, tmp_path / "model" / WEIGHTS)
        with pytest.raises(ValueError, match=words):
            load_dit(tmp_path / "model")

    @pytest.mark.parametrize(
        "changes", [{"width": 36, "num_heads": 4}, {"width": 48, "num_heads": 3, "num_kv_heads": 2}]
    )
    def test_widths_and_heads_that_do_not_divide_are_refused(self, changes: dict[str, int]) -> None:
        numbers = f"width {changes['width']}, num_heads {changes['num_heads']}"
        with pytest.raises(ValueError, match=re.escape(numbers)):
            make_tiny_dit(**changes)
