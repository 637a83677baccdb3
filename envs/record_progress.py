"""Progress of a recording: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_UNTIL_SETTLED = 2.0  # of recording, before the rate is meaningful


class RecordProgress:
    """Shows steps, steps per second and the remaining time, on stderr.

    Args:
        total: Requested steps.
        finished: Steps of the episodes of an earlier run, by number.
    """

    def __init__(self, total: int, finished: Mapping[int, int]) -> None:
        self._total = total
        done, _ = count_needed(finished, {}, total)
        self._begun_with = done
        self._begun_at = self._said_at = time.monotonic()
        self._started = False
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("recording"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, {task.fields[rate]:,.0f} per second, left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=min(done, total), rate=0.0)

    def __enter__(self) -> RecordProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the bar."""
        self._bar.stop()

    def update(self, finished: Mapping[int, int], under_way: Mapping[int, int]) -> None:
        """Show the progress.

        Args:
            finished: Steps of each finished episode, by number.
            under_way: Steps so far of each unfinished episode, by number.
        """
        done, words = count_needed(finished, under_way, self._total)
        now = time.monotonic()
        if not self._started:  # the start of the processes does not count for the rate
            self._started = done > self._begun_with
            self._begun_with, self._begun_at = done, now
        rate = (done - self._begun_with) / max(now - self._begun_at, 0.5)
        self._bar.update(self._task, completed=min(done, self._total), rate=rate)
        settled = now - self._begun_at > SECONDS_UNTIL_SETTLED
        if self._bar.disable and settled and now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said_at = now
            left = max(self._total - done, 0) / max(rate, 1e-3)
            rest = f"{left:,.0f} seconds left" if left else "finishing the last episodes"
            print(
                f"{done:,} of {self._total:,} steps in {words}, {rate:,.0f} per second, {rest}",
                file=sys.stderr,
                flush=True,
            )


def count_needed(
    finished: Mapping[int, int], under_way: Mapping[int, int], total: int
) -> tuple[int, str]:
    """Count the steps of the episodes that will be kept: the first ones, until they are enough.

    Later episodes are begun in case they are needed, and deleted at the end.

    Args:
        finished: Steps of each finished episode, by number.
        under_way: Steps so far of each unfinished episode, by number.
        total: Requested steps.

    Returns:
        Their steps so far, and their number in words.

    Example:
        >>> count_needed({0: 900, 2: 938, 3: 700}, {1: 400}, 2000)
        (2238, '2 episodes and 1 under way')
    """
    steps = done = number = 0
    while steps < total and (number in finished or number in under_way):
        steps += finished.get(number, under_way.get(number, 0))
        done += number in finished
        number += 1
    words = f"{done:,} episode{'s' if done != 1 else ''}"
    return steps, words + (f" and {number - done} under way" if number > done else "")
