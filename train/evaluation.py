"""`worldsim eval`: how well a world predicts its game, beside two predictors that know nothing."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worldsim import events
from worldsim.held_out import HeldOutWindows, check_match, choose_windows, roll_out
from worldsim.metrics import action_shuffle_ratio, compare, step_latency
from worldsim.recording import Recording
from worldsim.video import filmstrip
from worldsim.world_model import WorldModel, load

LATENCY_STEPS = (10, 1000)
SHUFFLE_BATCHES = 8
STRIP_STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
STRIP_WINDOWS = 3
STRIP_PIXELS = 128  # height of a frame in the filmstrip, about
PREDICTORS = {"world": "world", "copy_last": "copy-last", "median": "median"}


@dataclass(frozen=True)
class EvalConfig:
    """Measure a world against the held-out episodes of a recording of its game."""

    world: tyro.conf.Positional[str]
    """A world that ships (pong, maze, balls), or the folder of a world or of a run."""
    recording: tyro.conf.Positional[Path]
    """Folder of a recording of the same game, made with the same settings."""
    out: Path | None = None
    """Folder for the report; none: `eval` in the world's folder, or `runs/NAME_eval`."""
    windows: int = 64
    """Held-out windows to predict."""
    passes: int | None = None
    """Denoising passes a frame; none: the world's own number."""
    seed: int = 0
    """Decides the windows, the permutations of actions and the noise."""
    device: str | None = None
    """Where the world runs, such as `cpu` or `cuda`; none: a GPU if there is one."""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: What follows ``worldsim eval``.

    Returns:
        The exit status.

    Raises:
        ValueError: In one sentence, if world, recording or an option does not serve.
    """
    config = tyro.cli(EvalConfig, args=list(argv), prog="worldsim eval")
    evaluate(config)
    return 0


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Measure, print a table, and write ``report.json``, ``report.txt`` and ``filmstrip.png``.

    Args:
        config: What to measure.

    Returns:
        What ``report.json`` holds.

    Raises:
        ValueError: If there is no such world or recording, they do not fit, or an option is out
            of range.
    """
    if config.windows < 1:
        raise ValueError(f"--windows must be 1 or more, got {config.windows}")
    if config.passes is not None and config.passes < 1:
        raise ValueError(f"--passes must be 1 or more, got {config.passes}")
    recording = Recording(config.recording)
    world = load(config.world, device=config.device)
    check_match(world, recording)
    _, episodes = recording.split()
    held_out = choose_windows(
        world, recording, episodes, num_windows=config.windows, seed=config.seed
    )

    console = Console()
    with _progress(console) as progress:
        batches = math.ceil(len(held_out.real) / 64)
        bar = progress.add_task("rolling out", total=batches * held_out.horizon)
        dreamed = roll_out(
            world,
            held_out,
            num_passes=config.passes,
            seed=config.seed,
            on_step=lambda: progress.advance(bar),
        )
        shuffle_bar = progress.add_task("shuffling actions", total=SHUFFLE_BATCHES)
        ratio = action_shuffle_ratio(
            world,
            recording,
            episodes,
            seed=config.seed,
            num_batches=SHUFFLE_BATCHES,
            on_batch=lambda: progress.advance(shuffle_bar),
        )
        event_bar = progress.add_task(
            "foretelling events", total=events.num_batches(4 * config.windows)
        )
        foretold = events.foretell(
            world,
            recording,
            episodes,
            num_stretches=4 * config.windows,
            num_passes=config.passes,
            seed=config.seed,
            on_step=lambda: progress.advance(event_bar),
        )
        progress.update(event_bar, completed=events.num_batches(4 * config.windows))
        clock_bar = progress.add_task("timing steps", total=max(LATENCY_STEPS) + 1)
        latency = step_latency(
            world,
            LATENCY_STEPS,
            num_passes=config.passes,
            on_step=lambda: progress.advance(clock_bar),
        )
    report = {
        "world": config.world,
        "recording": str(config.recording),
        "world_env_id": world.game.env_id,
        "recording_env_id": recording.game.env_id,
        "held_out_episodes": episodes,
        "held_out_steps": int(recording.episode_lengths[episodes].sum()),
        "trained_on_this_recording": comes_from(world, recording, episodes),
        "windows": len(held_out.real),
        "num_passes": world.num_passes if config.passes is None else config.passes,
        "seed": config.seed,
        "horizons": compare(dreamed, held_out, recording.median_frame()),
        "action_shuffle_ratio": ratio.overall,
        "action_shuffle_ratio_by_action": ratio.by_action,
        "events": events.summarize(foretold),
        "step_ms": latency,
        "parameters": sum(parameter.numel() for parameter in world.parameters()),
        "device": str(world.device),
        "threads": torch.get_num_threads(),
    }

    out = config.out or _default_out(config.world)
    out.mkdir(parents=True, exist_ok=True)
    _print_report(report, console)
    text = io.StringIO()
    _print_report(report, Console(file=text, width=88))
    _write(out / "report.txt", text.getvalue())
    _write(out / "report.json", json.dumps(_without_nan(report), indent=2, allow_nan=False) + "\n")
    _write_filmstrip(dreamed, held_out, out / "filmstrip.png")
    console.print(
        f"Report in {out} (report.txt, report.json, filmstrip.png). Next: "
        f"worldsim play {config.world}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return report


def comes_from(world: WorldModel, recording: Recording, episodes: Sequence[int]) -> bool:
    """Find out whether a world was trained on this recording with these episodes held out.

    Training takes a world's start windows from the held-out episodes: if they are all there, it
    was. If not, it was trained on another recording, or on this one when it was shorter or split
    otherwise.
    """
    seen: set[bytes] = set()
    for episode in episodes:
        seen.update(frame.tobytes() for frame in recording.episode(episode).frames)
    return all(frame.tobytes() in seen for start in world.starts.frames for frame in start)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


def _default_out(world: str) -> Path:
    path = Path(world)
    return path / "eval" if path.is_dir() else Path("runs") / f"{path.name}_eval"


def _print_report(report: dict[str, Any], console: Console) -> None:
    """Print the figures; what was measured on what comes first, the verdict is left to readers."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(
        f"{report['world']} on {report['recording']} ({report['recording_env_id']}): "
        f"{report['windows']} windows of {len(report['held_out_episodes'])} held-out episodes "
        f"({report['held_out_steps']:,} steps), denoising passes: {report['num_passes']}"
    )
    if report["world_env_id"] != report["recording_env_id"]:
        say(f"Note: this is a world of another game, {report['world_env_id']}.")
    if not report["trained_on_this_recording"]:
        say(
            "Note: the world's start windows are not among these episodes. It was trained on "
            "another recording, or on this one before it grew; then it may have seen them."
        )
    table = Table(title="PSNR in dB by horizon, higher is better")
    table.add_column("steps", justify="right")
    for kind in ("all", "moving"):
        for label in PREDICTORS.values():
            table.add_column(f"{label}\n{kind}", justify="right")
    table.add_column("moving\npixels", justify="right")
    for horizon, row in report["horizons"].items():
        cells = []
        for kind in ("psnr", "psnr_moving"):
            values = [row[f"{kind}_{name}"] for name in PREDICTORS]
            for value in values:
                style = "[bold]" if value == max(values) else ""
                cells.append(f"{style}{value:.1f}" if math.isfinite(value) else "-")
        table.add_row(str(horizon), *cells, f"{100 * row['moving_fraction']:.1f}%")
    console.print(table)
    say(
        "moving: pixels where the real or the last given frame differs from the recording's "
        "median frame"
    )
    ratio = report["action_shuffle_ratio"]
    say(
        "action-shuffle ratio: "
        + (
            f"{ratio:.3f} (loss under other windows' actions / under the true ones)"
            if math.isfinite(ratio)
            else "undefined, the recording's actions never differ"
        )
    )
    if math.isfinite(ratio):
        by_action = report["action_shuffle_ratio_by_action"].items()
        told = ", ".join(f"{name} {value:.2f}" for name, value in by_action if value == value)
        say(f"the same by the last action, where the other one differs: {told}")
    for line in _tell_events(report["events"]):
        say(line)
    for step, times in report["step_ms"].items():
        say(
            f"step {step:>5,}: {times['p50']:.1f} ms p50, {times['p95']:.1f} ms p95 "
            f"({1000 / times['p50']:.0f} frames per second, {report['device']}, "
            f"{report['threads']} threads)"
        )


def _tell_events(told: dict[str, Any]) -> list[str]:
    """Rewards and ends, a line each."""

    def tell(name: str, found: dict[str, Any]) -> str:
        if not found["number"] and not math.isfinite(found["precision"]):
            return f"{name}: none, and none foretold"
        return (
            f"{name}: {found['number']}, precision {found['precision']:.2f}, recall "
            f"{found['recall']:.2f}, F1 {found['f1']:.2f}"
        )

    return [
        f"rewards and ends foretold up to {events.STRETCH} steps ahead, {told['steps']:,} steps: "
        + "; ".join(
            tell(words, told[name])
            for words, name in (
                ("gains", "reward_positive"),
                ("losses", "reward_negative"),
                ("ends", "termination"),
            )
        ),
        f"mean reward a step {told['foretold_reward_mean']:.4f} (recorded "
        f"{told['reward_mean']:.4f}); probability of an end off by "
        f"{told['termination_calibration_error']:.4f} on the average, Brier score "
        f"{told['termination_brier']:.4f} (of the mean rate "
        f"{told['termination_brier_of_mean']:.4f})",
    ]


def _write_filmstrip(dreamed: np.ndarray, held_out: HeldOutWindows, path: Path) -> None:
    """Real frames above, the world's below, the same actions; the frame given comes first."""
    steps = [step for step in STRIP_STEPS if step <= held_out.horizon]
    columns = [step - 1 for step in steps]
    rows, labels = [], []
    for window in range(min(STRIP_WINDOWS, len(dreamed))):
        given = held_out.last_context[window][None]
        for label, frames in (("real", held_out.real), ("world", dreamed)):
            rows.append(np.concatenate([given, frames[window, columns]]))
            labels.append(label)
    scale = max(1, STRIP_PIXELS // dreamed.shape[2])
    filmstrip(rows, path, scale, labels, ["given", *(f"+{step}" for step in steps)])


def _without_nan(value: Any) -> Any:
    """JSON knows no nan: an undefined figure is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    aside.replace(path)
