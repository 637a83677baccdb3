"""`worldsim eval`: is it a world? Measured on held-out play, told in a page, a table and JSON."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worldsim.bands import Estimate
from worldsim.events import STRETCH
from worldsim.files import write_json, write_text
from worldsim.find_world import find_world
from worldsim.options import Count, InFile, OutFolder, Passes, Place, Seed, check_place, parse
from worldsim.recording import Recording

from .effort import FULL, QUICK
from .unseen import unseen
from .verdicts import EVENTS, SECTIONS, verdicts

if TYPE_CHECKING:
    from .measure import Advance, Measured

PREDICTORS = {
    "world": "world",
    "game_again": "game\nagain",
    "copy_last": "last\ncopied",
    "median": "median",
}


@dataclass(frozen=True)
class EvalConfig:
    """Measure a world on the episodes of a recording of its game that it was not trained on.

    Writes report.html, which needs nothing else, report.json and report.txt: how true it is by
    horizon (beside the last frame copied, the median frame, and the real game played again with
    other chance), whether it flickers, obeys, drifts, remembers, predicts rewards and ends, and
    how fast it is, with a sentence on each.
    """

    world: tyro.conf.Positional[str]
    """A world that ships (pong, maze, balls), or the folder of a world or of a run."""
    recording: tyro.conf.Positional[Path]
    """Folder of a recording of the same game, made with the same settings."""
    beside: tuple[str, ...] = ()
    """More worlds of the same game, to stand beside it in the report."""
    out: OutFolder | None = None
    """Folder for the report; none: `eval` in the world's folder, or `runs/NAME_eval`."""
    quick: bool = False
    """A look instead of a study: fewer and shorter windows, in about a tenth of the time."""
    windows: Count | None = None
    """Held-out windows to predict; none: 32, or 16 for a quick look."""
    passes: Passes | None = None
    """Denoising passes a frame; none: the world's own number."""
    i3d: InFile | None = None
    """The network of FVD, as the TorchScript file i3d_torchscript.pt that is in common use (it is
    not part of worldsim); none: no FVD. TorchScript is a program that runs when it is loaded: give
    only a file that you trust. Slow without a GPU."""
    seed: Seed = 0
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
    evaluate(parse(EvalConfig, argv, "worldsim eval"))
    return 0


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Measure, print a table, and write ``report.html``, ``report.json`` and ``report.txt``.

    Args:
        config: What to measure.

    Returns:
        What ``report.json`` holds: about the recording, and a list of ``worlds``. Figures with a
        confidence band are [value, low, high].

    Raises:
        ValueError: If there is no such world or recording, they do not fit, or an option is out
            of range.
    """
    out = config.out or _default_out(config.world)
    check_place("--out", out, Place("folder"))
    recording = Recording(config.recording)
    for name in (config.world, *config.beside):
        find_world(name)
    from worldsim.held_out import check_match  # torch and what measures take seconds
    from worldsim.world_folder import load

    from .measure import learn_to_recognise, measure

    names = list(dict.fromkeys((config.world, *config.beside)))
    worlds = {name: load(name, device=config.device) for name in names}
    for world in worlds.values():
        check_match(world, recording)
    episodes = unseen(list(worlds.values()), recording)
    effort = QUICK if config.quick else FULL
    if config.windows is not None:
        effort = effort._replace(windows=config.windows)

    console = Console()
    with _progress(console) as progress:

        @contextmanager
        def stage(words: str, total: int) -> Iterator[Advance]:
            bar = progress.add_task(words, total=total)
            if not console.is_terminal:
                console.print(f"{words} …", highlight=False, markup=False)
            yield lambda: progress.advance(bar)
            progress.update(bar, completed=total)

        first = worlds[config.world]
        judge = learn_to_recognise(recording, episodes.reference, effort, stage, first.device)
        measured = []
        for (name, world), seen in zip(worlds.items(), episodes.sentences, strict=True):
            if len(worlds) > 1:
                progress.console.print(name, highlight=False, markup=False)
            measured.append(
                measure(
                    name,
                    world,
                    recording,
                    episodes,
                    judge,
                    effort,
                    stage,
                    background=first.background,  # the same pixels move for all
                    num_passes=config.passes,
                    seed=config.seed,
                    i3d=config.i3d,
                )
            )
            measured[-1].figures["seen"] = seen

    report = {
        "recording": str(config.recording),
        "recording_env_id": recording.game.env_id,
        "recording_episodes": len(recording),
        "unseen_episodes": episodes.unseen,
        "unseen_steps": int(recording.episode_lengths[episodes.unseen].sum()),
        "seed": config.seed,
        "worlds": [{**one.figures, "verdicts": verdicts(one.figures)} for one in measured],
    }
    out.mkdir(parents=True, exist_ok=True)
    _print_report(report, measured, console)
    text = io.StringIO()
    _print_report(report, measured, Console(file=text, width=100))
    write_text(out / "report.txt", text.getvalue())
    write_json(out / "report.json", report)
    from .report import strip_of, write_report  # matplotlib takes a second

    strip_of(measured[0], out / "filmstrip.png")
    write_report(
        out / "report.html", f"{' and '.join(names)}: is it a world?", _lead(report), measured
    )
    console.print(
        f"Report in {out} (open report.html; report.json, report.txt, filmstrip.png). Next: "
        f"worldsim play {config.world}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return report


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


def _default_out(world: str) -> Path:
    path = Path(world)
    if not path.is_dir():
        return Path("runs") / f"{path.name}_eval"
    if (path / "eval").is_symlink():
        raise ValueError(f"{path / 'eval'} is a link, and no report goes through one: give --out")
    return path / "eval"


def _lead(report: dict[str, Any]) -> str:
    return (
        f"On {report['recording']} ({report['recording_env_id']}): "
        f"measured on {len(report['unseen_episodes'])} of its {report['recording_episodes']} "
        f"episodes, {report['unseen_steps']:,} steps in all."
    )


def _print_report(report: dict[str, Any], measured: Sequence[Measured], console: Console) -> None:
    """What was measured on what, the sentences, and the figures of each world."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(_lead(report))
    for one, figures in zip(measured, report["worlds"], strict=True):
        say(
            f"\n{one.name}: {figures['windows']} windows of {one.held_out.horizon} steps, "
            f"denoising passes: {figures['num_passes']}"
        )
        say(figures["seen"])
        for key, sentence in figures["verdicts"].items():
            say(f"{SECTIONS[key]}: {sentence}")
        console.print(_table(figures["fidelity"]["horizons"]))
        for line in _details(figures):
            say(line)


def _table(horizons: dict[str, Any]) -> Table:
    """PSNR by horizon, the best of each row in bold."""
    table = Table(title="PSNR in dB by horizon, higher is better")
    table.add_column("steps", justify="right")
    known = next(iter(horizons.values()))["psnr"]
    shown = {name: label for name, label in PREDICTORS.items() if name in known}
    for kind in ("all", "moving"):
        for label in shown.values():
            table.add_column(f"{label}\n{kind}", justify="right")
    for horizon, row in horizons.items():
        cells = []
        for metric in ("psnr", "psnr_moving"):
            values = [row[metric][name].value for name in shown]
            best = max(value for name, value in zip(shown, values, strict=True))
            for value in values:
                style = "[bold]" if value == best else ""
                cells.append(f"{style}{value:.1f}" if math.isfinite(value) else "-")
        table.add_row(horizon, *cells)
    return table


def _details(figures: dict[str, Any]) -> list[str]:
    """The other figures, a line each."""
    control, stability = figures["control"], figures["stability"]
    frechet, flicker = figures["frechet"], figures["flicker"]
    lines = [
        "moving: pixels where the real or the last given frame differs from the median frame of "
        "what the (first) world was trained on; game again: the real game, played on from there "
        "with other chance; "
        "last copied: the last given frame, copied"
    ]
    for why in (figures["fidelity"]["no_game_again"], figures["fidelity"]["no_lpips"]):
        lines += [f"Note: {why}"] if why else []
    similar = [
        f"{row['ssim_moving']['world'].value:.3f} at {h}"
        for h, row in figures["fidelity"]["horizons"].items()
        if math.isfinite(row["ssim_moving"]["world"].value)
    ]
    lines += [f"SSIM on moving pixels: {', '.join(similar)}"] if similar else []
    if math.isfinite(frechet["world"]):
        lines.append(
            f"Frechet distance of features of three frames (neither FID nor FVD): world "
            f"{frechet['world']:.3g}, held-out {frechet['held_out']:.3g}, copy-last "
            f"{frechet['copy_last']:.3g}"
        )
    if figures["fvd"] is not None:
        lines.append(f"FVD of clips of 16 frames: {figures['fvd']:.1f}")
    lines.append(
        f"flow warping error: world {_band(flicker['warping_error_world'])}, game "
        f"{_band(flicker['warping_error_real'])} of 255"
    )
    ratio = control["action_shuffle_ratio"]
    if math.isfinite(ratio):
        by_action = control["action_shuffle_ratio_by_action"].items()
        told = ", ".join(f"{name} {value:.2f}" for name, value in by_action if value == value)
        lines.append(f"action-shuffle ratio: {ratio:.3f}; by the last action: {told}")
    else:
        lines.append(
            "action-shuffle ratio: undefined, since no step could be tried with another action"
        )
    known = control["recognised"]
    lines.append(
        f"actions recognised: in imagined frames {_band(known['world'])}, in real ones "
        f"{_band(known['real'])}"
    )
    slope = stability["slope_per_1000_steps"]
    objects = ", ".join(
        f"{value:.2f} at {step:,}"
        for step, value in zip(stability["steps"], stability["objects"], strict=True)
        if math.isfinite(value)
    )
    lines.append(
        (f"drift: {_band(slope)} a thousand steps; " if math.isfinite(slope.value) else "")
        + f"objects {objects or 'undefined, since the recording shows none'}"
    )
    for age, row in figures["memory"].items():
        lines.append(
            f"out of sight for up to {age} steps: world {row['world'].value:.1f} dB, when made to "
            f"forget {row['forgetful'].value:.1f}, median {row['median'].value:.1f} "
            f"({row['pixels']:,} pixels)"
        )
    lines += _tell_events(figures["events"])
    for step, times in figures["speed"]["step_ms"].items():
        lines.append(
            f"step {int(step):>5,}: {times['p50']:.1f} ms p50, {times['p95']:.1f} ms p95 "
            f"({1000 / times['p50']:.0f} frames per second, {figures['device']}, "
            f"{figures['threads']} threads)"
        )
    lines.append(f"most memory in use: {figures['speed']['peak_mb']:,.0f} MB")
    return lines


def _band(figure: Estimate) -> str:
    band = f" ({figure.low:.3g} to {figure.high:.3g})" if math.isfinite(figure.low) else ""
    return f"{figure.value:.3g}{band}"


def _tell_events(told: dict[str, Any]) -> list[str]:
    """Rewards and ends, a line each."""

    def tell(name: str, found: dict[str, Any]) -> str:
        if not found["number"]:
            return f"{name}: none, {found['predicted']:,} predicted"
        if not found["predicted"]:
            return f"{name}: {found['number']:,}, none predicted"
        return (
            f"{name}: {found['number']:,}, precision {found['precision']:.2f}, recall "
            f"{found['recall']:.2f}, F1 {found['f1']:.2f} ({found['low']:.2f} to "
            f"{found['high']:.2f})"
        )

    return [
        f"rewards and ends predicted up to {STRETCH} steps ahead, {told['steps']:,} steps: "
        + "; ".join(tell(words, told[name]) for words, name in EVENTS.items()),
        f"mean reward a step {told['predicted_reward_mean']:.4f} (recorded "
        f"{told['reward_mean']:.4f}); probability of an end off by "
        f"{told['termination_calibration_error']:.4f} on the average, Brier score "
        f"{told['termination_brier']:.4f} (of the mean rate "
        f"{told['termination_brier_of_mean']:.4f})",
    ]
