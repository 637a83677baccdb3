"""Workers of a recording on a Ray cluster: each plays episodes, and sends them to the command.

Only the command writes, so that no other machine needs the recording's folder. A worker plays for a
second or so in a call, and answers with the steps so far or, at the end, with the encoded shard. So
the command hears of progress without asking, and a worker that it no longer calls has stopped.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple

import gymnasium

from worldsim.data.episode import EpisodeBuilder
from worldsim.data.writer import RecordingWriter, encode_episode
from worldsim.system.cluster import MAX_LOSSES, ActorPool, Lost, joined
from worldsim.system.trust import split_env_id

from .record_source import EpisodeSource, describe_error

SECONDS_A_CALL = 1.0
MAX_ANSWERS_A_SECOND = 200  # of all workers: each takes the command about a millisecond


class Answer(NamedTuple):
    """What a worker has done in a call."""

    steps: int
    """Steps of the episode so far."""
    shard: bytes | None = None
    """The encoded episode, if it is complete."""
    error: Exception | None = None
    """Why it cannot be recorded."""
    details: str = ""
    """Traceback of the error."""


class EpisodePlayer:
    """Plays episodes in a worker process, some seconds at a time.

    Args:
        source: The source of the episodes.
    """

    def __init__(self, source: EpisodeSource) -> None:
        self._source = source
        self._env: gymnasium.Env[Any, int] | None = None
        self._playing: Iterator[EpisodeBuilder] = iter(())
        self._episode: EpisodeBuilder | None = None

    def begin(self, number: int, seconds: float) -> Answer:
        """Begin an episode, and play for some seconds; one that was under way is dropped."""
        self._episode = None
        try:
            if self._env is None:
                self._env = self._source.open_game()
        except Exception as error:
            return self._fail(error, None)
        self._playing = self._source.play(self._env, number)
        return self.go_on(number, seconds)

    def go_on(self, number: int, seconds: float) -> Answer:
        """Play on for some seconds, or to the end."""
        until = time.monotonic() + seconds
        try:
            for episode in self._playing:
                self._episode = episode
                if time.monotonic() > until:
                    return Answer(len(episode))
            assert self._episode is not None
            shard = encode_episode(self._episode.build(), number, self._source.game)
        except Exception as error:
            return self._fail(error, number)
        return Answer(len(self._episode), shard)

    def _fail(self, error: Exception, number: int | None) -> Answer:
        steps = len(self._episode) if self._episode is not None else 0
        sentence = describe_error(error, number, steps)
        return Answer(steps, error=sentence, details=traceback.format_exc())


class RayWorkers:
    """Workers of a Ray cluster, with the methods of `worldsim.envs.record_workers.Workers`.

    An episode whose worker is lost is begun again, by another one.

    Args:
        writer: The recording to write to.
        source: The source of the episodes.
        address: The cluster, as for `joined`.
        num_workers: Number of workers; None takes one for each CPU of the cluster.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        source: EpisodeSource,
        address: str,
        num_workers: int | None,
    ) -> None:
        self._writer = writer
        self._source = source
        self._address = address
        self._num_workers = num_workers
        self._open = ExitStack()
        self._playing: dict[int, int] = {}  # worker -> number of its episode
        self._losses: Counter[int] = Counter()  # number -> workers that it has cost
        self._failure: Exception | None = None
        self.steps_under_way: dict[int, int] = {}
        """Steps so far of each unfinished episode, by number."""

    def __enter__(self) -> RayWorkers:
        """Join the cluster and start the workers.

        Raises:
            ModuleNotFoundError: If Ray is not installed.
            ConnectionError: If there is no such cluster.
        """
        named = [self._source.game.env_id, *(name for name in self._source.weights if ":" in name)]
        modules = [split_env_id(name)[0] for name in named]
        with ExitStack() as opening:
            opening.enter_context(joined(self._address, [name for name in modules if name]))
            self._pool = opening.enter_context(
                ActorPool(EpisodePlayer, (self._source,), self._num_workers)
            )
            self._open = opening.pop_all()
        self._seconds = max(SECONDS_A_CALL, self._pool.num_workers / MAX_ANSWERS_A_SECOND)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the workers; unfinished episodes are dropped."""
        self._open.close()

    def begin_missing(self, finished: Mapping[int, int]) -> None:
        """Give each idle worker the first missing episode.

        After a failure no episode is begun: those under way may suffice.

        Raises:
            ValueError: If an episode could not be recorded, once the others have finished.
            OSError: The same, if it was lost with each worker that played it.
        """
        if self._failure is not None:
            if self._playing:
                return
            raise self._failure
        numbers = count()
        for worker in list(self._pool.idle):
            number = next(n for n in numbers if n not in finished and n not in self.steps_under_way)
            self._playing[worker] = number
            self.steps_under_way[number] = 0
            self._pool.ask(worker, "begin", number, self._seconds)

    def wait(self) -> None:
        """Wait for answers of the workers, one second at most, and write complete episodes."""
        complete: dict[int, bytes] = {}
        for worker, answer in self._pool.answers(timeout=1.0):
            number = self._playing[worker]
            if isinstance(answer, Answer) and answer.shard is None and answer.error is None:
                self.steps_under_way[number] = answer.steps
                self._pool.ask(worker, "go_on", number, self._seconds)
                continue
            del self._playing[worker], self.steps_under_way[number]
            if isinstance(answer, Lost):
                self._note_loss(number, answer)
            elif answer.error is not None:
                self._fail(answer.error, answer.details)
            else:
                complete[number] = answer.shard
        for number, shard in complete.items():  # when the others play on
            self._writer.write_shard(shard, number)

    def _note_loss(self, number: int, lost: Lost) -> None:
        self._losses[number] += 1
        if self._losses[number] < MAX_LOSSES:
            print(
                f"a worker was lost because {lost.reason}: episode {number} is begun again",
                file=sys.stderr,
            )
            return
        sentence = (
            f"episode {number} was lost with each of {MAX_LOSSES} workers, the last time because "
            f"{lost.reason}: the same command continues"
        )
        self._fail(ChildProcessError(sentence), "no message")

    def _fail(self, error: Exception, details: str) -> None:
        """Keep the first error."""
        if self._failure is None:
            self._failure = error
            self._failure.__cause__ = RuntimeError(details)
