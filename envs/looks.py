"""Looks: variants of a bundled game, and the captions that tell them.

A look is a value for each property of the game, such as its number of balls. A game has one look,
or draws one for each episode from the episode's seed. Readers of these properties in frames are in
`worldsim.envs.look_readers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
Look = dict[str, Any]

COLOURS: dict[str, Colour] = {
    "red": (232, 64, 72),
    "green": (72, 200, 96),
    "blue": (64, 112, 240),
    "yellow": (255, 208, 64),
    "white": (248, 248, 248),
    "purple": (184, 72, 216),
}
"""Named colours of objects: far from one another, from `DAY`, and from dark grounds."""

DAY: Colour = (164, 186, 200)
"""The ground by day."""

PLAIN: Colour = (104, 108, 116)
"""What moves beside a ball whose colour is named: so no other object has the named colour."""

NIGHT_WORDS = {True: "at night", False: "by day"}


@dataclass(frozen=True)
class Looks:
    """All looks of a game.

    Args:
        name: First word of the captions.
        usual: The look of the game without any argument.
        words: For each property, the words of each value that `vary` draws.

    Example:
        >>> looks = Looks("box", {"night": True}, {"night": NIGHT_WORDS})
        >>> looks.captions()
        {'box: at night': {'night': True}, 'box: by day': {'night': False}}
    """

    name: str
    usual: Mapping[str, Any]
    words: Mapping[str, Mapping[Any, str]]

    def caption(self, look: Mapping[str, Any]) -> str:
        """Return the caption of a look; a value without words is left out."""
        parts = [words[look[name]] for name, words in self.words.items() if look[name] in words]
        return f"{self.name}: {', '.join(parts)}"

    def captions(self) -> dict[str, Look]:
        """Return every look by its caption."""
        values = [dict.fromkeys([*words, self.usual[name]]) for name, words in self.words.items()]
        looks = [dict(zip(self.words, look, strict=True)) for look in itertools.product(*values)]
        return {self.caption(look): look for look in looks}

    def choose(
        self,
        given: Mapping[str, Any],
        vary: Sequence[str] = (),
        vary_except: Sequence[Mapping[str, Any]] = (),
        vary_only: Sequence[Mapping[str, Any]] = (),
    ) -> ChosenLooks:
        """Return the looks that a game's arguments ask for.

        Args:
            given: The value of each property.
            vary: Properties that each episode draws.
            vary_except: Values of varied properties; looks that have all of one entry are left out.
            vary_only: If not empty, all looks are left out that match no entry.

        Raises:
            ValueError: If there is no such property or value, or no look is left.
        """
        for name, value in given.items():
            _check_is_one(name, value, [*self.words[name], self.usual[name]])
        if isinstance(vary, str) or len({*vary}) < len(vary) or not {*vary} <= {*self.words}:
            raise ValueError(
                f"vary must be a list of some of {', '.join(self.words)}, each once, got {vary!r}"
            )
        for name in vary:
            if given[name] != self.usual[name]:
                raise ValueError(f"{name} must not be given if vary has it, got {given[name]!r}")
        for argument, entries in (("vary_except", vary_except), ("vary_only", vary_only)):
            for entry in entries:
                if not isinstance(entry, Mapping) or not entry or not {*entry} <= {*vary}:
                    raise ValueError(
                        f"{argument} must be a list of objects with values of properties in vary, "
                        f"got {entry!r} where vary is {list(vary)}"
                    )
                for name, value in entry.items():
                    _check_is_one(f"{name} in {argument}", value, [*self.words[name]])

        def is_kept(look: Look) -> bool:
            matches = [
                [entry.items() <= look.items() for entry in entries]
                for entries in (vary_except, vary_only)
            ]
            return not any(matches[0]) and (any(matches[1]) or not vary_only)

        drawn = [dict(zip(vary, v, strict=True)) for v in itertools.product(*map(self._all, vary))]
        looks = [{**given, **look} for look in drawn if is_kept(look)]
        if not looks:
            raise ValueError(
                f"vary_except and vary_only must leave one look or more, got {vary_except!r} and "
                f"{vary_only!r}"
            )
        are_told = bool(vary) or given != self.usual
        return ChosenLooks(looks, [self.caption(look) for look in looks] if are_told else None)

    def _all(self, name: str) -> list[Any]:
        return [*self.words[name]]


@dataclass(frozen=True)
class ChosenLooks:
    """The looks of a game's episodes."""

    looks: Sequence[Look]
    """Looks that are drawn with equal chance."""
    captions: Sequence[str] | None
    """The caption of each; None for the usual game, which tells none."""

    def draw(self, rng: np.random.Generator) -> tuple[Look, dict[str, str]]:
        """Draw the look of an episode.

        Args:
            rng: Source of randomness; it is not used if there is one look.

        Returns:
            The look, and the entry ``caption`` of the episode's info, if it has one.
        """
        index = int(rng.integers(len(self.looks))) if len(self.looks) > 1 else 0
        about = {} if self.captions is None else {"caption": self.captions[index]}
        return self.looks[index], about


def _check_is_one(name: str, value: Any, values: Sequence[Any]) -> None:
    if not any(value == one and type(value) is type(one) for one in values):
        listed = ", ".join(repr(one) for one in dict.fromkeys(values))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")
