"""How far a run is: a bar with the time that is left, plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

SECONDS_BETWEEN_LINES = 30.0


class TrainProgress:
    """Shows step, loss, frames per second and the time that is left, on stderr.

    Args:
        fraction: How far the run was when it was taken up again, in [0, 1].
    """

    def __init__(self, fraction: float = 0.0) -> None:
        self._begun_with, self._begun_at = fraction, time.monotonic()
        self._said_at = 0.0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1.0, completed=fraction)

    def __enter__(self) -> TrainProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def note(self, sentence: str) -> None:
        """Say something above the bar."""
        self._console.print(sentence, highlight=False, soft_wrap=True)

    def show(self, fraction: float, step: int, figures: Mapping[str, float]) -> None:
        """Show how far the run is, by the figures of ``summarize``."""
        now = time.monotonic()
        gained = fraction - self._begun_with
        left = (now - self._begun_at) * (1 - fraction) / gained if gained > 0 else 0.0
        words = (
            f"step {step:,}, loss {figures['loss/frame']:.4f}, "
            f"{figures['frames_per_second']:,.0f} frames/s, {duration(left)} left"
        )
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
