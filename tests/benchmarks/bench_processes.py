"""Training steps on 1 and on N processes of this machine, and what a checkpoint costs them.

    python tests/benchmarks/bench_processes.py recordings/pong --size base --processes 2

Each process has one thread. Three kinds of steps take turns, so that a slow moment of the machine
affects all: one process; N that share its batch; and N that have a batch of its size each, as
`worldsim train` gives them. Efficiency is the windows a second of N processes divided by N times
those of one. The cost of a checkpoint is what the steps around it take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from worldsim.train.config import TrainConfig
from worldsim.train.engine import Engine
from worldsim.train.optim import Optim
from worldsim.train.processes import Processes
from worldsim.train.run import Run
from worldsim.train.run_folder import RunProgress

LENGTH = 1_000_000  # steps of a run; those after four fifths of it are timed
SAVE_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--size", default="base")
    parser.add_argument("--batch-size", type=int, default=4, help="windows of one process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    count, windows = args.processes, args.batch_size
    kinds = {
        "1 process": (1, windows),
        f"{count} processes share the batch": (count, windows),
        f"{count} processes, a batch each": (count, count * windows),
    }
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(args.turns):
        for kind, (processes, batch) in kinds.items():
            found[kind].append(launch(processes, batch))
    print(f"{args.size}, {windows} windows, {args.parallel}, {os.cpu_count()} cores")
    rates = []
    for kind, (processes, batch) in kinds.items():
        step = statistics.median(each for turn in found[kind] for each in turn["steps"])
        cost = statistics.median(turn["checkpoint"] for turn in found[kind])
        rates.append(batch / step / processes)
        print(
            f"{kind}: {step:.3f} s a step, efficiency {rates[-1] / rates[0]:.0%}; a checkpoint "
            f"costs {cost:.2f} s, {cost / SAVE_SECONDS:.2%} of five minutes"
        )


def launch(processes: int, batch: int) -> dict[str, Any]:
    """Run this script on so many processes, and return what the first one found."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*torchrun, f"--nproc-per-node={processes}", __file__, *sys.argv[1:]]
    words += ["--batch-size", str(batch), "--worker"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def work(args: argparse.Namespace) -> None:
    """Time steps, then steps around a checkpoint; the first process prints both."""
    with Processes("cpu") as processes, tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            (args.recording,),
            out=Path(processes.first(lambda: folder)),
            steps=LENGTH,
            size=args.size,
            device="cpu",
            optim=Optim(batch_size=args.batch_size),
            engine=Engine(parallel=args.parallel),
        )
        run = Run.of(config, None, processes)
        progress = RunProgress(step=LENGTH * 4 // 5)

        def take_steps(count: int) -> list[float]:
            nonlocal progress
            seconds = []
            for _ in range(count):
                begun = time.monotonic()
                run.take_step(progress)
                progress = run.advance(progress)
                seconds.append(time.monotonic() - begun)
            return seconds

        with run.groups, run.writer:
            take_steps(1)
            steps = take_steps(args.steps)
            run.config.out.mkdir(exist_ok=True)
            begun = time.monotonic()
            run.writer.begin(progress, {})
            taken = 0
            while not processes.agree(0.0, stop=False, saved=run.writer.is_written)[2]:
                taken += len(take_steps(1))
            run.writer.finish()
            cost = time.monotonic() - begun - taken * statistics.median(steps)
        if processes.is_first:
            print(json.dumps({"steps": steps, "checkpoint": cost}))


if __name__ == "__main__":
    main()
