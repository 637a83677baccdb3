"""Worker processes of a recording: each has its own environment and writes its own shards."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from types import TracebackType

import gymnasium
import numpy as np

from worldsim.data.episode import MAX_REWARD, Episode, EpisodeBuilder
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig
from worldsim.game.describe import make_game

from .policies import MixedPolicy

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_STOP = 10.0


@dataclass(frozen=True)
class EpisodeSource:
    """Everything that determines episode number n."""

    game: GameConfig
    """The game as the user named it: each process imports its module."""
    weights: Mapping[str, float]
    """Policy -> share of the steps."""
    seed: int
    """Seed of the recording."""
    max_episode_steps: int
    """Steps after which an episode is truncated."""

    def env_seed(self, number: int) -> int:
        """Return the seed of episode ``number``, of 31 bits, the most that some games take."""
        seeds = np.random.SeedSequence(self.seed, spawn_key=(number,))
        return int(seeds.generate_state(1)[0] >> 1)

    def record_episode(
        self,
        env: gymnasium.Env[np.ndarray, int],
        number: int,
        report: Callable[[int], None] = lambda steps: None,
    ) -> Episode:
        """Play one episode.

        Args:
            env: The environment of `game`, as `make_game` makes it.
            number: The episode's number in the recording, from which its seeds are drawn.
            report: Called after each step with the steps so far.

        Raises:
            ValueError: If a reward is not finite in float32.
        """
        env_seed = self.env_seed(number)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, 0)))
        policy = MixedPolicy(self.weights, self.game)
        observation, info = env.reset(seed=env_seed)
        players = " ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
        episode = EpisodeBuilder(observation, seed=env_seed, policy=players)
        terminated = truncated = False
        while not (terminated or truncated):
            action = policy(observation, info, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            if not abs(float(reward)) <= MAX_REWARD:
                raise ValueError(
                    f"episode {number} has the reward {reward} at step {len(episode)}, which no "
                    f"world can learn: fix {self.game.env_id} so that rewards are finite in float32"
                )
            if len(episode) + 1 == self.max_episode_steps and not terminated:
                truncated = True
            episode.add(
                action,
                observation,
                reward=float(reward),
                terminated=terminated,
                truncated=truncated,
            )
            report(len(episode))
        return episode.build()


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
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # games drawn with pygame need no display
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    looked_at = reported_at = 0.0
    step = 0

    # Called after each step: notice a stop soon, and report the steps now and then.
    def report(steps: int) -> None:
        nonlocal looked_at, reported_at, step
        step = steps
        now = time.monotonic()
        if now - looked_at > SECONDS_BETWEEN_LOOKS:
            looked_at = now
            if connection.poll():
                raise EOFError  # the command has stopped or died: drop this episode
        if now - reported_at > SECONDS_BETWEEN_REPORTS:
            reported_at = now
            connection.send(("steps", steps, ""))

    number: int | None = None
    env: gymnasium.Env[np.ndarray, int] | None = None
    try:
        env = make_game(source.game, trust_code=True)
        while True:
            number, step = connection.recv(), 0
            episode = source.record_episode(env, number, report)
            writer.write_episode(episode, number)
            connection.send(("finished", len(episode.actions), ""))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        # Name the episode and step, except where the writer names the file.
        sentence: Exception = error
        if type(error) is not OSError:
            where = "the game cannot be opened"
            if number is not None:
                where = f"episode {number}, step {step}"
            what = str(error) if type(error) is ValueError else repr(error)
            sentence = ValueError(f"{where}: {what}")
        with contextlib.suppress(ConnectionError):  # another worker's error came first
            connection.send(("error", sentence, traceback.format_exc()))
    finally:
        if env is not None:
            env.close()
