"""A corrupted history: boxes of nothing or of another window, and nothing else changed."""

from __future__ import annotations

import pytest
import torch

from worldsim.train.corruption import (
    CorruptedHistory,
    corrupt_history,
    draw_corruption,
    random_boxes,
)

pytestmark = pytest.mark.numeric


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def corrupted_by_lot(
    past: torch.Tensor, recorded: torch.Tensor, fraction: float
) -> CorruptedHistory:
    b, t, _, h, w = past.shape
    return corrupt_history(past, recorded, draw_corruption((b, t, h, w), fraction, seeded()))


def test_boxes_are_complete_and_of_many_sizes() -> None:
    t, h, w = 6, 24, 36
    boxes = random_boxes((400, t, h, w), seeded())
    assert boxes.shape == (400, t, 1, h, w)
    for axis, most in ((1, t), (3, 2 * h // 3), (4, 2 * w // 3)):
        others = [a for a in range(1, 5) if a != axis]
        side = boxes.any(dim=others[0], keepdim=True)
        for a in others[1:]:
            side = side.any(dim=a, keepdim=True)
        inside = side.flatten(1).int()
        assert ((inside.diff(dim=1) != 0).sum(1) <= 2).all()  # one piece
        assert inside.sum(1).max() == most
        assert len(inside.sum(1).unique()) > most // 2
    shadow = boxes.any(1)[:, 0]
    product = shadow.any(1, keepdim=True) & shadow.any(2, keepdim=True)
    assert torch.equal(shadow, product)  # a rectangle
    assert (boxes.float().mean(0) > 0).all()  # every place and time can be hit


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_half_is_erased_and_half_is_foreign(fraction: float) -> None:
    b = 400
    own = torch.arange(1, b + 1).float().view(b, 1, 1, 1, 1).expand(b, 4, 2, 12, 12)
    recorded = own + 1000 + torch.arange(4).view(1, 4, 1, 1, 1)  # everything moves
    corrupted, erased = corrupted_by_lot(own, recorded, fraction)
    nothing, same = corrupted == 0, corrupted == own
    foreign = corrupted == recorded.roll(1, dims=0)
    assert (nothing | same | foreign).all()
    assert torch.equal(nothing, erased.expand_as(nothing))
    for kind in (nothing, foreign):
        share = kind.flatten(1).any(1).float().mean().item()
        assert share == pytest.approx(fraction / 2, abs=0.06 if fraction else 0)
    assert not (nothing.flatten(1).any(1) & foreign.flatten(1).any(1)).any()


def test_corruption_follows_from_the_generator() -> None:
    latents = torch.randn(4, 5, 3, 8, 8)
    one, same = (corrupted_by_lot(latents, latents, 0.7) for _ in range(2))
    assert torch.equal(one.latents, same.latents)
    assert torch.equal(one.erased, same.erased)


def test_pixels_that_move_in_neither_window_are_spared() -> None:
    b = 400
    recorded = torch.ones(b, 4, 1, 12, 12) * torch.arange(1, b + 1).view(b, 1, 1, 1, 1)
    recorded[::2, 1:, :, 3, 4] += 0.5  # in every second window one thing moves, in one place
    corrupted, erased = corrupted_by_lot(recorded, recorded, 1.0)
    changed = (corrupted != recorded).any(dim=1)[:, 0]
    assert changed.any(dim=0).nonzero().tolist() == [[3, 4]]
    assert changed[::2].any()
    assert changed[1::2].any()  # the thing is borrowed, and its place erased
    assert erased.any(dim=0).any(dim=0)[0].nonzero().tolist() == [[3, 4]]
