"""Pictures and tables in docs/concepts/tokens.md show what the code does."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests.benchmarks.concept_attention import ATTENTIONS, seen_by
from tests.benchmarks.concept_tokens import NUM_SPECIAL
from tests.benchmarks.draw_concepts import (
    FOLDER,
    PAGE,
    PICTURES,
    table_of_actions,
    table_of_tokens,
)
from tests.benchmarks.svg import rectangles
from tests.tiny_worlds import make_tiny_dit
from worldsim.model.dit import Block, VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.layers import (
    Places,
    SpaceAttention,
    space_rotation,
    spacetime_rotation,
    time_rotation,
)
from worldsim.model.layout import Layout
from worldsim.model.patterns import Pattern, times_seen

WINDOW = 6


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    drawn = str(PICTURES[name]())
    ElementTree.fromstring(drawn)
    found = (FOLDER / f"{name}.svg").read_bytes()
    assert found == drawn.encode(), "draw it anew: python -m tests.benchmarks.draw_concepts"


def test_the_page_has_each_picture_and_the_tables_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {path.stem for path in FOLDER.iterdir()} >= set(PICTURES)
    assert all(f"(pictures/{name}.svg)" in page for name in PICTURES)
    assert table_of_tokens() in page
    assert table_of_actions() in page
    assert VideoDiT(DiTConfig(num_actions=1, depth=1)).num_special == NUM_SPECIAL


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_drawn_mask_is_what_a_layer_attends_to(attention: str) -> None:
    layout = Layout(times=8, rows=2, columns=3, num_special=1)
    dit = make_tiny_dit(depth=1, window=WINDOW, attention=(attention,))
    (block,) = dit.blocks
    assert isinstance(block, Block)
    space = space_rotation(torch.device("cpu"), 2, 3, 1, dit.head_dim)
    half = space_rotation(torch.device("cpu"), 2, 3, 1, dit.head_dim // 2)
    at = torch.arange(layout.times)[None]
    place = Places(
        layout,
        space,
        time_rotation(at, dit.head_dim),
        times_seen(layout.times, WINDOW, Pattern())[:, :-1],
        spacetime_rotation(half, time_rotation(at, dit.head_dim // 2)),
    )
    tokens = torch.randn(1, layout.times, layout.tokens_per_time, dit.config.width)

    def attend(tokens: torch.Tensor) -> torch.Tensor:
        layer = block.space or block.time
        assert layer is not None
        if isinstance(layer, SpaceAttention):
            return layer([tokens], [place])[0].sum((0, -1)).flatten()
        return layer([tokens], [place], None)[0].sum((0, -1)).flatten()

    gradients = torch.autograd.functional.jacobian(attend, tokens)  # (N 1 t n d)
    attended = (gradients != 0).any(-1).flatten(1)
    plain, sink = seen_by(layout, WINDOW, attention)
    assert not (plain & sink).any()
    np.testing.assert_array_equal(attended.numpy(), plain | sink)


def test_rectangles_cover_a_mask_once() -> None:
    mask = np.random.default_rng(0).random((9, 12)) < 0.6
    count = np.zeros(mask.shape, int)
    for left, top, width, height in rectangles(mask):
        count[top : top + height, left : left + width] += 1
    np.testing.assert_array_equal(count, mask)
