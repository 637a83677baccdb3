"""Recordings: what is written is what is read, by us and by Minari, step for step."""

from __future__ import annotations

import dataclasses
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from worldsim.data.episode import STEP_TYPES, Episode, EpisodeBuilder
from worldsim.data.recording import Recording
from worldsim.data.windows import Windows
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig

GAME = GameConfig(
    "worldsim/Pong-v0",
    frame_size=(32, 40),
    action_meanings=("UP", "NOOP", "DOWN"),
    key_bindings={"up": 0, "down": 2},
    noop_action=1,
)


def make_episode(steps: int, seed: int = 0, noise: bool = False) -> Episode:
    """Make an episode in which frame t shows the number t, or noise that gzip cannot shrink."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((steps + 1, 32, 40, 3), np.uint8)
    if noise:
        frames = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(steps + 1) % 256
    frames[:, 0, 0, 1] = seed
    last = np.arange(steps) == steps - 1
    return Episode(
        frames=frames,
        actions=rng.integers(0, 3, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminations=last & (seed % 2 == 0),
        truncations=last & (seed % 2 == 1),
        seed=seed,
        policy=f"player {seed}",
    )


LENGTHS = (1, 15, 16, 40, 100, 7)


@pytest.fixture
def episodes() -> list[Episode]:
    return [make_episode(steps, seed, noise=seed == 3) for seed, steps in enumerate(LENGTHS)]


@pytest.fixture
def path(tmp_path: Path, episodes: list[Episode]) -> Path:
    with RecordingWriter(tmp_path / "game-v0", GAME) as writer:
        for episode in episodes:
            writer.write_episode(episode)
    return tmp_path / "game-v0"


def assert_same(episode: Episode, other: Episode) -> None:
    for name in ("frames", "actions", "rewards", "terminations", "truncations"):
        ours, theirs = getattr(episode, name), getattr(other, name)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert (episode.seed, episode.policy) == (other.seed, other.policy)


def test_episodes_come_back_bit_for_bit(path: Path, episodes: list[Episode]) -> None:
    recording = Recording(path)
    assert recording.game == GAME
    assert recording.episode_lengths.tolist() == list(LENGTHS)
    assert recording.total_steps == sum(LENGTHS)
    for index, episode in enumerate(episodes):
        assert_same(recording.episode(index), episode)


def test_minari_reads_the_same_bits(
    path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path.parent))
    dataset = minari.load_dataset("game-v0")
    assert dataset.spec.dataset_id == "game-v0"
    assert (dataset.total_episodes, dataset.total_steps) == (len(LENGTHS), sum(LENGTHS))
    assert dataset.observation_space.shape == (32, 40, 3)
    assert dataset.action_space.n == 3
    for episode, theirs in zip(episodes, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(theirs.observations, episode.frames)
        np.testing.assert_array_equal(theirs.actions, episode.actions)
        np.testing.assert_array_equal(theirs.rewards, episode.rewards)
        np.testing.assert_array_equal(theirs.terminations, episode.terminations)
        np.testing.assert_array_equal(theirs.truncations, episode.truncations)
    metadata = list(dataset.storage.get_episode_metadata(range(len(LENGTHS))))
    assert [row["seed"] for row in metadata] == list(range(len(LENGTHS)))


def naive_window(episode: Episode, start: int, length: int) -> Windows:
    """Cut one window as the contract says it, step by step."""
    steps = len(episode.actions)
    places = range(start, start + length)
    moves = [t if 0 <= t < steps else None for t in places[:-1]]
    return Windows(
        frames=np.stack([episode.frames[min(max(t, 0), steps)] for t in places])[None],
        actions=np.array([[1 if t is None else episode.actions[t] for t in moves]]),
        rewards=np.array([[0 if t is None else episode.rewards[t] for t in moves]]),
        terminations=np.array([[t is not None and episode.terminations[t] for t in moves]]),
        truncations=np.array([[t is not None and episode.truncations[t] for t in moves]]),
        valid=np.array([[0 <= t <= steps for t in places]]),
    )


@pytest.mark.parametrize("length", [1, 2, 16, 33])
def test_windows_at_every_place_with_padding(
    path: Path, episodes: list[Episode], length: int
) -> None:
    recording = Recording(path)
    for index, episode in enumerate(episodes):
        for start in range(-length + 1, len(episode.actions) + 1):
            window = recording.windows([index], [start], length)
            expected = naive_window(episode, start, length)
            for name, array in vars(expected).items():
                np.testing.assert_array_equal(getattr(window, name), array, err_msg=name)


def test_a_slice_of_windows_is_what_is_read_as_shorter_windows(path: Path) -> None:
    recording = Recording(path)
    places = [0, 1, 1], [-2, 0, 3], 8
    windows = recording.windows(*places)[1:, 2:6]
    expected = recording.windows([1, 1], [2, 5], 4)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(windows.arrays[name], array, err_msg=name)


def test_a_field_of_windows_is_a_frame_a_step_of_an_episode_or_whether_it_is_valid() -> None:
    names = [field.name for field in dataclasses.fields(Windows)]
    recorded = list(Windows.layout(1, 2, (4, 4, 3)))
    assert recorded == ["frames", *STEP_TYPES, "valid"]
    assert names == [*recorded, "captions", "latents", "moving"]


def test_an_episode_built_step_by_step_keeps_what_happened_and_where_it_was_cut_off() -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    builder = EpisodeBuilder(frame, seed=5, policy="random")
    for action in (2, 0, 1):
        frame += 1  # in place, as some games draw
        builder.add(action, frame, reward=action / 2)
    builder.cut_off()
    episode = builder.build()
    assert len(builder) == 3
    assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert episode.actions.tolist() == [2, 0, 1]
    assert episode.rewards.tolist() == [1.0, 0.0, 0.5]
    assert episode.truncations.tolist() == [False, False, True]
    assert not episode.terminations.any()
    assert {name: values.dtype for name, values in episode.steps.items()} == STEP_TYPES
    assert (episode.seed, episode.policy) == (5, "random")


def test_types_and_shapes_are_those_of_the_contract(path: Path) -> None:
    windows = Recording(path).sample_windows(np.random.default_rng(0), 5, 16, left_padding=3)
    described = {name: (array.dtype, array.shape) for name, array in windows.arrays.items()}
    assert described == {
        "frames": (np.uint8, (5, 16, 32, 40, 3)),
        "actions": (np.int64, (5, 15)),
        "rewards": (np.float32, (5, 15)),
        "terminations": (np.bool_, (5, 15)),
        "truncations": (np.bool_, (5, 15)),
        "valid": (np.bool_, (5, 16)),
    }


def test_sampling_reaches_every_place_equally_often(path: Path) -> None:
    recording = Recording(path)
    # Episodes 1 and 3 of 15 and 40 steps: 16 - 8 + 1 and 41 - 8 + 1 places, and 2 of padding each.
    windows = recording.sample_windows(
        np.random.default_rng(0), 9000, 8, episodes=[1, 3], left_padding=2
    )
    starts = windows.frames[:, -1, 0, 0, 0].astype(int) - 7
    seeds = windows.frames[:, 0, 0, 0, 1]
    places, counts = np.unique(np.stack([seeds, starts]), axis=1, return_counts=True)
    expected = {(1, start) for start in range(-2, 9)} | {(3, start) for start in range(-2, 34)}
    assert set(map(tuple, places.T.tolist())) == expected
    assert 0.6 < counts.min() / counts.mean() <= counts.max() / counts.mean() < 1.4


def test_with_padding_the_last_frame_is_as_frequent_as_any_other(path: Path) -> None:
    recording, length = Recording(path), 8
    windows = recording.sample_windows(
        np.random.default_rng(0), 9000, length, [3], left_padding=2, right_padding=length - 3
    )
    assert windows.valid.sum(1).min() == 3  # two frames of history and a target
    targets = windows.frames[:, 2:, 0, 0, 0][windows.valid[:, 2:]]
    counts = np.bincount(targets, minlength=41)[length - 2 :]
    assert len(counts) == 41 - (length - 2)
    assert 0.8 < counts.min() / counts.mean() <= counts.max() / counts.mean() < 1.2


def test_an_episode_shorter_than_the_window_is_padded_on_the_right(path: Path) -> None:
    windows = Recording(path).sample_windows(np.random.default_rng(0), 3, 16, episodes=[0])
    np.testing.assert_array_equal(windows.valid, [[True, True] + [False] * 14] * 3)
    assert windows.terminations[:, 0].all()
    assert not windows.terminations[:, 1:].any()


def test_the_median_frame_is_the_median_over_all_frames(path: Path, episodes: list) -> None:
    frames = np.concatenate([episode.frames for episode in episodes])
    median = Recording(path).median_frame(num_frames=10_000)
    np.testing.assert_array_equal(median, np.median(frames, axis=0).astype(np.uint8))


def test_a_recording_travels_between_processes(path: Path, episodes: list[Episode]) -> None:
    assert_same(pickle.loads(pickle.dumps(Recording(path))).episode(4), episodes[4])


def test_writing_continues_where_it_stopped(path: Path) -> None:
    with RecordingWriter(path, GAME) as writer:
        assert writer.write_episode(make_episode(9, seed=9)) == len(LENGTHS)
    assert len(Recording(path)) == len(LENGTHS) + 1


def test_another_game_or_other_settings_are_refused(tmp_path: Path) -> None:
    RecordingWriter(tmp_path, GAME, {"seed": 0}).close()
    with pytest.raises(ValueError, match="recorded with seed 0, not 1"):
        RecordingWriter(tmp_path, GAME, {"seed": 1})
    RecordingWriter(tmp_path, GAME).close()  # a person's session goes into the same recording
    with pytest.raises(ValueError, match="recorded with seed 0, not 1"):
        RecordingWriter(tmp_path, GAME, {"seed": 1})
    other = GameConfig.from_dict({**GAME.to_dict(), "channels": 1})
    with pytest.raises(ValueError, match="recorded with channels 3, not 1"):
        RecordingWriter(tmp_path, other, {"seed": 0})


@pytest.mark.parametrize("where", ["cut short", "bit flipped", "emptied"])
def test_a_damaged_shard_is_named(path: Path, where: str) -> None:
    shard = path / "data" / "shards" / "episode_00000004.hdf5"
    data = bytearray(shard.read_bytes())
    if where == "cut short":
        data = data[: len(data) // 2]
    elif where == "emptied":
        data = bytearray()
    else:
        begun = data.index(b"\x78\x5e") if b"\x78\x5e" in data else data.index(b"\x78\x01")
        data[begun + 20] ^= 0x10
    shard.write_bytes(bytes(data))

    def read() -> None:
        Recording(path).episode(4)

    with pytest.raises(ValueError, match=r"episode_00000004.hdf5 is damaged") as caught:
        read()
    assert "\n" not in str(caught.value)


def test_a_damaged_shard_does_not_hide_behind_an_open_recording(path: Path) -> None:
    recording = Recording(path)
    (path / "data" / "shards" / "episode_00000003.hdf5").write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"episode_00000003.hdf5 is damaged"):
        recording.windows([3], [0], 16)


def test_what_is_no_recording_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a recording"):
        Recording(tmp_path / "nowhere")
    RecordingWriter(tmp_path / "new-v0", GAME).close()
    with pytest.raises(ValueError, match="no finished episode yet"):
        Recording(tmp_path / "new-v0")
    (tmp_path / "new-v0" / "data" / "metadata.json").write_text('{"worldsim": ')
    with pytest.raises(ValueError, match=r"metadata.json is damaged"):
        Recording(tmp_path / "new-v0")


def test_episodes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    episode = make_episode(4)
    with pytest.raises(ValueError, match="4 actions has 5 frames, got 4"):
        Episode(**{**vars(episode), "frames": episode.frames[:-1]})
    with pytest.raises(ValueError, match="as many rewards, got 3"):
        Episode(**{**vars(episode), "rewards": episode.rewards[:-1]})
    writer = RecordingWriter(tmp_path, GAME)
    with pytest.raises(ValueError, match=r"shape \(t\+1, 32, 40, 3\), got uint8 \(5, 31, 40, 3\)"):
        writer.write_episode(Episode(**{**vars(episode), "frames": episode.frames[:, 1:]}))
    with pytest.raises(ValueError, match=r"actions must be 0 … 2, got 3 … 3"):
        writer.write_episode(Episode(**{**vars(episode), "actions": np.full(4, 3)}))


def test_windows_outside_of_their_episode_are_refused(path: Path) -> None:
    recording = Recording(path)
    for start in (-4, 2):
        with pytest.raises(ValueError, match=r"outside of episode 0, which has frames 0 … 1"):
            recording.windows([0], [start], 4)


def test_no_room_left_is_one_sentence_and_leaves_no_half_file(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, GAME)
    writer.write_episode(make_episode(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as a full disk, without one
        with pytest.raises(OSError, match=r"the disk is full: .*episode_00000001.hdf5") as caught:
            writer.write_episode(make_episode(100, noise=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [file.name for file in writer.shard_path(0).parent.iterdir()] == [
        "episode_00000000.hdf5"
    ]
    writer.close()
    assert len(Recording(tmp_path)) == 1
