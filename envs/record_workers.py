"""Worker processes of a recording: each has its own environment and writes its own shards."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from itertools import count
from multiprocessing.connection import Connection, wait
from types import TracebackType

import gymnasium
import numpy as np

from worldsim.data.writer import RecordingWriter

from .record_source import EpisodeSource, describe_error

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_STOP = 10.0


class Workers:
    """Processes that record the episodes they are given.

    Args:
        writer: The recording to write to.
        source: The source of the episodes.
        num_workers: Number of processes.
    """

    def __init__(self, writer: RecordingWriter, source: EpisodeSource, num_workers: int) -> None:
        self._writer = writer
        self._source = source
        self._num_workers = num_workers
        self._processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._numbers: dict[Connection, int | None] = {}
        self._steps: dict[Connection, int] = {}
        self._failure: Exception | None = None

    @property
    def steps_under_way(self) -> dict[int, int]:
        """Steps so far of each unfinished episode, by number."""
        return {n: self._steps[at] for at, n in self._numbers.items() if n is not None}

    def __enter__(self) -> Workers:
        """Start the processes."""
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches all processes of a terminal, but only this one handles it.
        in_main_thread = threading.current_thread() is threading.main_thread()
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
        try:
            for _ in range(self._num_workers):
                ours, theirs = context.Pipe()
                arguments = (theirs, self._writer, self._source)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
                self._numbers[ours] = None
                self._steps[ours] = 0
        finally:
            if in_main_thread:
                signal.signal(signal.SIGINT, answer)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the processes; unfinished episodes are dropped."""
        for connection in self._processes:
            connection.close()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in self._processes.values():
            process.join(max(deadline - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()
                process.join()

    def begin_missing(self, finished: Mapping[int, int]) -> None:
        """Give each idle process the first missing episode.

        After a failure no episode is begun: those under way may suffice.

        Raises:
            ValueError: If an episode could not be recorded, once the others have finished.
            OSError: The same, if it could not be written or its process has died.
        """
        if self._failure and all(number is None for number in self._numbers.values()):
            raise self._failure
        numbers = count()
        for connection, busy_with in self._numbers.items():
            if busy_with is None and self._failure is None:
                taken = {*finished, *self._numbers.values()}
                self._numbers[connection] = next(n for n in numbers if n not in taken)
                with contextlib.suppress(BrokenPipeError):  # `wait` reports the dead process
                    connection.send(self._numbers[connection])

    def wait(self) -> None:
        """Wait for messages of the processes, one second at most."""
        for connection in wait(list(self._numbers), timeout=1.0):
            assert isinstance(connection, Connection)
            try:
                kind, value, details = connection.recv()
            except (EOFError, ConnectionError):
                self._fail(connection, self._death(connection), "no message")
                continue
            if kind == "error":
                self._fail(connection, value, details)
                continue
            self._steps[connection] = value
            if kind == "finished":
                self._steps[connection] = 0
                self._numbers[connection] = None

    def _fail(self, connection: Connection, error: Exception, details: str) -> None:
        """Keep the first error, and give the process no more episodes."""
        del self._numbers[connection], self._steps[connection]
        if self._failure is None:
            self._failure = error
            self._failure.__cause__ = RuntimeError(details)

    def _death(self, connection: Connection) -> ChildProcessError:
        process = self._processes[connection]
        process.join()
        return ChildProcessError(
            f"the process that recorded episode {self._numbers[connection]} has died (exit code "
            f"{process.exitcode}): the same command continues"
        )


def _work(connection: Connection, writer: RecordingWriter, source: EpisodeSource) -> None:
    """Record the episodes whose numbers arrive, until the other end is closed or dies.

    The environment is closed in any case: some games (ViZDoom) run in their own process.
    """
    # The command handles signals for all workers.
    signal.signal(signal.SIGTERM, lambda *_: None)
    looked_at = reported_at = 0.0
    number: int | None = None
    step = 0
    env: gymnasium.Env[np.ndarray, int] | None = None
    try:
        env = source.open_game()
        while True:
            number, step = connection.recv(), 0
            for episode in source.play(env, number):
                step = len(episode)
                # Notice a stop soon, and report the steps now and then.
                now = time.monotonic()
                if now - looked_at > SECONDS_BETWEEN_LOOKS:
                    looked_at = now
                    if connection.poll():
                        return  # the command has stopped or died: drop this episode
                if now - reported_at > SECONDS_BETWEEN_REPORTS:
                    reported_at = now
                    connection.send(("steps", step, ""))
            writer.write_episode(episode.build(), number)
            connection.send(("finished", step, ""))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        sentence = describe_error(error, number, step)
        with contextlib.suppress(ConnectionError):  # another worker's error came first
            connection.send(("error", sentence, traceback.format_exc()))
    finally:
        if env is not None:
            env.close()
