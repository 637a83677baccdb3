"""`worldsim eval`: is it a world? Measured on held-out play, shown as a page, text and JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldsim.data.recording import Recording
from worldsim.find_world import find_world
from worldsim.game.joined import JOINT
from worldsim.system.command_line import parse
from worldsim.system.extras import require
from worldsim.system.files import write_json, write_text
from worldsim.system.location import Location
from worldsim.system.options import (
    Advanced,
    Count,
    Heading,
    InFile,
    OutFolder,
    Passes,
    Place,
    RayAddress,
    Seed,
    check_place,
)

from .effort import FULL, QUICK

if TYPE_CHECKING:
    from worldsim.data.split import Measurable
    from worldsim.world_model import WorldModel

    from .sections import Measured
    from .study import Advance


@dataclass(frozen=True)
class EvalConfig:
    """Measure a world on the episodes of a recording of its game that it was not trained on.

    Writes report.html, which needs no other file, report.json and report.txt. They show how close
    the world is to the real game, by horizon. To compare with it: the last frame copied, the
    background, and the real game played again with another seed. They show whether the world
    flickers, obeys, drifts, remembers, and predicts rewards and ends. They show how fast it is.
    Each part has a grade and a sentence.

    Examples:
        worldsim eval runs/pong recordings/pong --quick
        worldsim eval runs/pong recordings/pong --beside pong runs/other
    """

    world: Annotated[tyro.conf.Positional[str], Heading("what to measure")]
    """A bundled world (pong, maze, balls), or the folder of a world or of a run."""
    recording: tyro.conf.Positional[Location]
    """Folder or URL of a recording of the same game, made with the same settings."""
    beside: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORLD ...")] = ()
    """More worlds of the same game, to compare with it."""
    out: OutFolder | None = None
    """Folder for the report; `eval` in the world's folder, or `runs/NAME_eval`, if not given."""
    quick: Annotated[bool, Heading("how")] = False
    """A quick check: fewer and shorter windows, in about a tenth of the time."""
    windows: Count | None = None
    """Held-out windows to predict; 32, or 16 with --quick, if not given."""
    passes: Passes | None = None
    """Denoising passes per frame; the world's own number if not given."""
    seed: Seed = 0
    """Seed of the windows, of the shuffled actions and of the noise."""
    device: str | None = None
    """Where the world runs, such as cpu or cuda; a GPU if there is one."""
    ray: Annotated[RayAddress | None, Advanced()] = None
    """Share the windows out on a Ray cluster, with a worker on each of its GPUs, or on each CPU if
    it has none: the cluster at HOST:PORT or ray://HOST:PORT; auto takes the one that RAY_ADDRESS
    names or that runs here, and starts one if there is none."""
    i3d: InFile | None = None
    """The network of FVD, as the TorchScript file i3d_torchscript.pt that is in common use (it is
    not part of worldsim); no FVD if not given. TorchScript is a program that runs when it is
    loaded: give only a file that you trust. Slow without a GPU."""


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
        confidence interval are [value, low, high].

    Raises:
        ValueError: If there is no such world or recording, they do not fit, or an option is out
            of range.
    """
    out = config.out or _default_out(config.world)
    check_place("--out", out, Place("folder"))
    recording = Recording(config.recording)
    names = list(dict.fromkeys((config.world, *config.beside)))
    for name in names:
        find_world(name)
    if config.ray is not None:
        require("ray")
    measured, episodes = _measure(config, names, recording)
    report = {
        "recording": str(config.recording),
        "recording_env_id": recording.game.env_id,
        "recording_episodes": len(recording),
        "unseen_episodes": episodes.unseen,
        "unseen_steps": int(recording.episode_lengths[episodes.unseen].sum()),
        "seed": config.seed,
        "worlds": [one.to_json() for one in measured],
    }
    lead = (
        f"On {config.recording} ({recording.game.env_id}): "
        f"measured on {len(episodes.unseen)} of its {len(recording)} episodes, "
        f"{report['unseen_steps']:,} steps in all."
    )
    out.mkdir(parents=True, exist_ok=True)
    from .page import write_page
    from .pictures import strip_of
    from .text import print_report

    console = Console()
    print_report(lead, measured, console)
    text = io.StringIO()
    print_report(lead, measured, Console(file=text, width=100))
    write_text(out / "report.txt", text.getvalue())
    write_json(out / "report.json", report)
    strip_of(measured[0].study, out / "filmstrip.png")
    title = f"{' and '.join(names)}: is it a world?"
    write_page(out / "report.html", title, lead, measured, text.getvalue())
    console.print(
        f"Report in {out} (open report.html; report.json, report.txt, filmstrip.png). Next: "
        f"worldsim play {config.world}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return report


def _measure(
    config: EvalConfig, names: Sequence[str], recording: Recording
) -> tuple[list[Measured], Measurable]:
    """Measure the worlds one after the other, under a progress display."""
    from worldsim.eval.held_out import check_match, fitted
    from worldsim.eval.shared_world import shared_out
    from worldsim.eval.unseen import unseen  # torch and what measures take seconds
    from worldsim.world_folder import load

    from .sections import measure
    from .study import begin_study, train_judge

    worlds: dict[str, WorldModel] = {name: load(name, device=config.device) for name in names}
    worlds[config.world], recording = fitted(worlds[config.world], recording)
    for name, world in worlds.items():
        worlds[name], _ = fitted(world, recording)
        check_match(worlds[name], recording)
    episodes = unseen(list(worlds.values()), recording)
    effort = QUICK if config.quick else FULL
    if config.windows is not None:
        effort = effort._replace(windows=config.windows)

    console = Console()
    with ExitStack() as opened:
        progress = opened.enter_context(_progress(console))
        if config.ray is not None:
            worlds = opened.enter_context(shared_out(worlds, config.ray, config.device))

        @contextmanager
        def stage(words: str, total: int) -> Iterator[Advance]:
            bar = progress.add_task(words, total=total)
            if not console.is_terminal:
                console.print(f"{words} …", highlight=False, markup=False)
            yield lambda: progress.advance(bar)
            progress.update(bar, completed=total)

        first = worlds[config.world]
        background = first.background
        if JOINT in first.game.env_id:  # that of no game
            background = recording.median_frame(episodes=episodes.reference)
        judge = train_judge(recording, episodes.reference, effort, stage, first.device)
        measured = []
        for (name, world), seen in zip(worlds.items(), episodes.sentences, strict=True):
            if len(worlds) > 1:
                progress.console.print(name, highlight=False, markup=False)
            study = begin_study(
                name,
                world,
                recording,
                episodes,
                judge,
                effort,
                stage,
                background=background,  # the same pixels move for all
                num_passes=config.passes,
                seed=config.seed,
                i3d=config.i3d,
            )
            measured.append(measure(study, seen))
    return measured, episodes


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
