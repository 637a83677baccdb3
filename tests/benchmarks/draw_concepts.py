"""Draw the pictures of docs/concepts/tokens.md from what the library computes, and its tables.

Run as ``python -m tests.benchmarks.draw_concepts``: it writes the pictures and prints the tables.
A test compares the page with both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.concept_attention import draw_patterns, draw_ring, draw_text
from tests.benchmarks.concept_tokens import (
    NUM_SPECIAL,
    PATCH,
    draw_batch,
    draw_sizes,
    draw_tokens,
)
from tests.benchmarks.svg import Picture
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game
from worldsim.game.joined import join_games
from worldsim.model.layout import Layout

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "tokens.md"
FOLDER = PAGE.parent / "pictures"

PICTURES: dict[str, Callable[[], Picture]] = {
    "tokens": draw_tokens,
    "batch": draw_batch,
    "patterns": draw_patterns,
    "ring": draw_ring,
    "sizes": draw_sizes,
    "text": draw_text,
}
BREAKOUT = GameConfig("ALE/Breakout-v5", action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"))


def table_of_tokens() -> str:
    """The number of tokens of sequences of some sizes and lengths."""
    rows = []
    for num_frames, side, patch_frames in (
        (1, 64, 1),
        (13, 48, 1),
        (13, 64, 1),
        (13, 64, 2),
        (13, 96, 1),
        (1, 512, 1),
        (257, 512, 4),
    ):
        layout = Layout.of(num_frames, (side, side), (patch_frames, PATCH, PATCH), NUM_SPECIAL)
        rows.append(
            [
                f"{num_frames}",
                f"{side}×{side}",
                f"{patch_frames}",
                f"{layout.times}",
                f"{layout.rows} · {layout.columns} + {layout.num_special}",
                f"{layout.num_tokens:,}",
            ]
        )
    head = ["frames", "pixels", "`patch_frames`", "times", "tokens of a time", "N"]
    return table(head, rows)


def table_of_actions() -> str:
    """The actions of some games, and of a world that plays them all."""
    games = [describe_game("worldsim/Pong-v0"), describe_game("worldsim/Maze-v0"), BREAKOUT]
    joint, tables = join_games(games)
    rows = []
    for action, meaning in enumerate([*joint.action_meanings, "unknown"]):
        own = [numbers.tolist() for numbers in tables]
        cells = [str(each.index(action)) if action in each else "" for each in own]
        rows.append([meaning, *cells, f"{action}"])
    return table(["action", "Pong", "Maze", "Breakout", "all three"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(line)} |".replace("|  ", "| ") for line in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().save(FOLDER / f"{name}.svg")
    print(table_of_tokens(), table_of_actions(), sep="\n\n")
