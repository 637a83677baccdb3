"""Split: which episodes of a recording a world was trained on, and which were held out.

It is decided once, when training begins, and kept in the world's ``config.json``. Every measurement
uses the unseen episodes of `measurable`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, NamedTuple

from worldsim.data.episodes import Episodes

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Split:
    """The episodes of the recording, or recordings, that a world was trained on.

    Attributes:
        held_out: Numbers of the episodes that were held out, ascending.
        episodes: The fingerprint of each episode (see `Recording.fingerprint`), in order.
        recordings: Number of episodes of each recording; empty for a single one.

    Raises:
        ValueError: If a side has no episode, or a number or a fingerprint is invalid.
    """

    held_out: tuple[int, ...]
    episodes: tuple[str, ...]
    recordings: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that both sides have valid episodes, in each recording."""
        numbers = list(self.held_out)
        if (
            not all(type(number) is int for number in numbers)
            or numbers != sorted(set(numbers) & set(range(len(self.episodes))))
            or not 0 < len(numbers) < len(self.episodes)
        ):
            raise ValueError(
                f"a split holds out some but not all of its {len(self.episodes)} episodes, by "
                f"ascending numbers from 0 on, got {numbers!s:.60}"
            )
        for one in self.episodes:
            if not isinstance(one, str) or not _FINGERPRINT.fullmatch(one):
                raise ValueError(
                    f"the episodes of a split are 16 hexadecimal digits each, got {one!r:.60}"
                )
        if self.recordings:
            counts = list(self.recordings)
            if not all(type(one) is int for one in counts) or sum(counts) != len(self.episodes):
                raise ValueError(
                    f"the recordings of a split have its {len(self.episodes)} episodes, got "
                    f"{counts!s:.60}"
                )
            _ = self.parts  # checks each

    @classmethod
    def joined(cls, splits: Sequence[Split]) -> Split:
        """Join the splits of recordings that train one world; a single one stays as it is.

        Example:
            >>> one, two = Split((0,), ("0" * 16, "1" * 16)), Split((1,), ("2" * 16, "3" * 16))
            >>> both = Split.joined([one, two])
            >>> both.held_out, both.recordings, both.parts == (one, two)
            ((0, 3), (2, 2), True)
        """
        if len(splits) == 1:
            return splits[0]
        sizes = tuple(len(split.episodes) for split in splits)
        firsts = accumulate(sizes, initial=0)
        held = (
            first + number
            for first, split in zip(firsts, splits, strict=False)
            for number in split.held_out
        )
        return cls(tuple(held), tuple(chain(*(split.episodes for split in splits))), sizes)

    @property
    def parts(self) -> tuple[Split, ...]:
        """The split of each recording."""
        parts, first = [], 0
        for size in self.recordings or (len(self.episodes),):
            last = first + size
            held = self.held_out[
                bisect_left(self.held_out, first) : bisect_left(self.held_out, last)
            ]
            parts.append(Split(tuple(one - first for one in held), self.episodes[first:last]))
            first = last
        return tuple(parts)

    @classmethod
    def of(cls, recording: Episodes, fraction: float) -> Split:
        """Hold out complete episodes, spread over the recording, always the same ones.

        Args:
            recording: The recording.
            fraction: Share of the steps to hold out, between 0 and 1.

        Raises:
            ValueError: If there are fewer than two episodes, or ``fraction`` is out of range.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"the share held out must lie between 0 and 1, got {fraction}")
        if len(recording) < 2:
            raise ValueError(
                f"{recording.path} has one episode, but two are needed to hold one out: record more"
            )
        # An episode is held out once half of its steps are due, so that errors never add up.
        held: list[int] = []
        owed = 0.0
        for index, steps in enumerate(recording.episode_lengths.tolist()):
            steps = max(steps, 1)  # a picture has none
            owed += fraction * steps
            if owed >= steps / 2:
                held.append(index)
                owed -= steps
        if not held:
            held = [len(recording) - 1]
        if len(held) == len(recording):
            held = held[1:]
        return cls(tuple(held), tuple(map(recording.fingerprint, range(len(recording)))))

    @property
    def trained_on(self) -> tuple[int, ...]:
        """Numbers of the episodes that were not held out."""
        held = set(self.held_out)
        return tuple(number for number in range(len(self.episodes)) if number not in held)

    def num_new(self, recording: Episodes) -> int:
        """The number of episodes that a recording has after those of this split.

        Raises:
            ValueError: If it does not begin with those of this split.
        """
        known = len(self.episodes)
        same = [
            recording.fingerprint(number) == self.episodes[number]
            for number in range(min(known, len(recording)))
        ]
        if not all(same) or len(recording) < known:
            raise ValueError(
                f"{recording.path} is not the recording that this run began with ({sum(same)} of "
                f"its {known} episodes match): resume with that recording, or start a new run in "
                "another --out"
            )
        return len(recording) - known

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {"held_out": list(self.held_out), "episodes": list(self.episodes)}
        return values | ({"recordings": list(self.recordings)} if self.recordings else {})

    @classmethod
    def from_dict(cls, values: Any) -> Split:
        """Undo `to_dict`.

        Raises:
            ValueError: If a value is missing or invalid.
        """
        names = ("held_out", "episodes", "recordings")
        if isinstance(values, dict):
            values = {"recordings": [], **values}  # a single one has none
        if not isinstance(values, dict) or not all(
            isinstance(values.get(name), list) for name in names
        ):
            raise ValueError(f"a split has the lists held_out and episodes, got {values!s:.60}")
        return cls(*(tuple(values[name]) for name in names))


class Measurable(NamedTuple):
    """The episodes of a recording, divided for measuring worlds.

    Attributes:
        unseen: Numbers of episodes that no world was trained on, to measure on.
        reference: Numbers of the others, to compare with and to learn from.
        sentences: For each world, how its training data overlaps with the recording.
    """

    unseen: list[int]
    reference: list[int]
    sentences: list[str]


def measurable(recording: Episodes, splits: Sequence[Split | None]) -> Measurable:
    """Find the episodes of a recording to measure worlds on.

    If a recording is new to all worlds, one half is measured on and the other is the reference.

    Args:
        recording: A recording of the worlds' game.
        splits: Those of the worlds; None for a world without one.

    Raises:
        ValueError: If some world was trained on every episode, or there are fewer than two.
    """
    here = [recording.fingerprint(number) for number in range(len(recording))]
    seen: set[int] = set()
    sentences = []
    for split in splits:
        known, sentence = _compare(split, here)
        seen |= known
        sentences.append(sentence)
    unseen = [number for number in range(len(recording)) if number not in seen]
    if not unseen:
        raise ValueError(
            f"each of the {len(recording)} episodes of {recording.path} was trained on: measure on "
            "the complete recording, or record more with another --seed"
        )
    if not seen:
        half = Split.of(recording, 0.5)
        return Measurable(list(half.held_out), list(half.trained_on), sentences)
    return Measurable(unseen, sorted(seen), sentences)


def _compare(split: Split | None, here: Sequence[str]) -> tuple[set[int], str]:
    """The trained-on episodes of a recording, and a sentence on the match."""
    new_to_it = f"It was trained on another recording, so all {_count(len(here))} are unseen."
    if split is None:
        return set(), new_to_it
    # The same recording, perhaps with more episodes: compare by number, since two may be equal.
    for part in split.parts:
        known = len(part.episodes)
        if tuple(here[:known]) == part.episodes:
            new = len(here) - known
            sentence = (
                f"It was trained on this recording with {_count(len(part.held_out))} held out"
            )
            if new:
                sentence += f"; {_count(new)} added later are unseen too"
            return set(part.trained_on), f"{sentence}."
    # Another version, as after episodes were deleted: compare by content.
    known, held = len(split.episodes), set(split.held_out)
    taught = {split.episodes[number] for number in split.trained_on}
    seen = {number for number, name in enumerate(here) if name in taught}
    apart = {split.episodes[number] for number in held} - taught
    kept = sum(name in apart for name in here)
    if not seen and not kept:
        return seen, new_to_it
    return seen, (
        f"It was trained on another version of this recording ({_count(known)}). Of the "
        f"{_count(len(here))} here, it was trained on {len(seen)}, {kept} were held out and "
        f"{len(here) - len(seen) - kept} are new."
    )


def _count(number: int) -> str:
    return f"{number:,} episode{'s' * (number != 1)}"
