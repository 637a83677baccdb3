"""Stop a run or a recording cleanly on Ctrl-C and SIGTERM, saving what there is."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """Raised to leave work that may stay unfinished."""


class StopOnSignal:
    """While open, notes SIGINT and SIGTERM instead of dying; a second signal interrupts.

    Only the main thread receives signals; in other threads it notes none.

    Example:
        >>> with StopOnSignal() as stop:
        ...     stop.asked, signal.raise_signal(signal.SIGTERM), stop.asked
        (False, None, True)
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False

    def raise_if_asked(self) -> None:
        """Leave work that may stay unfinished, such as an evaluation.

        Raises:
            Interrupted: If a signal has come.
        """
        if self.asked:
            raise Interrupted

    def __enter__(self) -> StopOnSignal:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _receive(self, _signum: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
