"""Ctrl-C and SIGTERM end a run or a recording in good order: what there is, is saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(Exception):  # noqa: N818  # not an error: somebody asked for it
    """Raised where work that may be left unfinished is asked to stop."""


class StopOnSignal:
    """While open, remembers SIGINT and SIGTERM instead of dying of them; a second one interrupts.

    In a thread other than the main one, which gets no signals, it remembers nothing.

    Example:
        >>> with StopOnSignal() as stop:
        ...     stop.asked, signal.raise_signal(signal.SIGTERM), stop.asked
        (False, None, True)
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False

    def raise_if_asked(self) -> None:
        """Leave work that may be left unfinished, such as an evaluation.

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
