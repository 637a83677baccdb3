"""Batches from several recordings: shares, lengths, frame sizes, and what of them is padding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_pictures import write_pictures
from tests.tiny_worlds import make_tiny_episode, make_tiny_game, write_tiny_recording
from worldsim.data.episodes import Episodes
from worldsim.data.mixture import Mixture, apportion, concatenate
from worldsim.data.opening import open_recordings
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.writer import RecordingWriter

WINDOW, HISTORY = 12, 2
LENGTHS = (1, 2, 3, 4, 11, 5, 13, 30, 30, 30)  # steps of the episodes of the second recording


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Episodes]:
    """Long episodes, episodes of many lengths, larger frames of another game, and stills."""
    folder = tmp_path_factory.mktemp("recordings")
    write_tiny_recording(folder / "long", steps=20)
    game = make_tiny_game()
    with RecordingWriter(folder / "mixed", game) as writer:
        for seed, steps in enumerate(LENGTHS):
            writer.write_episode(make_tiny_episode(game, steps, seed))
    large = make_tiny_game(
        env_id="tests/Large-v0", frame_size=(20, 32), action_meanings=("NOOP", "FIRE", "LEFT")
    )
    write_tiny_recording(folder / "large", steps=20, game=large)
    write_pictures(folder / "stills", 12)
    return open_recordings([folder / name for name in ("long", "mixed", "large", "stills")])


def mix(recordings: list[Episodes], shares: tuple[float, ...] | None = None) -> Mixture:
    splits = [Split.of(recording, 0.1) for recording in recordings]
    return Mixture(recordings, splits, window=WINDOW, num_history=HISTORY, shares=shares)


def rngs(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 2**32))
def test_rows_have_as_many_frames_and_their_shapes_follow_from_one_generator(
    recordings: list[Episodes], num_rows: int, composition: int, seed: int, other_seed: int
) -> None:
    mixture = mix(recordings, (0.4, 0.3, 0.2, 0.1))
    groups, others = (
        mixture.sample(*rngs(one, composition), num_rows) for one in (seed, other_seed)
    )
    targets = [group.windows.valid[:, HISTORY:].size for group in groups]
    assert sum(targets) == num_rows * WINDOW
    kinds = set()
    for group, other in zip(groups, others, strict=True):
        for name, array in group.windows.arrays.items():
            assert array.shape == other.windows.arrays[name].shape
        assert sorted(group.sources) == sorted(other.sources)
        length, size = group.windows.frames.shape[1] - HISTORY, group.windows.frames.shape[2:4]
        kinds.add((size, length))
        for source in set(group.sources.tolist()):
            assert (group.sources == source).sum() % (WINDOW // length) == 0, "whole rows"
            assert recordings[source].game.frame_size == size
    assert len(kinds) == len(groups)
    assert kinds <= {((16, 16), n) for n in (1, 2, 3, 4, 6, 12)} | {((20, 32), 12)}


def test_groups_come_in_a_fixed_order(recordings: list[Episodes]) -> None:
    kinds = [
        (group.windows.frames.shape[2], group.windows.frames.shape[1] - HISTORY)
        for group in mix(recordings).sample(*rngs(0, 0), 4000)
    ]
    assert kinds == [(16, 12), (16, 6), (16, 4), (16, 3), (16, 2), (20, 12), (16, 1)]


@pytest.mark.parametrize("lengths", [(20, 20, 20), (20, 3, 1, 9, 2, 40, 8), (2, 1, 3, 5)])
def test_a_recording_alone_is_drawn_as_without_a_mixture(
    tmp_path: Path, lengths: tuple[int, ...]
) -> None:
    game = make_tiny_game()
    with RecordingWriter(tmp_path, game) as writer:
        for seed, steps in enumerate(lengths):
            writer.write_episode(make_tiny_episode(game, steps, seed))
    recording = Recording(tmp_path)
    split = Split.of(recording, 0.1)
    mixture = Mixture([recording], [split], window=WINDOW, num_history=HISTORY)
    for step in range(5):
        rng, same = rngs(step, step)
        (group,) = mixture.sample(rng, np.random.default_rng(7), 3)
        expected = recording.sample_windows(
            same,
            3,
            WINDOW + HISTORY,
            split.trained_on,
            left_padding=HISTORY,
            right_padding=WINDOW - 1,
        )
        for name, array in group.windows.arrays.items():
            np.testing.assert_array_equal(array, expected.arrays[name])
        assert group.sources.tolist() == [0, 0, 0]
        assert rng.bit_generator.state == same.bit_generator.state


def test_shares_hold_in_the_mean_and_nearly_in_each_batch(recordings: list[Episodes]) -> None:
    shares = (0.45, 0.25, 0.2, 0.1)
    mixture, (rng, composition) = mix(recordings, shares), rngs(1, 2)
    rows = np.zeros((400, 4))
    for batch in range(len(rows)):
        for group in mixture.sample(rng, composition, 7):
            length = group.windows.frames.shape[1] - HISTORY
            rows[batch] += np.bincount(group.sources, minlength=4) * length / WINDOW
    exact = 7 * np.array(shares)
    assert (np.abs(rows - exact) < 1).all()
    np.testing.assert_allclose(rows.mean(0), exact, atol=0.12)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 100), st.integers(0))
def test_apportioned_parts_are_rounded_and_add_up(
    weights: list[int], count: int, seed: int
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    parts = apportion(count, shares, np.random.default_rng(seed))
    assert sum(parts) == count
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - share * count) < 1 + 1e-9


def test_lengths_are_drawn_by_their_frames_and_held_out_episodes_never(
    recordings: list[Episodes],
) -> None:
    mixture = mix(recordings[1:2] + recordings[:1], (0.999, 0.001))
    held_out = Split.of(recordings[1], 0.1).held_out
    frames: dict[int, int] = {}
    for number, steps in enumerate(LENGTHS):
        if number not in held_out:
            length = next(n for n in (1, 2, 3, 4, 6, 12) if n >= min(steps + 1, 12))
            frames[length] = frames.get(length, 0) + steps + 1
    groups = mixture.sample(*rngs(0, 0), 2000)
    for group in groups:
        length = group.windows.frames.shape[1] - HISTORY
        rows = (group.sources == 0).sum() * length / WINDOW
        assert abs(rows - 1998 * frames[length] / sum(frames.values())) < 3


def test_an_episode_that_fits_is_drawn_whole_and_a_longer_one_anywhere(
    recordings: list[Episodes],
) -> None:
    mixed = recordings[1]
    mixture = mix(recordings)
    groups = mixture.sample(*rngs(0, 0), 400)
    for group in groups:
        valid = group.windows.valid[group.sources == 1]
        length = valid.shape[1] - HISTORY
        if len(valid) and length < WINDOW:
            assert not valid[:, :HISTORY].any()
            fitting = {s + 1 for s in LENGTHS if s + 1 <= length}
            assert set(valid.sum(1).tolist()) <= fitting
    long = mixture.sample(*rngs(0, 0), 400)[0].windows
    assert set(long.valid[:, HISTORY:].sum(1).tolist()) >= set(range(1, WINDOW + 1))
    assert mixed.episode_lengths.tolist() == list(LENGTHS)


def test_actions_are_those_of_the_joint_game(recordings: list[Episodes]) -> None:
    assert recordings[0].game.action_meanings == ("NOOP", "LEFT", "RIGHT", "FIRE")
    seen: dict[int, set[int]] = {0: set(), 1: set(), 2: set(), 3: set()}
    for group in mix(recordings).sample(*rngs(3, 4), 80):
        for source in set(group.sources.tolist()):
            seen[source] |= set(group.windows.actions[group.sources == source].ravel().tolist())
    assert seen == {0: {0, 1, 2}, 1: {0, 1, 2}, 2: {0, 1, 3}, 3: {4}}


def test_clips_of_one_group_come_in_random_order(recordings: list[Episodes]) -> None:
    group = mix(recordings[:2]).sample(*rngs(0, 0), 40)[0]
    assert set(group.sources.tolist()) == {0, 1}
    assert group.sources[: len(group.sources) // 2].tolist() != [0] * (len(group.sources) // 2)
    # Source and clip stay together: the ground of each clip is that of its recording.
    recolored = [Recording(recordings[0].path), Brighter(recordings[1].path)]
    group = mix(recolored).sample(*rngs(0, 0), 40)[0]
    brightness = group.windows.frames[:, -1].min((1, 2, 3))
    np.testing.assert_array_equal(brightness, np.where(group.sources == 1, 120, 20))


class Brighter(Recording):
    """A reader of a recording that makes its ground brighter."""

    def _read(self, index: int, first: int, last: int, out: np.ndarray) -> None:
        super()._read(index, first, last, out)
        np.clip(out, 120, 255, out=out)


def test_waste_is_what_holds_no_recorded_pixel(recordings: list[Episodes]) -> None:
    mixture = mix(recordings)
    (clips,) = mix(recordings[:1]).sample(*rngs(0, 0), 1)
    # Of 12 targets 9 are recorded; patches of 8 cover 16x16 exactly, patches of 5 have 20x20.
    clips.windows.valid[:] = False
    clips.windows.valid[0, :11] = True  # 2 of history
    assert mixture.waste([clips], (8, 8)) == pytest.approx(3 / 12)
    assert mixture.waste([clips], (5, 5)) == pytest.approx(1 - 9 * 256 / (12 * 400))
    large = next(
        group
        for group in mixture.sample(*rngs(0, 0), 40)
        if group.windows.frames.shape[2:4] == (20, 32)
    )
    large = dataclasses.replace(large, windows=large.windows[:1])
    large.windows.valid[:] = True  # 20x32 in patches of 8: 24x32
    assert mixture.waste([large], (8, 8)) == pytest.approx(1 / 6)
    assert mixture.waste([clips, large], (8, 8)) == pytest.approx(
        1 - (9 * 256 + 12 * 640) / (12 * 256 + 12 * 768)
    )


def test_mixed_lengths_waste_little(recordings: list[Episodes]) -> None:
    mixture = mix(recordings)
    groups = [
        group
        for group in mixture.sample(*rngs(0, 0), 400)
        if group.windows.frames.shape[1] - HISTORY < WINDOW
    ]
    assert mixture.waste(groups, (8, 8)) < 0.1


def test_captions_stay_with_their_clips(recordings: list[Episodes]) -> None:
    parts = [recordings[0].windows([0, 1], [0, 0], 4), recordings[1].windows([0], [0], 4)]
    assert concatenate(parts).captions == ()
    parts[1].captions = ("a square",)
    assert concatenate(parts).captions == (None, None, "a square")


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ((1.0,), "one share for each of the 4 recordings, got 1$"),
        ((0.5, 0.5, 0.5, 0.5), "add up to 1, got 0.5 0.5 0.5 0.5, which add up to 2$"),
        ((0.5, 0.5, 0.5, -0.5), "must be above 0"),
        ((0.5, 0.25, 0.25, 0.0), "must be above 0"),
    ],
)
def test_shares_are_checked(
    recordings: list[Episodes], shares: tuple[float, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        mix(recordings, shares)
