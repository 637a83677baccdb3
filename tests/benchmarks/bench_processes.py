"""Training steps on 1 and on N processes of this machine, and what a checkpoint costs them.

    python tests/benchmarks/bench_processes.py recordings/pong --size base --processes 2

The batch is the same on any number of processes, and each process has one thread. Numbers of
processes take turns, so that a slow moment of the machine affects all. Efficiency is the time of
one process divided by N times that of N. The cost of a checkpoint is what the steps around it take
longer, divided by the five minutes between two checkpoints.
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
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    times: dict[int, list[float]] = {1: [], args.processes: []}
    costs: dict[int, list[float]] = {1: [], args.processes: []}
    for _ in range(args.turns):
        for count in times:
            found = launch(count)
            times[count] += found["steps"]
            costs[count].append(found["checkpoint"])
    one, many = (statistics.median(values) for values in times.values())
    print(f"{args.size}, {args.batch_size} windows a step, {args.parallel}, {os.cpu_count()} cores")
    for count, step in ((1, one), (args.processes, many)):
        cost = statistics.median(costs[count])
        print(
            f"{count} process{'es' * (count > 1)}: {step:.3f} s a step; a checkpoint costs "
            f"{cost:.2f} s, {cost / SAVE_SECONDS:.2%} of five minutes"
        )
    print(f"efficiency on {args.processes} processes: {one / many / args.processes:.1%}")


def launch(count: int) -> dict[str, Any]:
    """Run this script on so many processes, and return what the first one found."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*torchrun, f"--nproc-per-node={count}", __file__, *sys.argv[1:], "--worker"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(args: argparse.Namespace) -> None:
    """Time steps, then steps around a checkpoint; the first process prints both."""
    with Processes("cpu") as processes, tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            args.recording,
            out=Path(processes.first(lambda: folder)),
            steps=LENGTH,
            size=args.size,
            device="cpu",
            optim=Optim(batch_size=args.batch_size),
            # As many parts on one process, so that all compute the same.
            engine=Engine(accumulate=args.processes, parallel=args.parallel),
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

        with run.windows, run.writer:
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
