"""Pictures as SVG: a plate with marks, whose colours follow the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

STYLE = """
svg { font: 13px system-ui, sans-serif }
text { fill: #2b3340 } .small { font-size: 11px } .pale { fill: #5f6b7a }
.middle { text-anchor: middle } .end { text-anchor: end } .strong { font-weight: 600 }
.code { font: 12px ui-monospace, monospace }
.plate { fill: #fafbfc; stroke: #d8dee6 } .paper { fill: #eef1f5 } .unseen { fill: #dfe4ea }
.a { fill: #0f8b8d } .b { fill: #d9730d } .c { fill: #6c5ce7 } .e { fill: #b83280 }
.soft { opacity: .35 } .on { fill: #fff }
.line { stroke: #7a8794; fill: none } .edge { stroke: #2b3340; fill: none; stroke-width: 1.5 }
.mark { stroke: #d9730d; fill: none; stroke-width: 2 } .dashed { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #dbe2ea } .pale { fill: #98a5b3 }
.plate { fill: #1c212a; stroke: #3a4350 } .paper { fill: #272e39 } .unseen { fill: #38414d }
.a { fill: #3cc4bf } .b { fill: #ff9d45 } .c { fill: #a599ff } .e { fill: #f07ab8 }
.on { fill: #10151c } .edge { stroke: #dbe2ea } .mark { stroke: #ff9d45 }
}
"""


class Picture:
    """An SVG under way; lengths are pixels, styles are classes of `STYLE`.

    Args:
        width: Of the picture.
        height: Of the picture.
        title: What it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
        ]
        self.rect(0.5, 0.5, width - 1, height - 1, "plate", radius=8)

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, radius: float = 0
    ) -> None:
        """Draw a rectangle from its upper left corner."""
        rounded = f' rx="{_n(radius)}"' if radius else ""
        self._parts.append(
            f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" '
            f'height="{_n(height)}"{rounded}/>'
        )

    def circle(self, x: float, y: float, radius: float, style: str) -> None:
        """Draw a disc around a point."""
        self._parts.append(f'<circle class="{style}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>')

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        """Write a line whose baseline begins at a point."""
        of_style = f' class="{style}"' if style else ""
        self._parts.append(f'<text{of_style} x="{_n(x)}" y="{_n(y)}">{escape(words)}</text>')

    def lines(self, points: Iterable[tuple[float, float]], style: str = "line") -> None:
        """Join points by straight lines."""
        path = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self._parts.append(f'<path class="{style}" d="M{path}"/>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a level or upright arrow."""
        self.lines([(x1, y1), (x2, y2)])
        along = np.sign([x2 - x1, y2 - y1])
        across = along[::-1]
        ends = [(x2, y2) - 5 * along + side * 3 * across for side in (-1, 1)]
        self.lines([tuple(ends[0]), (x2, y2), tuple(ends[1])])

    def mask(
        self, mask: np.ndarray, x: float, y: float, cell: float, style: str = "a", gap: float = 0
    ) -> None:
        """Draw the true cells of a matrix, as few rectangles.

        Args:
            mask: Bool (rows columns).
            x: Its left edge.
            y: Its upper edge.
            cell: Side of a cell.
            style: Class of the cells; a colour such as ``#102030`` is used as it is.
            gap: Room between cells, which are then drawn one by one.
        """
        boxes = [
            (x + left * cell, y + top * cell, width * cell - gap, height * cell - gap)
            for left, top, width, height in rectangles(mask, merge=not gap)
        ]
        path = "".join(f"M{_n(a)} {_n(b)}h{_n(w)}v{_n(h)}h-{_n(w)}z" for a, b, w, h in boxes)
        look = f'fill="{style}"' if style.startswith("#") else f'class="{style}"'
        if path:
            self._parts.append(f'<path {look} d="{path}"/>')

    def pixels(self, pixels: np.ndarray, x: float, y: float, cell: float, gap: float = 0) -> None:
        """Draw an image (h w 3) of few colours, each as one path."""
        codes = pixels.astype(np.int64) @ [65536, 256, 1]
        for code in np.unique(codes):
            self.mask(codes == code, x, y, cell, f"#{code:06x}", gap)

    def __str__(self) -> str:
        """The text of the file."""
        return "\n".join([*self._parts, "</svg>\n"])

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self), encoding="utf-8", newline="\n")


def rectangles(mask: np.ndarray, merge: bool = True) -> Sequence[tuple[int, int, int, int]]:
    """Cover the true cells of a matrix: left, top, width and height of each rectangle.

    Args:
        mask: Bool (rows columns).
        merge: Whether neighbours share a rectangle.
    """
    if not merge:
        return [(int(left), int(top), 1, 1) for top, left in np.argwhere(mask)]
    done: list[tuple[int, int, int, int]] = []
    growing: dict[tuple[int, int], int] = {}  # left and width -> top
    for row in range(len(mask) + 1):
        cells = mask[row].astype(np.int8) if row < len(mask) else np.zeros(mask.shape[1], np.int8)
        steps = np.diff(cells, prepend=0, append=0)
        starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
        runs = {(int(start), int(end - start)) for start, end in zip(starts, ends, strict=True)}
        for left, width in [run for run in growing if run not in runs]:
            top = growing.pop((left, width))
            done.append((left, top, width, row - top))
        for run in sorted(runs):
            growing.setdefault(run, row)
    return done


def _n(number: float) -> str:
    """A length, to a hundredth of a pixel."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
