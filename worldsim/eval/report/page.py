"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from worldsim.files import write_text

from .charts import draw, legend, world_style
from .control import ControlSection
from .pictures import clips_of, strip_of, strip_of_actions
from .section import Section
from .sections import Measured


def write_page(path: Path, title: str, lead: str, measured: Sequence[Measured]) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        title: Its heading.
        lead: What was measured on what.
        measured: The worlds, each of which becomes a colour.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    page = environment.get_template("report.html").render(
        title=title,
        lead=lead,
        sections=_sections(measured),
        worlds=[_world(one, world_style(i)) for i, one in enumerate(measured)],
    )
    write_text(path, page)


def _sections(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each section of all worlds: verdicts, charts and notes."""
    shown = []
    for sections in zip(*(one.sections for one in measured), strict=True):
        kind: type[Section] = type(sections[0])
        found = {one.study.name: section for one, section in zip(measured, sections, strict=True)}
        charts = kind.charts(found)
        shown.append(
            {
                "key": kind.key,
                "title": kind.title,
                "scale": kind.scale,
                "verdicts": [(name, section.verdict()) for name, section in found.items()],
                "charts": [Markup(draw(chart)) for chart in charts],  # which escapes its words
                "legend": legend(charts),
                "notes": kind.notes(found),
            }
        )
    return shown


def _world(one: Measured, style: str) -> dict[str, Any]:
    """What is shown of a world: facts, clips and filmstrips."""
    study = one.study
    tried = next((s.tried for s in one.sections if isinstance(s, ControlSection)), None)
    return {
        "name": study.name,
        "style": style,
        "facts": _facts(one),
        "clips": clips_of(study),
        "strip": strip_of(study),
        "tried": strip_of_actions(study, tried) if tried else "",
    }


def _facts(one: Measured) -> str:
    study = one.study
    height, width = study.world.game.frame_size
    return (
        f"{one.parameters / 1e6:.2f} million parameters, {height}×{width}, "
        f"{one.num_passes} denoising pass{'es' * (one.num_passes > 1)} a frame, "
        f"{study.num_windows} windows of {study.held_out.horizon} steps, on "
        f"{study.world.device}. {one.seen}"
    )
