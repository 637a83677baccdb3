"""The pace of play: that of the recorded game, or the fastest of this machine if it is slower."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

SPEEDS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
MEASURED_SECONDS = 1.5
SLOW_BELOW = 0.93  # of the wanted rate: clocks and queues cost a percent or two


class Pace:
    """Schedules frames and measures the rate.

    Frames are due on a grid of ``1 / (fps * speed)`` seconds. One late frame is caught up, more are
    not: a machine that cannot keep up plays slower instead of skipping.

    Args:
        fps: Frames per second of the recorded game, above 0.
        speed: Factor on it; the keys choose from :data:`SPEEDS`.
        clock: A monotonic clock in seconds.

    Raises:
        ValueError: If ``fps`` or ``speed`` is not above 0.

    Example:
        >>> now = 0.0
        >>> pace = Pace(10, clock=lambda: now)
        >>> pace.seconds_until_due()
        0.0
        >>> now = 0.02
        >>> pace.mark(work_seconds=0.02)
        >>> pace.seconds_until_due()
        0.08
    """

    def __init__(
        self, fps: float, speed: float = 1.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        for name, value in (("fps", fps), ("speed", speed)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, got {value}")
        self.fps = fps
        self.speed = speed
        self._clock = clock
        self.restart()

    @property
    def wanted_fps(self) -> float:
        """Frames per second at the chosen speed, which is the upper limit."""
        return self.fps * self.speed

    def restart(self) -> None:
        """Reset the measurement, after a pause or a change of speed or game."""
        self._due: float | None = None
        self._until, self._num_ahead = 0.0, 0  # the end of a step, and its frames still to come
        self._marks: deque[float] = deque()
        self._work: deque[float] = deque(maxlen=60)

    def change_speed(self, steps: int) -> None:
        """Move ``steps`` places along :data:`SPEEDS`, stopping at either end."""
        nearest = min(range(len(SPEEDS)), key=lambda index: abs(SPEEDS[index] - self.speed))
        self.speed = SPEEDS[min(max(nearest + steps, 0), len(SPEEDS) - 1)]
        self.restart()

    def seconds_until_due(self) -> float:
        """Seconds until the next frame may be shown; 0 when it is due."""
        return 0.0 if self._due is None else max(0.0, self._due - self._clock())

    def mark(self, work_seconds: float, num_ahead: int = 0) -> None:
        """Note a frame shown now.

        Args:
            work_seconds: Time that computing it took.
            num_ahead: Frames that were computed with it and come next. They are spread evenly over
                the time that is left for all of them.
        """
        now = self._clock()
        started = now - work_seconds
        if not self._num_ahead:
            due = started if self._due is None else self._due
            self._until = max(due + (1 + num_ahead) / self.wanted_fps, started)
        self._num_ahead = num_ahead
        self._due = self._until - num_ahead * max(0.0, self._until - now) / (1 + num_ahead)
        self._work.append(work_seconds)
        self._marks.append(now)
        while len(self._marks) > 2 and now - self._marks[1] > MEASURED_SECONDS:
            self._marks.popleft()

    @property
    def reached_fps(self) -> float | None:
        """Measured frames per second; None before two frames."""
        if len(self._marks) < 2 or self._marks[-1] == self._marks[0]:
            return None
        return (len(self._marks) - 1) / (self._marks[-1] - self._marks[0])

    @property
    def milliseconds(self) -> float | None:
        """Mean time to compute a frame, in ms; None before the first."""
        return 1000 * sum(self._work) / len(self._work) if self._work else None

    @property
    def is_slow(self) -> bool:
        """Whether the wanted rate was missed for long enough to report it."""
        reached = self.reached_fps
        return reached is not None and (
            self._marks[-1] - self._marks[0] > MEASURED_SECONDS / 2
            and reached < SLOW_BELOW * self.wanted_fps
        )
