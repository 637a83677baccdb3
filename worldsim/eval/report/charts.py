"""Charts as inline SVG: curves with bands and groups of bars, whose values appear on hovering.

Colours are the style sheet's (``report.html``), so that a chart follows the page from light to
dark; sizes are in the units of its view box. What the page's script shows on hovering is the title
of the mark too, so that a page without scripts shows it as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from worldsim.eval.bootstrap import Estimate

NUM_COLOURS = 5
WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 34, 40  # margins around what is drawn
UNLABELLED = 24  # the margin at the bottom without a label of the axis
TURNED = 76  # height of labels that stand upright
LETTER = 6.2  # width of a letter of a label, about


@dataclass(frozen=True)
class Series:
    """A curve, or a bar in each group.

    Attributes:
        label: Its name.
        values: Figures, plain or with a confidence interval; nan leaves a gap.
        style: Classes of the style sheet: ``w0`` to ``w4`` for worlds, ``real``, ``baseline``,
            ``dashed``, ``dotted``, ``pale``.
        x: Places of a curve's points; empty for bars.
        marks: Whether a curve's points are marked.
    """

    label: str
    values: Sequence[float | Estimate]
    style: str
    x: Sequence[float] = ()
    marks: bool = True


@dataclass(frozen=True)
class Chart:
    """What to draw.

    Attributes:
        title: Its heading, with the unit.
        series: What to show, the first below the others.
        groups: Names of the groups of bars; empty for curves.
        x_label: What runs along the x axis.
        log_x: Whether steps double along the x axis.
        line: A value to mark by a level line, and its label.
        y_from: Where the y axis begins; None takes the smallest value.
        y_to: Where it ends; None takes the largest value.
        diagonal: Whether to mark where x equals y.
    """

    title: str
    series: Sequence[Series] = field(default_factory=list)
    groups: Sequence[str] = ()
    x_label: str = ""
    log_x: bool = False
    line: tuple[float, str] | None = None
    y_from: float | None = None
    y_to: float | None = None
    diagonal: bool = False


def world_style(index: int) -> str:
    """The style of a world's series."""
    return f"w{index % NUM_COLOURS}"


def draw(chart: Chart) -> str:
    """Draw a chart, as an ``<svg>`` element."""
    turned = bool(chart.groups) and _turned(chart)
    bottom = TURNED if turned else BOTTOM if chart.x_label else UNLABELLED
    low, high, ticks = _y_range(chart)

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return HEIGHT - bottom - share * (HEIGHT - TOP - bottom)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}">',
        _text(LEFT - 34, 14, chart.title, "title"),
    ]
    for tick in ticks:
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 6, y(tick) + 4, _short(tick), "tick end"))
    parts += _bars(chart, y, turned) if chart.groups else _curves(chart, y)
    if chart.line is not None and low <= chart.line[0] <= high:
        at = y(chart.line[0])
        parts.insert(-1, _line(LEFT, at, WIDTH - RIGHT, at, "level"))
    if chart.x_label:
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(middle, HEIGHT - 6, chart.x_label, "tick middle"))
    return "\n".join([*parts, "</svg>"])


def legend(charts: Sequence[Chart]) -> list[tuple[str, str]]:
    """Label and style of all series of charts that stand together, each once."""
    found = {one.label: one.style for chart in charts for one in chart.series if one.label}
    found |= {chart.line[1]: "level" for chart in charts if chart.line and chart.line[1]}
    return list(found.items())


def _y_range(chart: Chart) -> tuple[float, float, list[float]]:
    """Where the y axis begins and ends, and its ticks."""
    known = [
        end
        for one in chart.series
        for value in one.values
        for end in (value if isinstance(value, Estimate) else (value,))
        if math.isfinite(end)
    ]
    if chart.line is not None and math.isfinite(chart.line[0]):
        known.append(chart.line[0])
    low = chart.y_from if chart.y_from is not None else min(known, default=0.0)
    high = chart.y_to if chart.y_to is not None else max(known, default=1.0)
    if not high > low:
        high = low + 1.0
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(f for f in (0.2, 0.5, 1, 2, 5) if (high - low) / (f * step) <= 5.5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _turned(chart: Chart) -> bool:
    """Whether the names of the groups are too long to stand side by side."""
    room = (WIDTH - LEFT - RIGHT) / len(chart.groups)
    return LETTER * max(map(len, chart.groups)) > room


# -------------------------------------------------------------------------- curves


def _curves(chart: Chart, y: Callable[[float], float]) -> list[str]:
    places = [place for one in chart.series for place in one.x]
    scale = math.log2 if chart.log_x else float
    low, high = scale(min(places, default=1)), scale(max(places, default=2))
    span = (high - low) or 1.0

    def x(place: float) -> float:
        return LEFT + 8 + (scale(place) - low) / span * (WIDTH - LEFT - RIGHT - 16)

    parts = [
        _text(x(tick), HEIGHT - BOTTOM + 15, _short(tick), "tick middle")
        for tick in _x_ticks(chart, sorted(set(places)))
    ]
    if chart.diagonal:
        parts.append(_line(x(0), y(0), x(1), y(1), "level"))
    for one in chart.series:
        known = [
            (x(place), value if isinstance(value, Estimate) else Estimate(value, *2 * [math.nan]))
            for place, value in zip(one.x, one.values, strict=True)
            if math.isfinite(value.value if isinstance(value, Estimate) else value)
        ]
        band = [(at, value) for at, value in known if math.isfinite(value.low)]
        if len(band) > 1:
            above = [f"{at:.1f},{y(value.high):.1f}" for at, value in band]
            below = [f"{at:.1f},{y(value.low):.1f}" for at, value in reversed(band)]
            parts.append(f'<polygon class="band {one.style}" points="{" ".join(above + below)}"/>')
        points = " ".join(f"{at:.1f},{y(value.value):.1f}" for at, value in known)
        parts.append(f'<polyline class="curve {one.style}" points="{points}"/>')
        if one.marks:
            parts += [
                f'<circle class="spot {one.style}" cx="{at:.1f}" cy="{y(value.value):.1f}" r="3"/>'
                for at, value in known
            ]
    return parts + _columns(chart, x)


def _columns(chart: Chart, x: Callable[[float], float]) -> list[str]:
    """Unseen stripes, one at each place, which show the values of all curves there on hovering."""
    places = sorted({place for one in chart.series for place in one.x})
    edges = [(x(a) + x(b)) / 2 for a, b in itertools.pairwise(places)]
    edges = [float(LEFT), *edges, float(WIDTH - RIGHT)] if places else []
    stripes = []
    for place, (left, right) in zip(places, itertools.pairwise(edges), strict=True):
        lines = [f"{chart.x_label}: {_short(place)}"]
        for one in chart.series:
            values = dict(zip(one.x, one.values, strict=True))
            if place in values and _is_known(values[place]):
                lines.append(f"{one.label}: {_with_band(values[place])}")
        stripes.append(
            f'<rect class="column" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}">{_tip(lines)}</rect>'
        )
    return stripes


def _x_ticks(chart: Chart, places: Sequence[float]) -> Sequence[float]:
    """Where to label the x axis: every place of few, else five round numbers."""
    if chart.log_x or chart.diagonal:
        return [0, 0.5, 1] if chart.diagonal else places
    if not places:
        return []
    low, high = places[0], places[-1]
    step = 10 ** math.floor(math.log10((high - low) or 1))
    step *= next(f for f in (0.2, 0.5, 1, 2, 5) if ((high - low) or 1) / (f * step) <= 5.5)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


# ---------------------------------------------------------------------------- bars


def _bars(chart: Chart, y: Callable[[float], float], turned: bool) -> list[str]:
    room = (WIDTH - LEFT - RIGHT) / max(1, len(chart.groups))
    width = min(34.0, 0.8 * room / max(1, len(chart.series)))
    floor = y(-math.inf)
    parts = []
    for i, group in enumerate(chart.groups):
        middle = LEFT + (i + 0.5) * room
        if turned:
            place = f"{middle + 4:.1f} {floor + 8:.1f}"
            parts.append(
                f'<text class="tick end" transform="translate({place}) rotate(-45)">'
                f"{escape(group if len(group) < 14 else group[:12] + '…')}</text>"
            )
        else:
            parts.append(_text(middle, floor + 15, group, "tick middle"))
        for k, one in enumerate(chart.series):
            value = one.values[i]
            height = value.value if isinstance(value, Estimate) else value
            if not math.isfinite(height):
                continue
            left = middle + (k - len(chart.series) / 2) * width
            words = f"{one.label}, {group}" if group else one.label
            parts.append(
                f'<rect class="bar {one.style}" x="{left + 0.5:.1f}" y="{y(height):.1f}" '
                f'width="{width - 1:.1f}" height="{max(0.5, floor - y(height)):.1f}">'
                f"{_tip([words, _with_band(value)])}</rect>"
            )
            if isinstance(value, Estimate) and math.isfinite(value.low):
                centre = left + width / 2
                parts.append(_line(centre, y(value.low), centre, y(value.high), "whisker"))
    return parts


# --------------------------------------------------------------------------- marks


def _with_band(value: float | Estimate) -> str:
    if not isinstance(value, Estimate):
        return f"{value:.4g}"
    band = f" ({value.low:.4g} to {value.high:.4g})" if math.isfinite(value.low) else ""
    return f"{value.value:.4g}{band}"


def _short(value: float) -> str:
    """A number as an axis shows it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _tip(lines: Sequence[str]) -> str:
    """What is shown on hovering."""
    return f"<title>{escape(chr(10).join(lines))}</title>"


def _is_known(value: float | Estimate) -> bool:
    return math.isfinite(value.value if isinstance(value, Estimate) else value)
