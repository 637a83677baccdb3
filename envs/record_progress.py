"""How far a recording is: a bar in a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
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
SECONDS_UNTIL_SETTLED = 2.0  # of recording, before a rate means something


class RecordProgress:
    """Shows steps, steps a second and the time that is left, on stderr.

    Args:
        total: Steps that are asked for.
        done: Steps that were there before.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._begun_with = done
        self._begun_at = self._said_at = time.monotonic()
        self._started = False
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("recording"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, {task.fields[rate]:,.0f} a second, left"),
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
        """Leave the bar as it is."""
        self._bar.stop()

    def update(self, finished: int, under_way: int, episodes: int) -> None:
        """Show how far it is.

        Args:
            finished: Steps of finished episodes.
            under_way: Steps of the episodes that are being recorded.
            episodes: Finished episodes.
        """
        done = finished + under_way
        now = time.monotonic()
        if not self._started:  # the processes took a while to come up, which tells no rate
            self._started = done > self._begun_with
            self._begun_with, self._begun_at = done, now
        rate = (done - self._begun_with) / max(now - self._begun_at, 0.5)
        self._bar.update(self._task, completed=min(done, self._total), rate=rate)
        settled = now - self._begun_at > SECONDS_UNTIL_SETTLED
        if self._bar.disable and settled and now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said_at = now
            left = max(self._total - done, 0) / max(rate, 1e-3)
            print(
                f"{min(done, self._total):,} of {self._total:,} steps, {episodes:,} episodes, "
                f"{rate:,.0f} steps a second, {left:,.0f} seconds left",
                file=sys.stderr,
                flush=True,
            )
