"""Progress of a run: a bar with the remaining time, or plain lines without a terminal."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS_BETWEEN_LINES = 30.0
SECONDS_TO_FIRST_LINE = 5.0
SECONDS_TO_SETTLE = 5.0  # before the remaining time is estimated
RECENT_STEPS = 50


class TimeLeft:
    """Estimates the remaining time from the progress so far.

    Args:
        clock: A monotonic clock in seconds.

    Example:
        >>> now = 0.0
        >>> left = TimeLeft(clock=lambda: now)
        >>> left.words(0.25)
        ''
        >>> now = 10.0
        >>> left.words(0.5)
        ', 0:20 left'
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: tuple[float, float] | None = None

    def words(self, fraction: float) -> str:
        """The remaining time at a finished share in [0, 1]; empty while it is unknown."""
        now = self._clock()
        if self._begun is None:
            self._begun = now, fraction
        seconds, gained = now - self._begun[0], fraction - self._begun[1]
        if seconds < SECONDS_TO_SETTLE or gained <= 0:
            return ""
        return f", {duration(seconds * (1 - fraction) / gained)} left"


class TaskProgress:
    """Shows one task after the other, with the remaining time, on stderr.

    Args:
        quiet: Whether to show nothing, as another process shows it.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._said_at = time.monotonic() + SECONDS_TO_FIRST_LINE - SECONDS_BETWEEN_LINES
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.fields[doing]}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bar."""
        self._bar.stop()

    def note(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, doing: str) -> Iterator[Callable[[float], None]]:
        """Show a task, below what else is shown.

        Args:
            doing: What is done, such as ``evaluating``.

        Yields:
            A function to call with the finished share, in [0, 1].
        """
        left = TimeLeft()
        task = self._bar.add_task("", total=1.0, doing=doing)
        self._said_at = time.monotonic() + SECONDS_TO_FIRST_LINE - SECONDS_BETWEEN_LINES

        def show(fraction: float) -> None:
            words = left.words(fraction)
            self._bar.update(task, completed=fraction, description=words.removeprefix(", "))
            self._say_now_and_then(f"{fraction:4.0%}  {doing}{words}")

        try:
            yield show
        finally:
            self._bar.remove_task(task)

    def _say_now_and_then(self, line: str) -> None:
        now = time.monotonic()
        if self._bar.disable and now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said_at = now
            self.note(line)


class TrainProgress(TaskProgress):
    """Shows step, a figure, frames per second and the remaining time, on stderr.

    Args:
        fraction: Finished share of a resumed run, in [0, 1].
        figure: Name of the figure.
        quiet: Whether to show nothing, as another process shows it.
    """

    def __init__(self, fraction: float = 0.0, figure: str = "loss", *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._figure = figure
        self._left = TimeLeft()
        self._valued_at: float | None = None
        self._values: deque[float] = deque(maxlen=RECENT_STEPS)
        self._step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._task = self._bar.add_task("starting", total=1.0, doing="training")
        self._bar.update(self._task, completed=min(fraction, 1.0))

    def show(self, fraction: float, step: int, values: Sequence[float], num_frames: int) -> None:
        """Show the progress of the run; called once per step.

        Args:
            fraction: Finished share of the run, in [0, 1].
            step: Steps done.
            values: The figure at each step since the last one that was given, nan if it has none;
                none, if it is not known yet. The mean of recent values is shown.
            num_frames: Frames per step.
        """
        now = time.monotonic()
        if values:
            if self._valued_at is not None:
                self._step_seconds.append((now - self._valued_at) / len(values))
            self._valued_at = now
        self._values.extend(value for value in values if math.isfinite(value))
        words = f"step {step:,}"
        if self._values:
            words += f", {self._figure} {statistics.fmean(self._values):.4f}"
        if self._step_seconds:  # the median: a step after an evaluation is an outlier
            words += f", {num_frames / statistics.median(self._step_seconds):,.0f} frames/s"
        words += self._left.words(fraction)
        self._bar.update(self._task, completed=min(fraction, 1.0), description=words)
        self._say_now_and_then(f"{fraction:4.0%}  {words}")

    def evaluating(self) -> AbstractContextManager[Callable[[float], None]]:
        """Show an evaluation below the training, see `task`."""
        return self.task("evaluating")


def duration(seconds: float) -> str:
    """Format a time as minutes and seconds, or hours, minutes and seconds.

    Example:
        >>> duration(75), duration(7380)
        ('1:15', '2:03:00')
    """
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
