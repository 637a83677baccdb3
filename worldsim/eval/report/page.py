"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from worldsim.system.files import write_text

from .charts import draw, legend, world_style
from .control import ControlSection
from .fidelity import BASELINES, FidelitySection
from .pictures import clips_of, strip_of, strip_of_actions
from .section import Grade, Section
from .sections import Measured


def write_page(path: Path, title: str, lead: str, measured: Sequence[Measured], text: str) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        title: Its heading.
        lead: What was measured on what.
        measured: The worlds, each of which becomes a colour.
        text: The report as text, for those who want every figure.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    page = environment.get_template("report.html").render(
        title=title,
        lead=lead,
        sections=_sections(measured),
        worlds=[_world(one, world_style(i)) for i, one in enumerate(measured)],
        text=text,
    )
    write_text(path, page)


def _sections(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each section of all worlds: verdicts, charts and notes."""
    rendered = []
    for sections in zip(*(one.sections for one in measured), strict=True):
        kind: type[Section] = type(sections[0])
        found = {one.study.name: section for one, section in zip(measured, sections, strict=True)}
        charts = kind.charts(found)
        rendered.append(
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
    return rendered


def _world(one: Measured, style: str) -> dict[str, Any]:
    """What is shown of a world: its score, facts, clips and filmstrips."""
    study = one.study
    fidelity = next((s for s in one.sections if isinstance(s, FidelitySection)), None)
    control = next((s for s in one.sections if isinstance(s, ControlSection)), None)
    counterfactuals = control.counterfactuals if control else None
    grades = Counter(verdict.grade for verdict in one.verdicts().values())
    return {
        "name": study.name,
        "style": style,
        "facts": _facts(one),
        "seen": one.seen,
        "score": fidelity.headline() if fidelity else None,
        "levels": _levels(fidelity, style) if fidelity else [],
        "basis": fidelity.verdict().basis if fidelity else "",
        "grades": [(grade, grades[grade]) for grade in Grade if grades[grade]],
        "clips": clips_of(study),
        "strip": strip_of(study),
        "every_action": strip_of_actions(study, counterfactuals) if counterfactuals else "",
    }


def _levels(fidelity: FidelitySection, style: str) -> list[tuple[str, float, str, float]]:
    """Label, PSNR, style and share of the largest: of the world, the game again and baselines."""
    soon = fidelity.headline()
    if soon is None:
        return []
    scores = fidelity.horizons[soon.horizon].psnr_moving
    labels = {"world": ("world", style), **BASELINES}
    largest = max(score.value for score in scores.values())
    return [
        (label, scores[name].value, look, 100 * scores[name].value / largest)
        for name, (label, look) in labels.items()
        if name in scores
    ]


def _facts(one: Measured) -> str:
    study = one.study
    height, width = study.world.game.frame_size
    return (
        f"{one.parameters / 1e6:.2f} million parameters, {height}×{width} pixels, "
        f"{one.num_passes} denoising pass{'es' * (one.num_passes > 1)} a frame, measured on "
        f"{study.world.device}."
    )
