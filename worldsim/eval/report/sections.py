"""The sections of the report, in its order. A new one is a file and an entry here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .control import ControlSection
from .drift import DriftSection
from .events import EventsSection
from .fidelity import FidelitySection
from .flicker import FlickerSection
from .memory import MemorySection
from .section import Section, Verdict
from .speed import SpeedSection
from .study import Study

SECTIONS: tuple[type[Section], ...] = (
    FidelitySection,
    FlickerSection,
    ControlSection,
    DriftSection,
    MemorySection,
    EventsSection,
    SpeedSection,
)


@dataclass(frozen=True)
class Measured:
    """One world, measured.

    Attributes:
        study: The world, held-out play, and what the world made of it.
        sections: What was found, in the order of `SECTIONS`.
        seen: What the world knows of the recording, in a sentence.
    """

    study: Study
    sections: Sequence[Section]
    seen: str = ""

    @property
    def num_passes(self) -> int:
        """Denoising passes a frame."""
        asked = self.study.num_passes
        return self.study.world.num_passes if asked is None else asked

    @property
    def parameters(self) -> int:
        """Parameters of the world."""
        return sum(parameter.numel() for parameter in self.study.world.parameters())

    def verdicts(self) -> dict[str, Verdict]:
        """A verdict for each section, by its key."""
        return {one.key: one.verdict() for one in self.sections}

    def to_json(self) -> dict[str, Any]:
        """What ``report.json`` holds of the world."""
        verdicts = self.verdicts()
        return {
            "world": self.study.name,
            "world_env_id": self.study.world.game.env_id,
            "seen": self.seen,
            "windows": self.study.num_windows,
            "episodes": self.study.num_episodes,
            "num_passes": self.num_passes,
            "parameters": self.parameters,
            "device": str(self.study.world.device),
            "threads": torch.get_num_threads(),
            **{one.key: one.to_json() for one in self.sections},
            "grades": {key: verdict.grade.value for key, verdict in verdicts.items()},
            "verdicts": {key: str(verdict) for key, verdict in verdicts.items()},
        }


def measure(study: Study, seen: str = "") -> Measured:
    """Measure every section."""
    return Measured(study, [section.measure(study) for section in SECTIONS], seen)
