"""Pictures of docs/concepts/tokens.md: attention patterns, the ring cache and text."""

from __future__ import annotations

import numpy as np
import torch

from tests.benchmarks.svg import Picture
from worldsim.model.layout import Layout
from worldsim.model.patterns import LayerAttention, Pattern, Ring, places_seen, times_seen
from worldsim.model.text import VocabularyEncoder
from worldsim.model.text_attention import TextInput

ATTENTIONS = ("space", "time", "full", "local:near=2,reach=1", "strided:near=2,stride=3")
SEQUENCE = Layout(times=8, rows=3, columns=4, num_special=1)
WIDTH = 720


def seen_by(layout: Layout, window: int, attention: str) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens each token of a sequence sees, and which of them as a sink.

    Args:
        layout: Of the sequence.
        window: Times that are seen at most.
        attention: Of one layer, without ``+``.

    Returns:
        Two masks, bool (N N).
    """
    space, over_time = LayerAttention.parse(attention)
    pattern = over_time if isinstance(over_time, Pattern) else Pattern(near=1 if space else None)
    times = times_seen(layout.times, window, pattern)
    places = places_seen(layout, pattern.reach)
    if over_time == "time":
        places = torch.eye(layout.tokens_per_time, dtype=torch.bool)
    sink = torch.zeros_like(times[:, :-1])
    sink[:, 0] = times[:, -1]
    plain, as_sink = (torch.kron(each, places) for each in (times[:, :-1], sink))
    return plain.numpy(), as_sink.numpy()


def draw_patterns() -> Picture:
    """The mask of each pattern, and what one token of the newest frame sees."""
    layout, row_height, cell = SEQUENCE, 122.0, 11.0
    n = layout.tokens_per_time
    query = (layout.times - 1) * n + layout.columns + 1  # a patch inside the newest frame
    picture = Picture(WIDTH, 52 + row_height * len(ATTENTIONS), "What each pattern sees")
    picture.text(150, 26, "mask", "strong")
    picture.text(282, 26, f"one token of {layout.num_tokens}: what it sees", "strong")
    for row, attention in enumerate(ATTENTIONS):
        y = 46 + row * row_height
        plain, sink = seen_by(layout, layout.times, attention)
        name, _, numbers = attention.partition(":")
        picture.text(20, y + 18, name, "strong")
        for line, number in enumerate(filter(None, numbers.split(","))):
            picture.text(20, y + 36 + 15 * line, number, "code pale")
        count = int((plain | sink)[query].sum())
        picture.text(20, y + 96, f"sees {count}", "small pale")
        picture.rect(150, y, layout.num_tokens, layout.num_tokens, "paper")
        picture.mask(plain, 150, y, 1)
        picture.mask(sink, 150, y, 1, "b")
        for time in range(layout.times):
            x = 282 + time * 53
            tokens = slice(time * n, (time + 1) * n)
            for mask, style in (
                (~(plain | sink)[query, tokens], "unseen"),
                (plain[query, tokens], "a"),
                (sink[query, tokens], "b"),
            ):
                grid = mask[: layout.num_patches].reshape(layout.rows, layout.columns)
                picture.mask(grid, x, y + 18, cell, style, gap=1)
                if mask[-1]:
                    picture.circle(x + cell * 2 - 0.5, y + 62, 5, style)
            if time == layout.times - 1:
                picture.rect(x + cell - 1, y + 17 + cell, cell + 1, cell + 1, "mark")
            if row == len(ATTENTIONS) - 1:
                picture.text(x + 22, y + 84, f"time {time}", "small pale middle")
    y = 52 + row_height * len(ATTENTIONS) - 14
    picture.rect(282, y - 9, 9, 9, "mark")
    picture.text(297, y, "the token that looks", "small pale")
    picture.circle(425, y - 4, 5, "a")
    picture.text(435, y, "a special token, without a place", "small pale")
    picture.rect(642, y - 9, 9, 9, "b")
    picture.text(656, y, "the sink", "small pale")
    return picture


def draw_ring() -> Picture:
    """The slots of the ring cache of some patterns, frame by frame."""
    window, frames, cell, left = 6, 15, 36.0, 150.0
    patterns = (
        ("full", Pattern()),
        ("local, near=3", Pattern(near=3, sink=True)),
        ("strided, near=2, stride=3", Pattern(near=2, stride=3)),
    )
    rings = [(name, pattern, Ring.of(pattern, window)) for name, pattern in patterns]
    height = 60 + sum(34 + 20 * ring.num_slots for _, _, ring in rings)
    picture = Picture(WIDTH, height, "The slots of the ring cache as frames go by")
    y = 0.0
    for name, _, ring in rings:
        picture.text(20, y + 24, f"{name}, window={window}", "strong")
        held: list[int | None] = [None] * ring.num_slots
        for frame in range(frames):
            position = torch.tensor([frame])
            slots = [int(slot) for slot in ring.slots(position)]
            for slot in slots:
                held[slot] = frame
            seen = ring.seen(position)[0].tolist()
            for slot, content in enumerate(held):
                x, top = left + frame * cell, y + 34 + 20 * slot
                is_sink = ring.sink and slot == ring.num_slots - 1
                style = ("b" if is_sink else "a") if seen[slot] else "unseen"
                picture.rect(x, top, cell - 3, 17, style, radius=3)
                if content is not None:
                    words = "middle small " + ("on" if seen[slot] else "pale")
                    picture.text(x + (cell - 3) / 2, top + 12.5, str(content), words)
                if slot in slots:
                    picture.rect(x, top, cell - 3, 17, "edge", radius=3)
        kinds = ["near"] * ring.near + ["far"] * ring.far + ["sink"] * ring.sink
        for slot, kind in enumerate(kinds):
            picture.text(left - 12, y + 47 + 20 * slot, f"{kind} slot", "small pale end")
        y += 34 + 20 * ring.num_slots
    for frame in range(frames):
        picture.text(left + frame * cell + 16.5, y + 16, str(frame), "small pale middle")
    picture.text(left - 12, y + 16, "frame now", "small pale end")
    y += 44
    x = left
    for style, words in (
        ("a", "seen"),
        ("b", "seen, without its distance"),
        ("unseen", "empty, or not seen now"),
        ("edge", "written now"),
    ):
        picture.rect(x, y - 10, 12, 12, style, radius=3)
        picture.text(x + 18, y, words, "small pale")
        x += 50 + 6 * len(words)
    return picture


def draw_text() -> Picture:
    """Where text enters a layer, and what the frames of two sequences see of it."""
    captions = ["a red ball", None]
    encoder = VocabularyEncoder.of(["a red ball", "two balls at night"], width=8)
    text = TextInput(8)(encoder.encode(captions))
    picture = Picture(WIDTH, 262, "Where a caption enters the network")
    picture.text(20, 26, "a layer, of which there are many", "strong")
    boxes = ("attention: space, time", "attention to text", "feed-forward")
    for row, name in enumerate(boxes):
        y = 62 + 60 * row
        picture.rect(110, y, 170, 34, "b soft" if row == 1 else "a soft", radius=6)
        picture.text(195, y + 22, name, "middle")
        picture.arrow(195, y + 34, 195, y + 60)
    picture.arrow(195, 40, 195, 62)
    picture.text(205, 48, "tokens of frames", "small pale")
    picture.text(205, 238, "to the next layer", "small pale")
    picture.text(20, 112, "“a red ball”", "small")
    picture.arrow(50, 118, 50, 132)
    picture.rect(16, 132, 68, 26, "b soft", radius=6)
    picture.text(50, 149, "encoder", "middle small")
    picture.arrow(84, 139, 110, 139)
    picture.text(16, 174, "keys, values", "small pale")
    picture.text(330, 26, "what the frames of a sequence see", "strong")
    cell, left, top = 52.0, 466.0, 84.0
    columns = ["null", "a", "red", "ball"]
    for column, word in enumerate(columns):
        picture.text(left + (column + 0.5) * cell - 2, top - 10, word, "small middle")
    for row, mask in enumerate(text.mask.tolist()):
        y = top + row * 64
        picture.text(left - 14, y + 26, ("prompted", "free: no caption")[row], "small end")
        for column, is_seen in enumerate(mask[: len(columns)]):
            style = ("c" if column == 0 else "b") if is_seen else "unseen"
            picture.rect(left + column * cell, y, cell - 4, 40, style, radius=4)
    picture.text(left, top + 150, "guided: free + s · (prompted − free)", "small")
    return picture
