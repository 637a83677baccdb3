"""Mixture: batches from several recordings, whose clips differ in length and frame size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.data.split import Split
from worldsim.data.windows import Windows

ROUNDING = 1e-6  # of shares that add up to 1


@dataclass(frozen=True)
class Group:
    """The clips of a batch that have one length and one frame size.

    Attributes:
        windows: The clips, each with ``num_history`` frames before it.
        sources: The recording of each clip among those of the mixture, ``int64`` (b,).
    """

    windows: Windows
    sources: np.ndarray


@dataclass(frozen=True, eq=False)  # hashed by identity: there may be many episodes
class Bucket:
    """Episodes of a recording that clips of one length are cut from.

    Attributes:
        recording: Its number among those of the mixture.
        length: Target frames of a clip.
        right_padding: Frames by which a clip may reach beyond its episode, besides the frames that
            an episode is too short by.
        episodes: Numbers of the episodes, ``int64``.
        num_frames: Frames of all of them.
    """

    recording: int
    length: int
    right_padding: int
    episodes: np.ndarray
    num_frames: int


class Mixture:
    """Draws batches from recordings, in given shares, with little padding.

    A batch has rows, each of ``window`` target frames from one recording: one clip of a long
    episode, or several of short ones. The length of a clip is the smallest divisor of ``window``
    that holds its episode, and ``window`` at most; that of a picture is 1. An episode that fits is
    drawn whole, a longer one at a random place. With spacetime patches, lengths are whole patches.

    A recording alone is drawn as without a mixture: in clips of ``window`` frames at random places.

    Args:
        recordings: They share actions and channels, as from `open_recordings`.
        splits: The split of each; held-out episodes are never drawn.
        window: Target frames of a row.
        num_history: Frames before the first target of each clip.
        patch_frames: Frames of a patch, a divisor of ``window``.
        shares: The share of each recording in the rows; equal shares if not given.

    Raises:
        ValueError: As `check_shares`.
    """

    def __init__(
        self,
        recordings: Sequence[Episodes],
        splits: Sequence[Split],
        *,
        window: int,
        num_history: int,
        patch_frames: int = 1,
        shares: Sequence[float] | None = None,
    ) -> None:
        assert len({recording.game.action_meanings for recording in recordings}) == 1
        check_shares(shares, len(recordings))
        self.recordings = tuple(recordings)
        self.shares = tuple(shares or [1 / len(recordings)] * len(recordings))
        self.window = window
        self.num_history = num_history
        is_alone = len(recordings) == 1
        self._buckets = [
            _fill_buckets(number, recording, split.trained_on, (window, patch_frames), is_alone)
            for number, (recording, split) in enumerate(zip(recordings, splits, strict=True))
        ]
        # The groups that a batch may have, in their order.
        groups: dict[tuple[tuple[int, int], int], list[Bucket]] = {}
        for recording, buckets in zip(recordings, self._buckets, strict=True):
            for bucket in buckets:
                groups.setdefault((recording.game.frame_size, bucket.length), []).append(bucket)
        self._groups = list(groups.values())

    def sample(
        self, rng: np.random.Generator, composition_rng: np.random.Generator, num_rows: int
    ) -> list[Group]:
        """Draw a batch.

        Args:
            rng: Draws the clips.
            composition_rng: Draws how many rows each recording and each length gets, and so the
                shapes of all groups. Processes that share a step give it the same state.
            num_rows: Rows of the batch, 1 or more.

        Returns:
            The groups, in a fixed order.

        Raises:
            ValueError: If a file is damaged, or the clips do not fit into memory.
        """
        rows: dict[Bucket, int] = {}
        per_recording = apportion(num_rows, self.shares, composition_rng)
        for buckets, count in zip(self._buckets, per_recording, strict=True):
            num_frames = [bucket.num_frames for bucket in buckets]
            shares = [each / sum(num_frames) for each in num_frames]
            rows |= zip(buckets, apportion(count, shares, composition_rng), strict=True)
        drawn = ([bucket for bucket in group if rows[bucket]] for group in self._groups)
        return [self._draw(rng, group, rows) for group in drawn if group]

    def waste(self, groups: Sequence[Group], patch_sides: tuple[int, int]) -> float:
        """Return the share of the targets' tokens that holds no recorded pixel.

        That is padding before and after episodes, and what patches have beyond a frame's edge.

        Args:
            groups: From `sample`.
            patch_sides: Height and width of a patch in pixels.
        """
        recorded = total = 0
        for group in groups:
            valid, size = (
                group.windows.valid[:, self.num_history :],
                group.windows.frames.shape[2:4],
            )
            recorded += int(valid.sum()) * math.prod(size)
            total += valid.size * math.prod(
                -(-length // side) * side for length, side in zip(size, patch_sides, strict=True)
            )
        return 1 - recorded / total

    def _draw(
        self, rng: np.random.Generator, buckets: Sequence[Bucket], rows: dict[Bucket, int]
    ) -> Group:
        parts = [
            self.recordings[bucket.recording].sample_windows(
                rng,
                rows[bucket] * (self.window // bucket.length),
                bucket.length + self.num_history,
                bucket.episodes,
                left_padding=self.num_history,
                right_padding=bucket.right_padding,
            )
            for bucket in buckets
        ]
        counts = [len(part.frames) for part in parts]
        sources = np.repeat([bucket.recording for bucket in buckets], counts)
        if len(parts) == 1:
            return Group(parts[0], sources)
        # In random order, since the objective may treat the first clips in another way.
        order = rng.permutation(len(sources))
        return Group(concatenate(parts)[order], sources[order])


def check_shares(shares: Sequence[float] | None, num_recordings: int) -> None:
    """Check the shares of recordings.

    Raises:
        ValueError: If there is not one for each recording, above 0, or they do not add up to 1.
    """
    if shares is None:
        return
    found = " ".join(f"{share:g}" for share in shares)
    if len(shares) != num_recordings:
        raise ValueError(
            f"a mix needs one share for each of the {num_recordings} recordings, got {found}"
        )
    if min(shares) <= 0 or abs(sum(shares) - 1) > ROUNDING:
        raise ValueError(
            f"the shares of a mix must be above 0 and add up to 1, got {found}, which add up to "
            f"{sum(shares):g}"
        )


def apportion(count: int, shares: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Divide a number by shares; each part is rounded up or down by lot, so that its mean is exact.

    Args:
        count: The number.
        shares: They add up to 1.
        rng: Draws one number.

    Example:
        >>> apportion(10, [0.5, 0.3, 0.2], np.random.default_rng(0))
        [5, 3, 2]
    """
    ends = np.cumsum(shares) * count
    ends[-1] = count
    # A grid of step 1 at a random place: a part gets the points of the grid inside it.
    ends = np.floor(np.minimum(ends, count) + rng.random())
    parts: list[int] = np.diff(ends, prepend=0).astype(int).tolist()
    return parts


def concatenate(parts: Sequence[Windows]) -> Windows:
    """Join windows of one length and frame size into one batch."""
    names = parts[0].arrays
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
    captions: list[str | None] = []
    for part in parts:
        captions += part.captions or [None] * len(part.frames)
    return Windows(**arrays, captions=tuple(captions) if any(captions) else ())


def _fill_buckets(
    number: int,
    recording: Episodes,
    episodes: Sequence[int],
    window_and_patch: tuple[int, int],
    is_alone: bool,
) -> list[Bucket]:
    """Sort episodes by the length of their clips, longest clips first."""
    window, patch = window_and_patch
    divisors = [length for length in range(patch, window + 1, patch) if window % length == 0]
    found: dict[tuple[int, int], list[int]] = {}
    for episode in episodes:
        num_frames = int(recording.episode_lengths[episode]) + 1
        length = next(each for each in divisors if each >= min(num_frames, window))
        fits = num_frames <= length
        if is_alone and num_frames > 1:  # a run of one recording is what it always was
            length, fits = window, False
        # Of a longer episode each frame may be the first target, so that ends are as frequent as
        # other frames.
        found.setdefault((length, 0 if fits else length - 1), []).append(episode)
    return [
        Bucket(
            number,
            *key,
            np.array(found[key], np.int64),
            int(recording.episode_lengths[found[key]].sum()) + len(found[key]),
        )
        for key in sorted(found, reverse=True)
    ]
