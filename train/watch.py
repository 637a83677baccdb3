"""A watch over the processes of a run: a process that has ended is noticed and named.

Each process counts up its own entry of a shared store, every second. A waiting process cannot look
at the others itself, since a GPU that waits for a lost one never returns.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import torch.distributed as dist

BEAT_SECONDS = 1.0
LOST_SECONDS = 5.0  # without a beat, once a connection is broken
HUNG_SECONDS = 40.0  # without a beat, where nothing else is wrong


class Watch:
    """Counts up for this process, and ends it if its neighbour no longer counts.

    Args:
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size
        self._store = connect()
        self._stopped = threading.Event()
        self._store.set(f"at/{rank}", f"{socket.gethostname()}, process id {os.getpid()}")
        self._store.set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch: the process leaves in peace."""
        self._stopped.set()
        self._thread.join(2 * BEAT_SECONDS)

    def lost(self) -> list[tuple[int, str]]:
        """The numbers and places of the processes that do not count up within five seconds."""
        before = self._beats()
        time.sleep(LOST_SECONDS)
        now = self._beats()
        same = [number for number in before if before[number] == now.get(number)]
        return [(number, self._place(number)) for number in same if number != self._rank]

    def _beats(self) -> dict[int, str]:
        store = connect()  # the thread uses its own
        return {
            number: store.get(f"beat/{number}").decode()
            for number in range(self._size)
            if store.check([f"beat/{number}"])
        }

    def _place(self, number: int) -> str:
        return connect().get(f"at/{number}").decode()

    def _run(self) -> None:
        """Beat, and look at the next process: a ring, so that each looks at one."""
        neighbour = (self._rank + 1) % self._size
        beat, seen, seen_at = 0, "", time.monotonic()
        while not self._stopped.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beat))
                now = ""
                if self._store.check([f"beat/{neighbour}"]):
                    now = self._store.get(f"beat/{neighbour}").decode()
            except RuntimeError:  # the machine of the store is gone
                now = seen
            if now != seen:
                seen, seen_at = now, time.monotonic()
            elif time.monotonic() - seen_at > HUNG_SECONDS:
                self._end(neighbour)

    def _end(self, neighbour: int) -> None:
        from .processes import describe_loss

        try:
            place = self._place(neighbour)
        except RuntimeError:
            place = "on a machine that cannot be reached"
        print(f"worldsim: {describe_loss([(neighbour, place)], self._size)}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # the main thread waits for a device or a connection, without end


def connect(hosts: bool = False) -> dist.Store:
    """Connect to the store through which the processes of this attempt find one another.

    An attempt of ``torchrun --max-restarts`` must not read what the one before wrote, as it does by
    torch's own ``env://``: then processes look for those that have ended.

    Args:
        hosts: Whether this process hosts the store.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.TCPStore(*address, is_master=hosts, wait_for_workers=False)
    return dist.PrefixStore(f"worldsim/{attempt}", store)
