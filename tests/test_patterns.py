"""Attention patterns: the same rule in a sequence, in a ring cache and in FlexAttention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from tests.tiny_worlds import make_tiny_dit
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput, VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.layers import without_time
from worldsim.model.layout import Layout
from worldsim.model.patterns import (
    LayerAttention,
    Pattern,
    Ring,
    neighbours,
    places_seen,
    times_seen,
)
from worldsim.model.spacetime import by_times, flex

pytestmark = pytest.mark.numeric

WINDOW = 8
PATTERNS = [
    Pattern(),
    Pattern(near=3),
    Pattern(near=3, sink=True),
    Pattern(near=2, stride=3),
    Pattern(near=2, stride=3, sink=True),
    Pattern(reach=1),
    Pattern(near=3, reach=1, sink=True),
    Pattern(near=2, reach=2, stride=4),
]
CPU = torch.device("cpu")
LAYERS = [
    "full",
    "local:near=3,reach=1",
    "strided:near=2,stride=3",
    "strided:near=1,stride=5,sink=1",
]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def make_inputs(dit: VideoDiT, b: int, t: int, h: int, w: int) -> tuple[torch.Tensor, Conditions]:
    c, k = dit.config.latent_channels, dit.config.num_history
    actions = torch.randint(dit.config.num_actions, (b, t))
    history = torch.randn(b, t, k * c, h, w)
    return torch.randn(b, t, c, h, w), Conditions(torch.rand(b, t), actions, history)


def frame(inputs: tuple[torch.Tensor, Conditions], t: int) -> tuple[torch.Tensor, Conditions]:
    latents, conditions = inputs
    return latents[:, t : t + 1], Conditions(*(part[:, t : t + 1] for part in conditions[:3]))


def masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    pattern: Pattern,
) -> torch.Tensor:
    """The rule written out: attention over all tokens with one mask."""
    times = times_seen(layout.times, WINDOW, pattern)
    places = places_seen(layout, pattern.reach)
    mask = rearrange(times[:, None, :, None] & places[:, None], "t n s m -> (t n) (s m)")
    key = torch.cat((key, without_time(key[:, :1])), dim=1)
    value = torch.cat((value, value[:, :1]), dim=1)
    groups = query.shape[3] // key.shape[3]
    key, value = (repeat(a, "b s m kv d -> b (kv g) (s m) d", g=groups) for a in (key, value))
    query = rearrange(query, "b t n heads d -> b heads (t n) d")
    out = F.scaled_dot_product_attention(query, key, value, mask)
    return rearrange(out, "b heads (t n) d -> b t n (heads d)", t=layout.times)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("layout", [Layout(11, 5, 3, 2), Layout(1, 4, 4, 0), Layout(3, 1, 1, 4)])
def test_a_sequence_is_attended_by_the_rule(pattern: Pattern, layout: Layout) -> None:
    shape = 2, layout.times, layout.tokens_per_time
    query, key, value = (torch.randn(*shape, heads, 16) for heads in (4, 2, 2))
    expected = masked(query, key, value, layout, pattern)
    torch.testing.assert_close(by_times(query, key, value, layout, WINDOW, pattern), expected)
    by_flex = flex(query, key, value, layout, WINDOW, pattern, compiled=False)
    torch.testing.assert_close(by_flex, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.no_grad()
def test_the_compiled_kernel_of_flexattention_agrees() -> None:
    pattern, layout = Pattern(near=3, reach=1, sink=True), Layout(9, 8, 8, 4)
    query, key, value = (torch.randn(1, 9, 68, heads, 32) for heads in (4, 2, 2))
    expected = by_times(query, key, value, layout, WINDOW, pattern)
    compiled = flex(query, key, value, layout, WINDOW, pattern)
    torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_slots_of_a_ring_hold_what_a_sequence_sees(pattern: Pattern) -> None:
    length = 40
    ring = Ring.of(pattern, WINDOW)
    held: list[int | None] = [None] * ring.num_slots
    rule = times_seen(length, WINDOW, pattern)
    for time in range(length):
        position = torch.tensor([time])
        for slot in ring.slots(position):
            held[int(slot)] = time
        seen = [held[slot] for slot in ring.seen(position)[0].nonzero()[:, 0].tolist()]
        in_sequence = rule[time].nonzero()[:, 0].tolist()
        in_sequence = [0 if column == length else column for column in in_sequence]
        assert sorted(seen) == sorted(in_sequence)


@pytest.mark.parametrize("attention", LAYERS)
@torch.no_grad()
def test_the_ring_cache_equals_the_sequence(attention: str) -> None:
    dit = make_tiny_dit(depth=2, window=WINDOW, attention=(f"space+{attention}", attention)).eval()
    inputs = make_inputs(dit, 2, 3 * WINDOW, 20, 12)
    cache = dit.new_cache(2, (20, 12))
    outputs = []
    for t in range(3 * WINDOW):
        dit(*make_inputs(dit, 2, 1, 20, 12), cache)  # a provisional pass
        outputs.append(dit(*frame(inputs, t), cache))
        cache.commit()
    whole = dit(*inputs)
    for part, expected in zip(zip(*outputs, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(part, dim=1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", LAYERS)
@torch.no_grad()
def test_first_frames_at_once_fill_the_ring_as_one_by_one(attention: str) -> None:
    dit = make_tiny_dit(depth=2, window=WINDOW, attention=(attention,)).eval()
    inputs = make_inputs(dit, 2, WINDOW, 16, 16)
    one_by_one, at_once = dit.new_cache(2, (16, 16)), dit.new_cache(2, (16, 16))
    for t in range(WINDOW):
        dit(*frame(inputs, t), one_by_one)
        one_by_one.commit()
    dit(*inputs, at_once)
    at_once.commit(WINDOW)
    newest = make_inputs(dit, 2, 1, 16, 16)
    for ours, theirs in zip(dit(*newest, at_once), dit(*newest, one_by_one), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sink_is_seen_alike_however_late_it_is() -> None:
    dit = make_tiny_dit(depth=1, window=WINDOW, attention=("local:near=2,reach=1",)).eval()
    first, newest = make_inputs(dit, 1, 1, 16, 16), make_inputs(dit, 1, 2, 16, 16)
    outputs: list[DiTOutput] = []
    for late in (10, 5_000):
        cache = dit.new_cache(1, (16, 16))
        dit(*first, cache)
        cache.commit(late)
        for t in range(2):
            output = dit(*frame(newest, t), cache)
            cache.commit()
        outputs.append(output)
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


def test_gradients_reach_what_is_seen_and_nothing_else() -> None:
    pattern, layout = Pattern(near=2, reach=1, sink=True), Layout(5, 3, 4, 1)
    key = torch.randn(1, 5, layout.tokens_per_time, 2, 16, requires_grad=True)
    query, value = torch.randn_like(key), torch.randn_like(key)
    out = by_times(query, key, value, layout, WINDOW, pattern)
    (gradient,) = torch.autograd.grad(out[0, 3, 0].sum(), key)  # upper left patch of time 3
    seen = gradient[0].abs().sum((-1, -2)) > 0
    places = [0, 1, 4, 5, 12]  # its neighbours, and the special token
    assert seen.nonzero().tolist() == [[t, place] for t in (0, 2, 3) for place in places]


def test_tiles_know_all_neighbours_and_cost_grows_with_the_frame() -> None:
    layout = Layout(1, 12, 7, 3)
    tiles = neighbours(CPU, layout, 2)
    rule = places_seen(layout, 2)
    for query in range(layout.num_patches):
        tile, at = divmod(int(tiles.places[query]), tiles.queries.shape[1])
        assert tiles.queries[tile, at] == query
        keys = tiles.keys[tile, tiles.mask[tile, at]].tolist()
        assert sorted(keys) == rule[query].nonzero()[:, 0].tolist()
    products = [
        neighbours(CPU, Layout(1, side, side, 3), 2).mask.numel() / side**2 for side in (16, 64)
    ]
    assert products[0] == products[1]


@torch.no_grad()
def test_groups_of_other_sizes_and_lengths_share_a_batch() -> None:
    for attention in ((), ("space", "local:near=3,reach=1", "space+full")):
        dit = make_tiny_dit(depth=3, window=WINDOW, attention=attention, chance_bits=2).eval()
        sizes = [(2, 6, 16, 16), (5, 1, 16, 16), (1, 9, 24, 20)]
        groups = [make_inputs(dit, *size) for size in sizes]
        outputs = dit(*map(list, zip(*groups, strict=True)))
        for output, (latents, conditions) in zip(outputs, groups, strict=True):
            for b in range(len(latents)):
                one = Conditions(*(part[b : b + 1] for part in conditions[:3]))
                alone = dit(latents[b : b + 1], one)
                for ours, theirs in zip(output, alone, strict=True):
                    torch.testing.assert_close(ours[b : b + 1], theirs, atol=1e-5, rtol=1e-4)


def test_layers_take_turns_and_the_default_is_factorised() -> None:
    config = DiTConfig(num_actions=2, depth=4, time_every=3)
    assert config.layer_attentions == ["space", "space", "space+time", "space"]
    config = DiTConfig(num_actions=2, depth=3, attention=("local:near=8", "full"))
    assert config.layer_attentions == ["local:near=8", "full", "local:near=8"]
    assert LayerAttention.parse("local:near=8") == (False, Pattern(near=8, reach=2, sink=True))


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("space+space", "a layer of attention is space, time, full, local or strided, or space"),
        ("time+full", "a layer of attention is"),
        ("dense", "attention must be space, time, full, local, strided, got 'dense'"),
        ("local:far=2", "a pattern's numbers are given as near=4,reach=2,stride=4,sink=1, got"),
        ("local:near=0", "near must be a whole number from 1"),
        ("time:near=2", "attention must be"),
        ("", "attention must be"),
    ],
)
def test_an_unknown_attention_is_a_sentence(attention: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(num_actions=2, attention=(attention,))
