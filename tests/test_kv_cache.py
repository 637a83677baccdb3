from __future__ import annotations

import pytest
import torch

from worldsim.model.kv_cache import KVCache
from worldsim.model.patterns import Ring

pytestmark = pytest.mark.numeric

LAYERS, LANES, TOKENS, HEADS, DIM, WINDOW = 2, 3, 5, 2, 4, 4


def new_cache(batch_size: int = LANES) -> KVCache:
    return KVCache(
        rings=[Ring.of("time", WINDOW)] * LAYERS,
        batch_size=batch_size,
        num_tokens=TOKENS,
        num_kv_heads=HEADS,
        dim=DIM,
    )


def write(cache: KVCache, number: float) -> None:
    """One pass over a frame: its number as every key, and the negative as every value."""
    for layer in cache.layers():
        key = torch.full((len(cache.positions), TOKENS, HEADS, DIM), number)
        layer.write(key, -key)


def seen(cache: KVCache) -> list[list[bool]]:
    return cache.layers()[0].seen.tolist()


def held(cache: KVCache, lane: int) -> list[float]:
    """Numbers of the frames in a lane's slots, 0 where nothing was ever written."""
    keys, values = (torch.stack(each)[:, lane] for each in (cache.keys, cache.values))
    assert torch.equal(keys, -values)
    numbers = keys[0, 0, 0, :, 0]
    assert torch.equal(keys, numbers[None, None, None, :, None].expand_as(keys))
    return numbers.tolist()


def test_frame_p_lives_in_slot_p_modulo_the_window() -> None:
    cache = new_cache()
    for frame in range(6):
        assert seen(cache)[0] == [slot <= frame for slot in range(WINDOW)]
        write(cache, 10.0 + frame)
        cache.commit()
    assert held(cache, 0) == [14, 15, 12, 13]
    assert cache.positions.tolist() == [6] * LANES


def test_a_pass_replaces_the_one_before_it_until_the_frame_is_committed() -> None:
    cache, plain = new_cache(), new_cache()
    for frame in range(7):
        for provisional in (901.0, 902.0):
            write(cache, provisional)
        write(cache, frame + 1.0)
        write(plain, frame + 1.0)
        cache.commit()
        plain.commit()
        assert all(map(torch.equal, cache.tensors(), plain.tensors()))


def test_a_pass_touches_only_the_frame_that_has_left_the_window() -> None:
    cache = new_cache()
    for frame in range(WINDOW + 1):
        write(cache, 1.0 + frame)
        cache.commit()
    before = torch.stack(cache.keys)
    write(cache, 99.0)  # frame 5 of the rollout, in the slot of frame 1
    changed = (torch.stack(cache.keys) != before).flatten(0, 3).any(dim=0).any(dim=-1)
    assert changed.tolist() == [False, True, False, False]


def test_lanes_at_different_frames_write_into_their_own_slots() -> None:
    cache = new_cache()
    cache.positions[:] = torch.tensor([0, 6, 100_003])
    write(cache, 7.0)
    assert held(cache, 0) == [7, 0, 0, 0]
    assert held(cache, 1) == [0, 0, 7, 0]
    assert held(cache, 2) == [0, 0, 0, 7]
    assert seen(cache) == [[True, False, False, False], [True] * 4, [True] * 4]


def test_copy_lanes_overwrites_the_named_lanes_only() -> None:
    cache, source = new_cache(), new_cache(2)
    for frame in range(3):
        write(cache, 1.0 + frame)
        cache.commit()
    write(source, 50.0)
    source.commit()
    for keys, values in zip(source.keys, source.values, strict=True):
        keys[1] += 1
        values[1] -= 1
    cache.copy_lanes(source, torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert cache.positions.tolist() == [1, 3, 1]
    assert held(cache, 2) == [50, 0, 0, 0]
    assert held(cache, 0) == [51, 1, 1, 1]
    assert held(cache, 1) == [1, 2, 3, 0]
    write(source, 60.0)  # nothing is shared afterwards
    assert held(cache, 2) == [50, 0, 0, 0]


def test_a_clone_is_independent() -> None:
    cache = new_cache()
    write(cache, 1.0)
    cache.commit()
    clone = cache.clone()
    write(clone, 2.0)
    clone.commit()
    assert (held(cache, 0), cache.positions.tolist()) == ([1, 0, 0, 0], [1] * LANES)
    write(cache, 3.0)
    cache.commit()
    assert (held(clone, 0), clone.positions.tolist()) == ([1, 2, 0, 0], [2] * LANES)


def test_nothing_grows_or_moves_in_memory() -> None:
    cache = new_cache()
    before = [(tensor.data_ptr(), tensor.shape) for tensor in cache.tensors()]
    for frame in range(50):
        write(cache, float(frame))
        cache.commit()
    assert [(tensor.data_ptr(), tensor.shape) for tensor in cache.tensors()] == before


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_empty_ring_holds_zeros_of_the_given_shape(batch_size: int) -> None:
    cache = new_cache(batch_size)
    shape = (batch_size, TOKENS, HEADS, WINDOW, DIM)
    assert [keys.shape for keys in cache.keys] == [shape] * LAYERS
    assert not torch.stack(cache.keys).any()
    assert not cache.positions.any()
