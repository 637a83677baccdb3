"""Reads what the next steps need, while a step computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

NUM_AHEAD = 2  # steps; each is read by a thread of its own


class ReadAhead(Generic[Item]):
    """Gives the item of each step, and reads those of the next steps in the background.

    Leaving it waits for the reads that have begun and cancels the others, so no thread is left.

    Args:
        read: Reads the item of a step, in any thread. Its errors are raised by `at`.

    Example:
        >>> with ReadAhead(lambda step: step**2) as squares:
        ...     squares.at(3), squares.at(4)
        (9, 16)
    """

    def __init__(self, read: Callable[[int], Item]) -> None:
        self._read = read
        self._threads = ThreadPoolExecutor(NUM_AHEAD, "read ahead")
        self._items: dict[int, Future[Item]] = {}

    def at(self, step: int) -> Item:
        """The item of a step; asked twice in a row, it is not read again."""
        wanted = range(step, step + 1 + NUM_AHEAD)
        for other in self._items.keys() - set(wanted):
            self._items.pop(other).cancel()
        for each in wanted:
            if each not in self._items:
                self._items[each] = self._threads.submit(self._read, each)
        return self._items[step].result()

    def __enter__(self) -> ReadAhead[Item]:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
