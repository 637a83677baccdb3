"""Recordings that fsspec reads: the same windows, and no shard downloaded that is not read."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.buckets import Bucket, read_all
from tests.tiny_worlds import make_tiny_episode, make_tiny_game
from worldsim.data.folder import data_folder
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.writer import RecordingWriter

EPISODES = 6
WINDOWS = [4, 1, 4], [-2, 3, 10], 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "cache"))
    Bucket.downloads.clear()
    yield tmp_path / "cache"
    Bucket.seconds, Bucket.broken_at = 0.0, None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, game = tmp_path_factory.mktemp("whole"), make_tiny_game()
    with RecordingWriter(path, game, {"seed": 0}) as writer:
        for seed in range(EPISODES):
            writer.write_episode(make_tiny_episode(game, 20, seed))
    return data_folder(path)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "square-v0" / "data")
    return tmp_path / "square-v0"


@pytest.fixture
def url(path: Path) -> str:
    return f"bucket://{path}"


def shard(number: int) -> str:
    return f"episode_{number:08d}.hdf5"


def copies(cache: Path) -> list[Path]:
    return [file for file in cache.glob("files/*/*")]


def shards_downloaded() -> dict[str, int]:
    return {name: n for name, n in Bucket.downloads.items() if name.startswith("episode_")}


def assert_same(found: Recording, expected: Recording) -> None:
    assert len(found) == len(expected)
    assert Split.of(found, 0.3) == Split.of(expected, 0.3)
    assert found.recorded_rewards() == expected.recorded_rewards()
    for ours, theirs in zip(
        found.windows(*WINDOWS).arrays.values(),
        expected.windows(*WINDOWS).arrays.values(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["bucket", "memory", "zip"])
def test_gives_the_windows_of_the_same_recording_on_this_machine(path: Path, kind: str) -> None:
    url = f"bucket://{path}"
    if kind == "memory":
        url = "memory://some/square-v0"
        fsspec.filesystem("memory").put(str(path), "/some/square-v0", recursive=True)
    elif kind == "zip":
        url = f"zip://square-v0::{shutil.make_archive(str(path), 'zip', path.parent, path.name)}"
    assert_same(Recording(url), Recording(path))


@pytest.mark.parametrize("name", ["square", "my square"])
def test_is_found_in_every_folder_that_a_recording_may_have(tmp_path: Path, name: str) -> None:
    game = make_tiny_game()
    with RecordingWriter(tmp_path / name, game) as writer:
        writer.write_episode(make_tiny_episode(game, 20, 0))
    assert Recording(f"bucket://{tmp_path / name}").total_steps == 20


def test_only_shards_that_are_read_are_downloaded_and_each_once(url: str) -> None:
    recording = Recording(url)
    Split.of(recording, 0.3)
    recording.recorded_rewards()
    assert shards_downloaded() == {}
    recording.windows(*WINDOWS)
    recording.windows(*WINDOWS)
    Recording(url).windows(*WINDOWS)
    assert shards_downloaded() == {shard(1): 1, shard(4): 1}


def test_without_an_index_it_is_read_as_well(path: Path, url: str) -> None:
    (path / "data" / "index.hdf5").unlink()
    assert_same(Recording(url), Recording(path))
    assert set(shards_downloaded().values()) == {1}


def test_that_is_written_anew_is_downloaded_anew(path: Path, url: str) -> None:
    before = Recording(url).episode(0)
    shutil.rmtree(path)
    game = make_tiny_game()
    with RecordingWriter(path, game, {"seed": 1}) as writer:
        writer.write_episode(make_tiny_episode(game, 20, 7))
    after = Recording(url).episode(0)
    assert (before.seed, after.seed) == (0, 7)


@pytest.mark.slow  # two processes import numpy and h5py
def test_processes_share_each_download(url: str, cache: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        jobs = [processes.submit(read_all, url, 0.05) for _ in range(2)]
        (one, first), (two, second) = (job.result() for job in jobs)
    assert one != two
    assert [name for name in sorted(first + second) if name.startswith("episode_")] == [
        shard(number) for number in range(EPISODES)
    ]
    assert len(copies(cache)) == EPISODES + 2  # metadata and index


def test_threads_share_each_download(url: str) -> None:
    recording = pickle.loads(pickle.dumps(Recording(url)))
    Bucket.seconds = 0.05
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: recording.windows(*WINDOWS), range(4)))
    assert shards_downloaded() == {shard(1): 1, shard(4): 1}


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(
    path: Path, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [file.stat().st_size for file in (path / "data" / "shards").iterdir()]
    bound = 3.5 * max(sizes)
    monkeypatch.setenv("WORLDSIM_CACHE_GB", str(bound / 1e9))
    recording, local = Recording(url), Recording(path)
    for index in (0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0):
        np.testing.assert_array_equal(recording.episode(index).frames, local.episode(index).frames)
        assert sum(file.stat().st_size for file in copies(cache)) <= bound
    assert shards_downloaded() == {shard(number): 1 for number in range(EPISODES)}


def test_a_file_that_the_cache_cannot_hold_is_one_sentence(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDSIM_CACHE_GB", "1e-7")
    with pytest.raises(ValueError, match=r"does not fit into the cache .*WORLDSIM_CACHE_GB"):
        Recording(url)
    monkeypatch.setenv("WORLDSIM_CACHE_GB", "much")
    with pytest.raises(ValueError, match="WORLDSIM_CACHE_GB must be a number of gigabytes"):
        Recording(url)


@pytest.mark.parametrize("broken_at", [0, 1000])
def test_a_broken_download_is_one_sentence_and_leaves_no_file(
    url: str, cache: Path, broken_at: int
) -> None:
    recording = Recording(url)
    Bucket.broken_at = broken_at
    with pytest.raises(OSError, match=r"episode_00000002.hdf5 could not be read \(the conn") as e:
        recording.episode(2)
    assert "\n" not in str(e.value)
    assert len(copies(cache)) == 2
    Bucket.broken_at = None
    assert recording.episode(2).seed == 2


def test_a_shard_that_changes_while_it_is_read_is_not_used(
    path: Path, url: str, cache: Path
) -> None:
    recording = Recording(url)
    file = path / "data" / "shards" / shard(2)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"the download has .* bytes instead of"):
        recording.episode(2)
    assert len(copies(cache)) == 2


def test_damage_is_named_by_its_url_with_what_to_do(path: Path, url: str, cache: Path) -> None:
    file = path / "data" / "shards" / shard(2)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"upload it again, or, if .* delete the copy") as caught:
        [Recording(url).episode(index) for index in range(EPISODES)]
    assert str(caught.value).startswith(f"bucket://{path}/data/shards/{shard(2)} is damaged (")
    assert str(cache) in str(caught.value)


def test_a_name_on_the_other_side_leads_to_no_other_folder(
    path: Path, url: str, cache: Path, tmp_path: Path
) -> None:
    (path / "data" / "shards" / "..%2f..%2fepisode_00000009.hdf5").write_bytes(b"")
    (path / "data" / "shards" / "episode_..00009.hdf5").write_bytes(b"")
    before = {file for file in tmp_path.rglob("*") if cache not in (file, *file.parents)}
    assert len(Recording(url)) == EPISODES
    [Recording(url).episode(index) for index in range(EPISODES)]
    after = {file for file in tmp_path.rglob("*") if cache not in (file, *file.parents)}
    assert after == before
    assert {len(file.name) for file in copies(cache)} == {64}


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            "s3://bucket/pong",
            "^s3://bucket/pong needs a package that is not .*: pip install s3fs",
        ),
        ("nowhere://bucket/pong", "is no URL that fsspec reads: Protocol not known: nowhere"),
        ("memory://nothing", "memory://nothing is not a recording: there is no memory://nothing/"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence(where: str, sentence: str) -> None:
    if where.startswith("s3") and find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(ValueError, match=sentence) as caught:
        Recording(where)
    assert "\n" not in str(caught.value)


def test_a_forked_process_reads_on(url: str) -> None:
    recording = Recording(url)
    recording.windows(*WINDOWS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes:
        windows = processes.submit(recording.windows, *WINDOWS).result()
    np.testing.assert_array_equal(windows.frames, recording.windows(*WINDOWS).frames)
