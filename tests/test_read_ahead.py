"""Reading ahead: the same items as without it, errors where they belong, and no thread left."""

from __future__ import annotations

import threading

import pytest

from worldsim.train.read_ahead import ReadAhead


def reading_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("read ahead")]


@pytest.mark.parametrize("num_ahead", [0, 1, 2])
def test_each_step_gets_its_item_and_none_is_left_out(num_ahead: int) -> None:
    read: list[int] = []

    def square(step: int) -> int:
        read.append(step)
        return step**2

    with ReadAhead(square, num_ahead) as squares:
        # in order, twice in a row, and from elsewhere on
        assert [squares.at(step) for step in (5, 6, 6, 7, 100)] == [25, 36, 36, 49, 10_000]
    assert len(read) == len(set(read)) or not num_ahead
    assert set(read) <= {*range(5, 8 + num_ahead), *range(100, 101 + num_ahead)}
    assert reading_threads() == []


def test_the_next_item_is_read_while_a_step_computes() -> None:
    begun = threading.Event()

    def read(step: int) -> int:
        if step == 1:
            begun.set()
        return step

    with ReadAhead(read, num_ahead=2) as items:
        items.at(0)
        assert begun.wait(10)


def test_an_error_is_raised_at_its_step_and_leaves_no_thread() -> None:
    def read(step: int) -> int:
        if step == 2:
            raise ValueError("the shard of step 2 is damaged")
        return step

    with ReadAhead(read, num_ahead=2) as items:
        assert [items.at(step) for step in (0, 1)] == [0, 1]
        with pytest.raises(ValueError, match="of step 2 is damaged"):
            items.at(2)
    assert reading_threads() == []
