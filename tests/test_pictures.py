"""A folder of pictures is read like a recording of episodes of one frame."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_worlds import make_tiny_game, write_tiny_recording
from worldsim.data import pictures
from worldsim.data.opening import open_recording, open_recordings, read_games
from worldsim.data.pictures import UNKNOWN, Pictures
from worldsim.data.recording import Recording
from worldsim.data.rewards import RecordedRewards
from worldsim.data.split import Split

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (90, 90, 90)]
SUFFIXES = ["png", "JPG", "jpeg", "webp", "bmp", "png"]


def write_pictures(folder: Path, number: int = 6) -> Path:
    """Pictures of one colour each, of many sizes and all formats."""
    folder.mkdir(exist_ok=True)
    for index in range(number):
        size = (20 + 7 * index, 60 - index)
        name = f"{index}.{SUFFIXES[index % 6]}"
        Image.new("RGB", size, COLOURS[index % 6]).save(folder / name, quality=95)
    return folder


def test_pictures_of_any_size_and_format_are_episodes_of_one_frame(tmp_path: Path) -> None:
    (write_pictures(tmp_path) / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "._0.png").write_bytes(b"of another system")
    (tmp_path / "folder").mkdir()
    stills = Pictures(tmp_path, make_tiny_game())
    assert (len(stills), stills.total_steps, stills.episode_lengths.tolist()) == (6, 0, [0] * 6)
    windows = stills.windows(range(6), [0] * 6, 1)
    assert windows.frames.shape == (6, 1, 16, 16, 3)
    assert windows.actions.shape == (6, 0)
    error = np.abs(windows.frames.astype(int) - np.array(COLOURS)[:, None, None, None])
    assert error.max() <= 4, "JPEG and WebP round"
    assert stills.recorded_rewards() == RecordedRewards(0.0, 0.0, 0.0)


def test_a_picture_is_cropped_in_the_middle_and_turned_upright(tmp_path: Path) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = np.repeat(np.repeat(np.arange(16), 2)[:, None], 32, 1)[..., None] * 8
    image = Image.fromarray(wide)
    image.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    image.rotate(90, expand=True).save(tmp_path / "b.png", exif=exif)
    windows = Pictures(tmp_path, make_tiny_game()).windows([0, 1], [0, 0], 1)
    expected = np.repeat(np.arange(16)[:, None], 16, 1) * 8
    for frame in windows.frames[:, 0]:
        np.testing.assert_array_equal(frame[..., 0], expected)


def test_nothing_is_known_of_what_led_to_a_picture(tmp_path: Path) -> None:
    stills = Pictures(write_pictures(tmp_path), make_tiny_game())
    windows = stills.windows([1, 4, 2], [-2, 0, -1], 4)
    assert windows.valid.tolist() == [
        [False, False, True, False],
        [True, False, False, False],
        [False, True, False, False],
    ]
    assert (windows.actions == 3).all()
    for name in ("rewards", "terminations", "truncations"):
        assert not windows.arrays[name].any()
    for window, place in zip(windows.frames, (2, 0, 1), strict=True):
        assert (window[:place] == UNKNOWN).all()
        assert (window[place:] == window[place]).all()
        assert not (window[place] == UNKNOWN).all()


def test_a_drawn_window_always_shows_its_picture_as_the_target(tmp_path: Path) -> None:
    stills = Pictures(write_pictures(tmp_path), make_tiny_game())
    windows = stills.sample_windows(np.random.default_rng(0), 300, 3, [0, 2, 3], left_padding=2)
    assert (windows.valid == [False, False, True]).all()
    shown, counts = np.unique(windows.frames[:, 2, 8, 8], axis=0, return_counts=True)
    assert len(shown) == 3
    assert counts.min() > 70


def test_a_window_outside_of_a_picture_is_refused(tmp_path: Path) -> None:
    stills = Pictures(write_pictures(tmp_path), make_tiny_game())
    for start in (1, -4):
        with pytest.raises(ValueError, match="lies outside of episode 0, which has frames 0 … 0"):
            stills.windows([0], [start], 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_channels_and_the_median_of_the_game(
    tmp_path: Path, channels: int
) -> None:
    game = make_tiny_game(frame_size=(8, 24), channels=channels)
    stills = Pictures(write_pictures(tmp_path), game)
    frames = stills.windows(range(6), [0] * 6, 1).frames[:, 0]
    assert frames.shape == (6, 8, 24, channels)
    median = np.median(frames[[0, 3, 5]], axis=0).astype(np.uint8)
    np.testing.assert_array_equal(stills.median_frame(episodes=[0, 3, 5]), median)


def test_a_tenth_of_the_pictures_is_held_out(tmp_path: Path) -> None:
    stills = Pictures(write_pictures(tmp_path, 40), make_tiny_game())
    split = Split.of(stills, 0.1)
    assert len(split.held_out) == 4
    assert max(np.diff(split.held_out)) == 10
    assert len(set(split.episodes)) == 40
    larger = Pictures(tmp_path, make_tiny_game(frame_size=(32, 32)))
    assert Split.of(larger, 0.1) == split, "a picture is known in any frame size"
    write_pictures(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="two are needed"):
        Split.of(Pictures(tmp_path / "one", make_tiny_game()), 0.1)


def test_memory_is_bounded_and_shared_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame_bytes = 16 * 16 * 3
    monkeypatch.setattr(pictures, "MAX_BYTES", 3 * frame_bytes)
    stills = Pictures(write_pictures(tmp_path), make_tiny_game())
    with ThreadPoolExecutor(4) as threads:
        done = threads.map(lambda i: stills.windows([i % 6], [0], 1).frames[0, 0], range(60))
        frames = [*done]
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, frames[index % 6])
    assert len(stills._decoded) == 3
    again = pickle.loads(pickle.dumps(stills))
    assert not again._decoded
    np.testing.assert_array_equal(again.windows([5], [0], 1).frames[0, 0], frames[5])


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    data = (tmp_path / "0.png").read_bytes()
    game = make_tiny_game()
    for content in (b"", b"no picture", data[: len(data) // 2], data[:40] + b"?" + data[41:]):
        (tmp_path / "0.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"0\.png is damaged .*: delete it or replace it"):
            Pictures(tmp_path, game).windows([0], [0], 1)
    (tmp_path / "0.png").unlink()
    (tmp_path / "0.png").symlink_to(tmp_path / "5.png")
    with pytest.raises(ValueError, match=r"0\.png is a link"):
        Pictures(tmp_path, game)
    with pytest.raises(ValueError, match=r"there is no picture in .*nowhere \(\.png, \.jpg"):
        Pictures(tmp_path / "nowhere", game)


def test_what_is_in_a_folder_decides_how_it_is_opened(tmp_path: Path) -> None:
    write_tiny_recording(tmp_path / "game", steps=3, episodes=2)
    (tmp_path / "game" / "shown.png").write_bytes(b"beside a recording")
    write_pictures(tmp_path / "stills")
    paths = [tmp_path / "stills", tmp_path / "game"]
    game = make_tiny_game()
    assert read_games(paths) == [None, game]
    stills, recording = open_recordings(paths)
    assert isinstance(stills, Pictures)
    assert isinstance(recording, Recording)
    assert stills.game == recording.game == game
    assert isinstance(open_recording(tmp_path / "game"), Recording)
    with pytest.raises(ValueError, match="stills is not a recording"):
        open_recording(tmp_path / "stills")
    with pytest.raises(ValueError, match="nowhere is not a recording"):
        read_games([tmp_path / "game", tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="show no actions: give a recording of a game too"):
        open_recordings([tmp_path / "stills"])


def test_captions_are_read_by_the_names_of_files(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    file, game = tmp_path / "captions.json", make_tiny_game()
    assert Pictures(tmp_path, game).caption(0) is None
    file.write_text('{"1.JPG": "all green"}')
    stills = Pictures(tmp_path, game)
    assert [stills.caption(index) for index in (0, 1)] == [None, "all green"]
    assert stills.windows([1, 0], [0, 0], 1).captions == ("all green", None)
    assert pickle.loads(pickle.dumps(stills)).caption(1) == "all green"
    file.write_text('"a colour"')
    assert Pictures(tmp_path, game).caption(0) == "a colour"
    file.write_text('{"2.png": "blue"}')
    with pytest.raises(ValueError, match=r"captions\.json .*names of the folder's 2 pictures"):
        Pictures(tmp_path, game)
