"""The data of a run: its recordings, which episodes are held out, and the batches of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.data.mixture import Group, Mixture
from worldsim.data.opening import open_recordings
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.frame_size import fit_frame
from worldsim.game.config import GameConfig
from worldsim.game.joined import JOINT

from .config import TrainConfig, resumed_config
from .processes import Processes
from .run_folder import read_progress, read_split

UNKNOWN = 128  # of each pixel of the median frame of several games; next to 0 in latents
COMPOSITION_KEY = 2  # keeps the draw of how many clips are from where apart from those of the clips


def median_frames(
    recordings: Sequence[Episodes], episodes: Sequence[Sequence[int]]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Find the median frames of recordings.

    Args:
        recordings: Recordings, and folders of pictures, which have no median frame of their own.
        episodes: Numbers of the episodes of each that are looked at.

    Returns:
        One for each, in its frame size, and that of a world of all of them. Folders of pictures get
        the latter. It is the first, or grey for several games.
    """
    frames = [
        recording.median_frame(episodes=numbers) if isinstance(recording, Recording) else None
        for recording, numbers in zip(recordings, episodes, strict=True)
    ]
    background = next(frame for frame in frames if frame is not None)
    if JOINT in recordings[0].game.env_id:
        background = np.full_like(background, UNKNOWN)
    backgrounds = (
        fit_frame(background, recording.game.frame_size, recording.game.channels)
        if frame is None
        else frame
        for recording, frame in zip(recordings, frames, strict=True)
    )
    return tuple(backgrounds), background


class Part(NamedTuple):
    """A recording and its split."""

    recording: Recording
    split: Split


@dataclass(frozen=True)
class Data:
    """What a run learns from.

    Attributes:
        recordings: Recordings and folders of pictures, with the actions of one joint game.
        sources: What the windows of training are read from: the recordings, or their latents.
        split: Of all of them.
        backgrounds: The median frame of each, in its frame size; that of the world for pictures.
        background: The median frame of the world. Several games have none: it is grey.
    """

    recordings: tuple[Episodes, ...]
    sources: tuple[Episodes, ...]
    split: Split
    backgrounds: tuple[np.ndarray, ...]
    background: np.ndarray

    @classmethod
    def of(cls, config: TrainConfig, checkpoint: Path | None, processes: Processes) -> Data:
        """Open the recordings of a run; what must be read from them is read by one process.

        Raises:
            OSError: If a file may not be read.
            ValueError: If the recordings cannot share a world, or the settings contradict the
                checkpoint.
        """
        recordings = open_recordings(config.recordings)
        split = processes.first(partial(pick_split, config, recordings, checkpoint))

        episodes = [part.trained_on for part in split.parts]
        backgrounds, background = processes.first(partial(median_frames, recordings, episodes))
        sources = tuple(recordings)
        return cls(sources, sources, split, backgrounds, background)

    @property
    def parts(self) -> list[Part]:
        """The recordings of games, without pictures."""
        pairs = zip(self.recordings, self.split.parts, strict=True)
        return [Part(one, split) for one, split in pairs if isinstance(one, Recording)]

    @property
    def game(self) -> GameConfig:
        """The joint game, with the frame size of the first recording."""
        return self.parts[0].recording.game

    @property
    def num_new(self) -> int:
        """Episodes recorded since the run began, which it leaves out.

        Raises:
            ValueError: If a recording is not the one that the run began with.
        """
        pairs = zip(self.recordings, self.split.parts, strict=True)
        return sum(split.num_new(recording) for recording, split in pairs)

    def mixture(self, config: TrainConfig, num_history: int, patch_frames: int) -> Mixture:
        """The mixture that batches are drawn from.

        Args:
            config: The settings.
            num_history: Times before the first target, of which the first is one frame.
            patch_frames: Frames of a time.
        """
        return Mixture(
            self.sources,
            self.split.parts,
            window=config.model.window * patch_frames,
            num_history=1 + (num_history - 1) * patch_frames,
            patch_frames=patch_frames,
            shares=config.mix,
        )

    def backgrounds_of(self, group: Group) -> np.ndarray | None:
        """The median frame of each clip's recording (b h w c); None for that of the world."""
        if len(self.recordings) == 1:
            return None
        return np.stack([self.backgrounds[source] for source in group.sources])


def draw_groups(mixture: Mixture, seed: int, step: int, part: int, num_rows: int) -> list[Group]:
    """The clips of a part of a step, whose shapes are the same in all parts."""
    return mixture.sample(
        np.random.default_rng((seed, step, 0, part)),
        np.random.default_rng((seed, step, COMPOSITION_KEY)),
        num_rows,
    )


def pick_split(
    config: TrainConfig, recordings: Sequence[Episodes], checkpoint: Path | None
) -> Split:
    """Choose the held-out episodes, which stay the same in a resumed run.

    Raises:
        ValueError: If a resumed run requests another fraction, or another number of recordings,
            than it began with.
    """
    held_out = config.run.held_out

    def fresh() -> Split:
        return Split.joined([Split.of(recording, held_out) for recording in recordings])

    if checkpoint is None:
        return fresh()
    begun = resumed_config(config, read_progress(checkpoint)[1]).run.held_out
    split = read_split(checkpoint)
    if split is None:
        return fresh()
    if held_out != begun:
        raise ValueError(
            f"this run began with --run.held-out {begun}, and {held_out} would measure it on "
            "trained episodes: leave the option out, or start a new run"
        )
    if len(split.parts) != len(recordings):
        raise ValueError(
            f"this run began with {len(split.parts)} recordings, and now has {len(recordings)}: "
            "resume with those, or start a new run in another --out"
        )
    return split
