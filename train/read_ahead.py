"""Reads what the next steps need, while a step computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Gives the item of each step, and reads those of the next steps in the background.

    Leaving it waits for the reads that have begun and cancels the others, so no thread is left.

    Args:
        read: Reads the item of a step, in any thread. Its errors are raised by `at`.
        num_ahead: Steps to read ahead, each by a thread of its own; 0: none.

    Example:
        >>> with ReadAhead(lambda step: step**2, num_ahead=2) as squares:
        ...     squares.at(3), squares.at(4)
        (9, 16)
    """

    def __init__(self, read: Callable[[int], Item], num_ahead: int) -> None:
        self._read = read
        self._num_ahead = num_ahead
        self._threads = ThreadPoolExecutor(max(num_ahead, 1), "read ahead")  # begins none yet
        self._items: dict[int, Future[Item]] = {}

    def at(self, step: int) -> Item:
        """The item of a step; if steps are read ahead, asking twice in a row reads once."""
        if not self._num_ahead:
            return self._read(step)
        wanted = range(step, step + 1 + self._num_ahead)
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
