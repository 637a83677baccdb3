"""What every section of the report is: figures of one world, and what they say."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from worldsim.eval.bootstrap import Estimate

if TYPE_CHECKING:
    from typing_extensions import Self

    from .charts import Chart
    from .study import Study

ENOUGH_EPISODES = 5  # with fewer, a bootstrap over episodes draws the same few again and again
ENOUGH_EVENTS = 10  # rewards or ends, and steps in which an action was taken


class Grade(str, Enum):
    """What a verdict comes to, in a word."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    UNCLEAR = "unclear"  # measured, but the data do not decide
    NOT_MEASURED = "not measured"  # there was nothing to measure


class Verdict(NamedTuple):
    """What the figures of a section say.

    Attributes:
        grade: In a word.
        sentence: In a sentence, which claims no more than the confidence intervals bear out.
        basis: How much data it rests on, such as "32 windows of 12 episodes".
    """

    grade: Grade
    sentence: str
    basis: str

    def __str__(self) -> str:
        """The sentence and what it rests on."""
        return f"{self.sentence} ({self.basis})"


class Section(ABC):
    """A section of the report: a frozen dataclass of what was found of one world.

    A new section is a file with a subclass, and an entry in `worldsim.eval.report.sections`.

    Attributes:
        key: Its name in ``report.json``.
        title: Its heading.
        scale: How its grade is decided, in a sentence.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    scale: ClassVar[str]

    @classmethod
    @abstractmethod
    def measure(cls, study: Study) -> Self:
        """Measure the world of a study."""

    @abstractmethod
    def verdict(self) -> Verdict:
        """Judge the figures."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The figures as lines of ``report.txt``."""

    def to_json(self) -> dict[str, Any]:
        """What ``report.json`` holds: every figure, an estimate as [value, low, high]."""
        figures: dict[str, Any] = plain(self)
        return figures

    @classmethod
    @abstractmethod
    def charts(cls, found: Mapping[str, Self]) -> list[Chart]:
        """The figures as charts, of some worlds by name."""

    @classmethod
    def notes(cls, found: Mapping[str, Self]) -> list[str]:
        """What a reader should know beside the charts."""
        return []


UNSAVED = {"saved": False}
"""Metadata of a field that ``report.json`` does not hold."""


def plain(value: Any) -> Any:
    """Figures as JSON can hold them: dicts, lists and numbers, with estimates as they are."""
    if isinstance(value, Estimate):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata.get("saved", True)
        }
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def count(number: int, thing: str) -> str:
    """A number of things, such as "1 episode" and "1,200 episodes"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def basis_of(windows: int, episodes: int) -> str:
    """How much data there is, and whether that is little."""
    few = " only" * (episodes < ENOUGH_EPISODES)
    return f"{count(windows, 'window')} of {count(episodes, 'episode')}{few}"


def with_band(figure: Estimate) -> str:
    """A figure and its confidence interval, where there is one."""
    band = f" ({figure.low:.3g} to {figure.high:.3g})" if math.isfinite(figure.low) else ""
    return f"{figure.value:.3g}{band}"
