"""How far a run is: a bar with the time that is left, plain lines where there is no terminal."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

SECONDS_BETWEEN_LINES = 30.0
SECONDS_TO_FIRST_LINE = 5.0
RECENT_STEPS = 50


class TrainProgress:
    """Shows step, a figure, frames per second and the time that is left, on stderr.

    Args:
        fraction: How far the run was when it was taken up again, in [0, 1].
        figure: What is watched.
    """

    def __init__(self, fraction: float = 0.0, figure: str = "loss") -> None:
        self._figure = figure
        self._begun_with, self._begun_at = fraction, time.monotonic()
        self._said_at = self._begun_at + SECONDS_TO_FIRST_LINE - SECONDS_BETWEEN_LINES
        self._shown_at: float | None = None
        self._values: deque[float] = deque(maxlen=RECENT_STEPS)
        self._step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1.0)
        self._bar.update(self._task, completed=min(fraction, 1.0))

    def __enter__(self) -> TrainProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def note(self, sentence: str) -> None:
        """Say something above the bar."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def show(self, fraction: float, step: int, value: float, num_frames: int) -> None:
        """Show how far the run is; called once a step.

        Args:
            fraction: How much of the run is done, in [0, 1].
            step: Steps done.
            value: The figure at this step, nan if there is none yet; the mean of recent ones is
                shown.
            num_frames: Frames of a step.
        """
        now = time.monotonic()
        if self._shown_at is not None:
            self._step_seconds.append(now - self._shown_at)
        self._shown_at = now
        if math.isfinite(value):
            self._values.append(value)
        words = f"step {step:,}"
        if self._values:
            words += f", {self._figure} {statistics.fmean(self._values):.4f}"
        if self._step_seconds:  # the median, since a step with an evaluation before it says little
            words += f", {num_frames / statistics.median(self._step_seconds):,.0f} frames/s"
        gained = fraction - self._begun_with
        if gained > 0:
            words += f", {duration((now - self._begun_at) * (1 - fraction) / gained)} left"
        self._bar.update(self._task, completed=min(fraction, 1.0), description=words)
        if self._bar.disable and now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said_at = now
            self.note(f"{fraction:4.0%}  {words}")


def duration(seconds: float) -> str:
    """A time a person reads at a glance.

    Example:
        >>> duration(75), duration(7380)
        ('1:15', '2:03:00')
    """
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
