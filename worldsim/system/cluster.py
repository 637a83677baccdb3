"""Workers on a Ray cluster: objects in processes of any node, which are replaced if they are lost.

Ray is an optional package, and this file alone imports it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from worldsim import __version__
from worldsim.system.extras import require
from worldsim.system.files import one_line

MAX_LOSSES = 3  # workers that one job may cost
SECONDS_TO_CONNECT = 10.0
SECONDS_UNTIL_SAID = 30.0  # without a worker, until the user hears of it


class Lost(NamedTuple):
    """The answer of a worker that was lost before it had one."""

    reason: str


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their paths in it, to send them to a worker or back."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.is_symlink()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of `read_folder` into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@contextmanager
def joined(address: str, modules: Sequence[str] = ()) -> Iterator[None]:
    """Join a Ray cluster while open; if this process has joined one already, it stays in that.

    Args:
        address: As for `worldsim.system.options.RayAddress`. ``auto`` takes the cluster that
            RAY_ADDRESS names or that runs on this machine, else it starts one here and stops it in
            the end.
        modules: Modules that the user has named. Those in the current folder are sent to the
            workers.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address, or another version of it.
    """
    require("ray")
    # The user hears of lost workers from the command. Ray reads this when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray

    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if files := [file for name in modules if (file := _file_here(name))]:
        settings["runtime_env"] = {"py_modules": files}
    named = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    try:
        if named:
            _knock(named)
        elif not _runs_here():
            named = "local"
        with _own_signals():  # Ray takes SIGTERM
            ray.init(named, include_dashboard=False, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise ConnectionError(
            f"the Ray cluster {named or address} cannot be joined ({one_line(error)}): see with "
            "`ray status` on one of its machines whether it runs, and set RAY_AUTH_MODE=token if "
            "it asks for a token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class ActorPool:
    """Objects of one class, each in a process of its own on some node of the cluster.

    A worker is idle once its process has started. One whose process or node is lost is replaced:
    on another node, or as soon as the cluster has room again.

    Args:
        make: Makes the object of a worker, there: a class or function that each node can import.
        args: Its arguments.
        num_workers: Number of workers; None takes one for each CPU of the cluster, or for each GPU
            if they take GPUs.
        on_gpus: Whether each worker takes a GPU of the cluster; None if it has any.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        args: Sequence[Any] = (),
        num_workers: int | None = None,
        *,
        on_gpus: bool | None = False,
    ) -> None:
        import ray

        self._ray = ray
        there_are = ray.cluster_resources()
        if on_gpus is None:
            on_gpus = there_are.get("GPU", 0) >= 1
        kind = "GPU" if on_gpus else "CPU"
        self.num_workers = num_workers or max(1, int(there_are.get(kind, 1)))
        self._needs = {"num_cpus": 1, "num_gpus": int(on_gpus)}
        # Large arguments lie once on each node, however many workers it has.
        self._make = ray.put((make, tuple(args), os.getcwd()))  # noqa: PTH109  # as text
        self._actors: dict[int, Any] = {}  # worker -> its handle
        self._asked: dict[Any, int] = {}  # reference of an answer -> worker
        self._starting: set[int] = set()
        self._failed_starts = 0
        self._begun = time.monotonic()
        self.idle: list[int] = []

    def __enter__(self) -> ActorPool:
        """Start the workers, without waiting for them."""
        for worker in range(self.num_workers):
            self._start(worker)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the workers, with what they are doing."""
        for worker in self._actors:
            self._ray.kill(self._actors[worker])

    def ask(self, worker: int, method: str, *args: Any) -> None:
        """Let an idle worker call a method of its object; `answers` has the result."""
        self.idle.remove(worker)
        self._asked[self._actors[worker].call.remote(method, *args)] = worker

    def answers(self, timeout: float) -> list[tuple[int, Any]]:
        """Wait for answers; workers that give one, and those that have started, are idle then.

        Args:
            timeout: Seconds to wait for the first one.

        Returns:
            Workers and their answers; `Lost` for a worker that is being replaced.

        Raises:
            ValueError: If a node has another version of worldsim.
            ChildProcessError: If workers do not start.
            Exception: What a method has raised.
        """
        ready, _ = self._ray.wait(list(self._asked), timeout=timeout)
        if ready:  # take all that are there
            ready, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        answers = []
        for reference in ready:
            worker = self._asked.pop(reference)
            started, answer = worker not in self._starting, self._receive(reference)
            if isinstance(answer, Lost):
                self._replace(worker, answer)
            else:
                self.idle.append(worker)
            if started:
                answers.append((worker, answer))
            elif not isinstance(answer, Lost):
                self._has_started(worker, answer)
        self._say_if_none_starts()
        return answers

    def map(self, method: str, jobs: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Call a method for each job, on whichever worker is idle.

        Args:
            method: The method.
            jobs: Its arguments, for each job.

        Yields:
            The index of each job, and its result, as they come.

        Raises:
            ChildProcessError: If a job has cost three workers.
        """
        waiting = list(reversed(range(len(jobs))))
        under_way: dict[int, int] = {}  # worker -> job
        losses = [0] * len(jobs)
        while waiting or under_way:
            while waiting and self.idle:
                worker = self.idle[0]
                under_way[worker] = waiting.pop()
                self.ask(worker, method, *jobs[under_way[worker]])
            for worker, answer in self.answers(timeout=1.0):
                job = under_way.pop(worker)
                if not isinstance(answer, Lost):
                    yield job, answer
                    continue
                losses[job] += 1
                if losses[job] == MAX_LOSSES:
                    raise ChildProcessError(
                        f"part {job + 1} of {len(jobs)} was lost with {MAX_LOSSES} workers of the "
                        f"Ray cluster, the last time because {answer.reason}"
                    )
                waiting.append(job)

    def _start(self, worker: int) -> None:
        actor = self._ray.remote(_Host).options(
            **self._needs, scheduling_strategy="SPREAD", max_restarts=0
        )
        self._actors[worker] = actor.remote(self._make)
        self._starting.add(worker)
        self._asked[self._actors[worker].version.remote()] = worker

    def _receive(self, reference: Any) -> Any:
        """An answer, or `Lost`; what a method has raised is raised as it was."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error  # Ray's has the traceback of the worker
        except errors.RayError as error:
            return Lost(_reason(error))

    def _has_started(self, worker: int, version: str) -> None:
        self._starting.remove(worker)
        self._failed_starts = 0
        if version != __version__:
            raise ValueError(
                f"a node of the Ray cluster has worldsim {version}, and this is {__version__}: "
                "install the same version on every node"
            )

    def _replace(self, worker: int, lost: Lost) -> None:
        if worker in self._starting:
            self._failed_starts += 1
            if self._failed_starts > MAX_LOSSES + self.num_workers:
                raise ChildProcessError(
                    f"no worker of the Ray cluster can be started ({lost.reason}): install "
                    "worldsim, and what it records, on every node"
                )
        self._ray.kill(self._actors[worker])
        self._start(worker)

    def _say_if_none_starts(self) -> None:
        none = len(self._starting) == self.num_workers
        if none and time.monotonic() - self._begun > SECONDS_UNTIL_SAID:
            self._begun = float("inf")  # once
            print("waiting for a worker of the Ray cluster to start …", file=sys.stderr)


class _Host:
    """An actor: holds the object of a worker."""

    def __init__(self, made: tuple[Callable[..., Any], tuple[Any, ...], str]) -> None:
        make, args, folder = made
        if Path(folder).is_dir():  # the command's current folder, on its machine or shared
            os.chdir(folder)
        self._object = make(*args)

    def version(self) -> str:
        return __version__

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._object, method)(*args)


def _runs_here() -> bool:
    """Whether a cluster runs on this machine; one that was killed has left its address behind."""
    from ray._private.utils import read_ray_address

    try:
        _knock(read_ray_address() or "")
    except (OSError, ValueError):
        return False
    return True


def _knock(address: str) -> None:
    """Raise OSError if nothing listens: Ray would try for many minutes, deaf to signals."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the answers to signals that this process has."""
    with ExitStack() as after:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                after.callback(signal.signal, signum, signal.getsignal(signum))
        yield


def _file_here(module: str) -> str | None:
    """The file or folder of a module that lies in the current folder; None if it does not."""
    name = module.partition(".")[0]
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    if spec.submodule_search_locations is not None:
        file = file.parent
    return str(file) if file.parent.resolve() == Path.cwd() else None


def _reason(error: Exception) -> str:
    """Why a worker was lost, in a few words, from Ray's error of many lines."""
    found = re.search(r"because (it.+?)[.\n]", str(error))
    if found:
        return found[1]
    *_, last = str(error).strip().splitlines() or [type(error).__name__]
    return last.strip().rstrip(".")
