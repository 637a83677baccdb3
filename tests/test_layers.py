from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldsim.model.kv_cache import KVCache
from worldsim.model.layers import (
    Places,
    SpaceAttention,
    SwiGLU,
    TimeAttention,
    grouped_attention,
    rotary_angles,
    rotate,
    space_rotation,
    time_rotation,
    together,
)
from worldsim.model.layout import Layout
from worldsim.model.patterns import Ring

pytestmark = pytest.mark.numeric

DIM = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def places(t: int, n: int, *, window: int = 99, first: int = 0, **tables: torch.Tensor) -> Places:
    """Of t frames of n tokens, which neither turn with place nor with time unless tables say."""
    distance = torch.arange(t)[:, None] - torch.arange(t)
    own = {
        "space": space_rotation(CPU, 0, 0, n, DIM),
        "time": time_rotation(first + torch.arange(t)[None], DIM),
        "mask": (distance >= 0) & (distance < window),
    }
    return Places(Layout(t, 1, n, 0), **own | tables)


def row(rotation: torch.Tensor, index: int) -> torch.Tensor:
    return rotation[:, index]


class TestRotary:
    def test_turning_keeps_lengths_and_position_zero_turns_nothing(self) -> None:
        x = torch.randn(1, 3, 1, 1, DIM)
        rotation = time_rotation(torch.tensor([[0, 5, 1_000]]), DIM)
        turned = rotate(x, rotation)
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
        assert torch.equal(turned[:, 0], x[:, 0])
        assert not torch.allclose(turned[:, 1], x[:, 1])

    @pytest.mark.parametrize("shift", [1, 999, 100_003, 10_000_000])
    def test_time_is_relative_however_long_the_rollout(self, shift: int) -> None:
        query, key = torch.randn(2, 1, 6, 1, 1, DIM)
        positions = torch.tensor([[0, 1, 2, 7, 30, 31]])

        def scores(positions: torch.Tensor) -> torch.Tensor:
            rotation = time_rotation(positions, DIM)
            q, k = rotate(query, rotation)[0, :, 0, 0], rotate(key, rotation)[0, :, 0, 0]
            return q @ k.T

        torch.testing.assert_close(
            scores(positions), scores(positions + shift), atol=1e-5, rtol=1e-5
        )
        stretched = scores(2 * positions)
        assert not torch.allclose(scores(positions), stretched, atol=1e-2)

    def test_space_is_relative_in_rows_and_columns(self) -> None:
        width = 9
        rotation = space_rotation(CPU, 7, width, 0, DIM)
        query, key = torch.randn(2, 1, DIM)

        def score(query_at: tuple[int, int], key_at: tuple[int, int]) -> torch.Tensor:
            q = rotate(query, row(rotation, query_at[0] * width + query_at[1]))
            k = rotate(key, row(rotation, key_at[0] * width + key_at[1]))
            return (q * k).sum()

        torch.testing.assert_close(score((0, 0), (2, 3)), score((4, 5), (6, 8)))
        assert not torch.isclose(score((0, 0), (2, 3)), score((0, 0), (3, 2)))
        assert not torch.isclose(score((0, 0), (2, 3)), score((0, 0), (2, 4)))

    def test_tokens_without_a_place_do_not_turn(self) -> None:
        cos, sin = space_rotation(CPU, 3, 2, 4, DIM)
        assert cos.shape == sin.shape == (3 * 2 + 4, 1, DIM)
        assert (cos[-4:] == 1).all()
        assert (sin[-4:] == 0).all()
        assert (cos[1:-4] != 1).any(dim=-1).all()

    def test_angles_of_neighbours_differ_by_the_same_at_any_distance(self) -> None:
        far = rotary_angles(torch.tensor([10**9, 10**9 + 1]), DIM)
        near = rotary_angles(torch.tensor([0, 1]), DIM)
        torch.testing.assert_close(far[1] - far[0], near[1] - near[0], atol=1e-6, rtol=0)


class TestGroupedAttention:
    @pytest.mark.parametrize("kv_heads", [1, 2, 4])
    @pytest.mark.parametrize("masked", [False, True])
    def test_equals_attention_with_repeated_key_heads(self, kv_heads: int, masked: bool) -> None:
        b, heads, q, k = 3, 4, 5, 7
        query = torch.randn(b, q, heads, DIM)
        key, value = torch.randn(2, b, kv_heads, k, DIM)
        mask = (torch.rand(b, 1, q, k) < 0.5) if masked else None
        if mask is not None:
            mask[..., 0] = True
        repeated = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.repeat_interleave(heads // kv_heads, dim=1),
            value.repeat_interleave(heads // kv_heads, dim=1),
            attn_mask=mask,
        )
        torch.testing.assert_close(
            grouped_attention(query, key, value, mask), repeated.transpose(1, 2).flatten(2)
        )

    def test_hidden_keys_have_no_say(self) -> None:
        query = torch.randn(1, 2, 4, DIM)
        key, value = torch.randn(2, 1, 2, 3, DIM)
        mask = torch.tensor([[True, False, True], [True, True, False]])[None, None]
        before = grouped_attention(query, key, value, mask)
        value[:, :, 1] += 100
        after = grouped_attention(query, key, value, mask)
        assert torch.equal(before[:, 0], after[:, 0])
        assert not torch.allclose(before[:, 1], after[:, 1])


class TestSpaceAttention:
    def test_frames_do_not_see_one_another(self) -> None:
        layer = SpaceAttention(32, 2, 1)
        where = places(3, 5, space=space_rotation(CPU, 2, 2, 1, DIM))
        x = torch.randn(2, 3, 5, 32)
        (before,) = layer([x], [where])
        x[1, 2, 0] += 1
        changed = (layer([x], [where])[0] != before).any(dim=-1)
        assert changed[1, 2].all()
        changed[1, 2] = False
        assert not changed.any()

    def test_an_image_moved_by_a_patch_is_attended_alike(self) -> None:
        layer = SpaceAttention(32, 2, 1)
        x = torch.randn(1, 1, 4, 32)
        small = layer([x], [places(1, 4, space=space_rotation(CPU, 2, 2, 0, DIM))])
        larger = space_rotation(CPU, 4, 5, 0, DIM).unflatten(1, (4, 5))
        elsewhere = larger[:, 2:4, 3:5].flatten(1, 2)
        torch.testing.assert_close(layer([x], [places(1, 4, space=elsewhere)]), small)


class TestTimeAttention:
    def test_a_token_sees_its_own_place_in_the_window_and_nothing_else(self) -> None:
        layer, t, n, window = TimeAttention(32, 2, 1), 6, 3, 3
        x = torch.randn(1, t, n, 32, requires_grad=True)
        (out,) = layer([x], [places(t, n, window=window)])
        (gradient,) = torch.autograd.grad(out[0, 4, 1].sum(), x)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.nonzero().tolist() == [[2, 1], [3, 1], [4, 1]]

    def test_one_frame_with_a_ring_equals_the_last_of_a_sequence(self) -> None:
        layer, b, t, n = TimeAttention(32, 2, 1), 2, 4, 3
        x = torch.randn(b, t, n, 32)
        (whole,) = layer([x], [places(t, n)])
        sizes = {"batch_size": b, "num_tokens": n, "num_kv_heads": 1, "dim": DIM}
        cache = KVCache(rings=[Ring.of("time", t)], **sizes)
        for i in range(t):
            (out,) = layer([x[:, i : i + 1]], [places(1, n, first=i)], *cache.layers())
            cache.commit()
            torch.testing.assert_close(out[:, 0], whole[:, i])


def test_groups_of_other_shapes_are_seen_as_one_matrix() -> None:
    layer = SwiGLU(8, 24)
    groups = [torch.randn(2, 3, 4, 8), torch.randn(1, 5, 2, 8)]
    seen = []
    layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
    for out, group in zip(together(layer, groups), groups, strict=True):
        torch.testing.assert_close(out, layer(group))
    assert seen[0] == (34, 8)


def test_swiglu_is_a_gate_times_a_value() -> None:
    layer = SwiGLU(8, 24)
    x = torch.randn(2, 3, 4, 8)
    gate, up = layer.gate_up.weight.split(24)
    normed = F.layer_norm(x, (8,))
    expected = (F.silu(normed @ gate.T) * (normed @ up.T)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected)
