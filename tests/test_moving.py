"""Where training puts its weight: on what is there, was there, and might have gone there."""

from __future__ import annotations

import pytest
import torch

from worldsim.moving import moving_places


def test_moving_places_are_where_things_are_were_and_might_have_gone() -> None:
    background = torch.full((16, 16, 3), 100, dtype=torch.uint8)
    frames = background.repeat(1, 4, 1, 1, 1)
    frames[0, 1, 2, 3] = 200
    frames[0, 3, 8, 9, 1] += 13  # one channel, just beyond shading
    frames[0, 3, 7, 7] -= 12
    mask = moving_places(frames, background, (16, 16), 0.6)
    assert mask.shape == (1, 4, 1, 16, 16)
    assert (mask > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 2, 3], [2, 2, 3], [3, 8, 9]]
    assert mask[0, [1, 2, 3], 0, [2, 2, 8], [3, 3, 9]].tolist() == pytest.approx([0.6, 1, 0.6])
    near = torch.zeros(16, 16)
    near[:8, :9] = 0.4  # 5 pixels around row 2, column 3
    near[2, 3] = 1.0
    torch.testing.assert_close(mask[0, 2, 0], near)
    assert not mask[0, 0].any()
    halved = moving_places(frames, background, (8, 8), 0.6)
    assert (halved > 0.5).nonzero()[:, [1, 3, 4]].tolist() == [[1, 1, 1], [2, 1, 1], [3, 4, 4]]
    assert not moving_places(frames, background, (8, 8), 0.0)[0, 3].any()
