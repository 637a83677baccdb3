"""The report as text: what was measured on what, the verdicts, a table and the other figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from worldsim.eval.fidelity import HorizonScores

from .fidelity import FidelitySection
from .sections import Measured

PREDICTORS = {
    "world": "world",
    "game_again": "game\nagain",
    "copy_last": "last\ncopied",
    "median": "back-\nground",
}


def print_report(lead: str, measured: Sequence[Measured], console: Console) -> None:
    """Print the report.

    Args:
        lead: What was measured on what.
        measured: The worlds.
        console: Where to print.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(lead)
    for one in measured:
        study = one.study
        say(
            f"\n{study.name}: {study.num_windows} windows of {study.held_out.horizon} steps, "
            f"denoising passes: {one.num_passes}"
        )
        say(one.seen)
        for section in one.sections:
            verdict = section.verdict()
            say(f"{section.title}: {verdict.grade.value}. {verdict}")
        for section in one.sections:
            if isinstance(section, FidelitySection):
                console.print(table_of(section.horizons))
            for line in section.lines():
                say(line)


def table_of(horizons: dict[int, HorizonScores]) -> Table:
    """PSNR by horizon, the best of each row in bold."""
    table = Table(title="PSNR in dB by horizon, higher is better")
    table.add_column("steps", justify="right")
    known = next(iter(horizons.values())).psnr
    shown = {name: label for name, label in PREDICTORS.items() if name in known}
    for kind in ("all", "moving"):
        for label in shown.values():
            table.add_column(f"{label}\n{kind}", justify="right")
    for horizon, row in horizons.items():
        cells = []
        for scores in (row.psnr, row.psnr_moving):
            best = max(scores[name].value for name in shown)
            for name in shown:
                value = scores[name].value
                style = "[bold]" if value == best else ""
                cells.append(f"{style}{value:.1f}" if math.isfinite(value) else "-")
        table.add_row(str(horizon), *cells)
    return table
