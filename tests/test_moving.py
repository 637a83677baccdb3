"""Where training puts its weight: on what is there, was there, and might have gone there."""

from __future__ import annotations

import pytest
import torch

from worldsim.moving import moving_places

pytestmark = pytest.mark.numeric


def test_moving_places_are_where_things_are_were_and_might_have_gone() -> None:
    background = torch.full((16, 16, 3), 100, dtype=torch.uint8)
    frames = background.repeat(1, 4, 1, 1, 1)
    frames[0, 1, 2, 3] = 200
    frames[0, 3, 8, 9, 1] += 13  # one channel, just beyond shading
    frames[0, 3, 7, 7] -= 12
    mask = moving_places(frames, background, (16, 16), 0.6)
    assert mask.shape == (1, 4, 1, 16, 16)
    assert (mask > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 2, 3], [2, 2, 3], [3, 8, 9]]
    assert mask[0, [1, 2, 3], 0, [2, 2, 8], [3, 3, 9]].tolist() == pytest.approx([1, 1, 1])
    near = torch.zeros(16, 16)
    near[:8, :9] = 0.4  # 5 pixels around row 2, column 3
    near[2, 3] = 1.0
    torch.testing.assert_close(mask[0, 2, 0], near)
    assert not mask[0, 0].any()
    halved = moving_places(frames, background, (8, 8), 0.6)
    assert (halved > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 1, 1], [2, 1, 1], [3, 4, 4]]


def test_what_appears_out_of_nowhere_counts_in_full_and_what_moves_near_by_as_presence_says() -> (
    None
):
    background = torch.zeros(24, 24, 3, dtype=torch.uint8)
    frames = background.repeat(1, 3, 1, 1, 1)
    frames[0, 0, 4, 4] = 255
    frames[0, 1, 4, 6] = 255  # moved by two
    frames[0, 1, 20, 20] = 255  # out of nowhere
    frames[0, 2, 4, 8] = 255
    frames[0, 2, 20, 20] = 255
    for presence in (0.0, 0.15, 0.6):
        mask = moving_places(frames, background, (24, 24), presence)
        assert mask[0, 1, 0, 20, 20] == pytest.approx(1)
        assert mask[0, 2, 0, 20, 20] == pytest.approx(1)
        assert mask[0, 1, 0, 4, 7] == pytest.approx(1 - presence)  # where it might have gone
        assert mask[0, 1, 0, 12, 12] == 0
