"""The processes of a run, as `torchrun` starts them: one for each GPU, on one or more machines.

What every process must decide alike, such as when to stop, is agreed on here. The agreement goes
from host to host (gloo), so that no GPU is waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from worldsim.system.devices import pick_device
from worldsim.system.interrupt import StopOnSignal

from .watch import Watch, connect

Result = TypeVar("Result")

# The first process evaluates alone while the others wait. A process that has ended is noticed by
# the watch, long before this.
TIMEOUT = timedelta(hours=2)


class _Failed:
    """Is sent in place of a result if the first process failed."""


class Processes:
    """The processes of a run; as a context, this one joins the others.

    Without ``torchrun`` there is one process, and nothing is sent.

    Args:
        device: Device of the run, such as ``"cuda"``, as for `pick_device`. A process of torchrun
            takes the GPU of its own number.

    Attributes:
        rank: Number of this process, from 0 on.
        size: Number of processes.
        size_here: Number of processes on this machine.
        saving: A group of all processes for writing checkpoints; None for one process.

    Raises:
        ValueError: If there is no such device.
        ChildProcessError: When the context is left by an error because another process has ended.

    Example:
        >>> with Processes("cpu") as processes:
        ...     processes.rank, processes.size, processes.first(lambda: "read once")
        (0, 1, 'read once')
    """

    def __init__(self, device: str | None = None) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.size_here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._device = device
        self._host: dist.ProcessGroup | None = None
        self.saving: dist.ProcessGroup | None = None
        self._watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes logs, worlds and the terminal."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of this process; on a GPU of torchrun without a number, the current one."""
        return pick_device(self._device)

    def __enter__(self) -> Processes:
        """Join the other processes."""
        if self.size == 1:
            return self
        backend = "gloo"
        if self.device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            backend = "cpu:gloo,cuda:nccl"
        hosts = self.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        dist.init_process_group(
            backend, timeout=TIMEOUT, store=connect(hosts), rank=self.rank, world_size=self.size
        )
        self._host = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.saving = dist.new_group(backend="gloo", timeout=TIMEOUT)  # used in another thread
        self._watch = Watch(self.rank, self.size)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the others; if one of them has ended before, say which."""
        if self._watch is None:
            return
        lost = []
        if isinstance(error, RuntimeError):
            with StopOnSignal():  # torchrun ends the others soon, and they say why before
                lost = self._watch.lost()
        self._watch.stop()
        if error is None:
            self._leave()
            return
        if not lost:
            return
        if self.rank != min(set(range(self.size)) - {number for number, _ in lost}):
            raise SystemExit(1) from error
        raise ChildProcessError(describe_loss(lost, self.size)) from error

    def _leave(self) -> None:
        """Leave the groups, and wait for the threads of those used last.

        A thread of gloo that still frees a tensor while Python ends aborts the process (PyTorch
        #179291). A group waits for its threads when its last reference goes.
        """
        dist.destroy_process_group()
        self._host = self.saving = None

    def part(self, round_: int, parts: int) -> tuple[int, bool]:
        """The part of a step that this process computes in a round.

        Args:
            round_: Number of the round, in which each process computes one part.
            parts: Parts of the step.

        Returns:
            The number of the part, and whether it counts: processes beyond the last part repeat
            one, since all take part in each pass of a sharded network.
        """
        number = round_ * self.size + self.rank
        return number % parts, number < parts

    def agree(self, seconds: float, stop: bool, saved: bool) -> tuple[float, bool, bool]:
        """Agree on what each process sees for itself.

        Args:
            seconds: Time of the run; that of the first process counts.
            stop: Whether this process was asked to stop; one is enough.
            saved: Whether this process has written its part of a checkpoint; all must have.
        """
        if self.size == 1:
            return seconds, stop, saved
        seen = [seconds if self.is_first else 0.0, float(stop), float(saved)]
        total = torch.tensor(seen, dtype=torch.float64)
        dist.all_reduce(total, group=self._host)
        return total[0].item(), bool(total[1] > 0), bool(total[2] == self.size)

    def first(self, function: Callable[[], Result]) -> Result:
        """Call a function in the first process only, and return its result in all.

        Raises:
            SystemExit: In the others, if it raises an error in the first.
        """
        if self.size == 1:
            return function()
        results: list[Result | _Failed] = [_Failed()]
        try:
            if self.is_first:
                results = [function()]
        finally:
            dist.broadcast_object_list(results, src=0, group=self._host)
        (result,) = results
        if isinstance(result, _Failed):
            raise SystemExit(2)
        return result

    def gather_objects(self, item: Result) -> list[Result]:
        """The items of all processes, in their order; small ones, since they are pickled."""
        if self.size == 1:
            return [item]
        items: list[Result | None] = [None] * self.size
        dist.all_gather_object(items, item, group=self._host)
        return items  # type: ignore[return-value]

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stack the tensors of all processes (…), which have one shape, to (size …)."""
        if self.size == 1:
            return tensor[None]
        flat = tensor.new_empty(self.size * tensor.numel())
        dist.all_gather_single(flat, tensor.flatten())
        return flat.view(self.size, *tensor.shape)

    def sum_(self, tensors: list[torch.Tensor]) -> None:
        """Set tensors to their sums over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))


def describe_loss(lost: list[tuple[int, str]], size: int) -> str:
    """Name the processes that have ended, and what to do."""
    names = ", ".join(f"process {number} of {size} ({where})" for number, where in lost[:4])
    names += f" and {len(lost) - 4} more" if len(lost) > 4 else ""
    todo = (
        "the same command with --resume continues from its last checkpoint, with any number of "
        "processes"
    )
    if begins_again():
        todo = "torchrun begins again from its last checkpoint"
    return f"{names} ended or no longer answers, so the run stops: {todo}"


def begins_again() -> bool:
    """Whether ``torchrun --max-restarts`` begins the run again when a process ends."""
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    count, most = (int(os.environ.get(name, "0")) for name in names)
    return count < most
