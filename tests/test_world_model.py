from __future__ import annotations

import pytest

from tests.tiny_worlds import make_tiny_world

pytestmark = pytest.mark.numeric


def test_its_repr_describes_it_in_a_line() -> None:
    world = make_tiny_world()
    number = sum(p.numel() for p in world.parameters())
    assert repr(world) == (
        f"WorldModel(game='tests/Square-v0', frame_size=(16, 16), parameters={number:,}, "
        "window=4, num_passes=2, device='cpu')"
    )
