from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from worldsim.frame_size import fit_frame
from worldsim.media import filmstrip, write_gif, write_mp4


def make_frames(num_frames: int = 12, height: int = 20, width: int = 30) -> np.ndarray:
    """A dark court with a one-pixel red ball that moves a pixel a frame."""
    frames = np.full((num_frames, height, width, 3), (14, 16, 34), dtype=np.uint8)
    frames[:, :3] = (84, 92, 140)
    for index in range(num_frames):
        frames[index, 10, index % width] = (250, 20, 20)
    return frames


def read_mp4(path: Path) -> tuple[np.ndarray, float, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate), stream.pix_fmt


@pytest.mark.parametrize(
    ("scale", "pixel_format"), [(1, "yuv444p"), (3, "yuv444p"), (8, "yuv420p")]
)
def test_mp4_shows_each_frame_and_its_smallest_object(
    tmp_path: Path, scale: int, pixel_format: str
) -> None:
    frames = make_frames()
    path = write_mp4(tmp_path / "new" / "play.mp4", iter(frames), 15, scale)
    shown, fps, shown_format = read_mp4(path)
    assert shown.shape == (12, 20 * scale, 30 * scale, 3)
    assert (fps, shown_format) == (15, pixel_format)
    error = shown[:, scale // 2 :: scale, scale // 2 :: scale].astype(float) - frames
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 45
    ball = shown[5, 10 * scale + scale // 2, 5 * scale + scale // 2].astype(int)
    assert np.abs(ball - (250, 20, 20)).max() < 25


def test_mp4_takes_grey_frames_of_odd_size_and_a_fractional_rate(tmp_path: Path) -> None:
    frames = make_frames(height=21, width=31)[..., :1]
    shown, fps, _ = read_mp4(write_mp4(tmp_path / "grey.mp4", frames, 29.97))
    assert shown.shape[1:] == (22, 32, 3)
    assert fps == pytest.approx(29.97, abs=1e-3)
    assert np.abs(shown[:, :21, :31].astype(int) - frames).max() < 16


def test_gif_lasts_as_long_as_the_play_and_keeps_the_ball_red(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = make_frames(30).astype(int) + rng.integers(-3, 4, (30, 20, 30, 3))
    frames = frames.clip(0, 255).astype(np.uint8)
    path = write_gif(tmp_path / "play.gif", frames, fps=15, scale=4)
    with Image.open(path) as gif:
        assert gif.size == (120, 80)
        assert gif.n_frames == 30
        milliseconds = 0
        for index in range(30):
            gif.seek(index)
            milliseconds += gif.info["duration"]
            red, green, _ = gif.convert("RGB").getpixel((4 * index + 1, 41))
            assert red > 200
            assert green < 60
        assert milliseconds == 2000


def test_gif_leaves_frames_out_above_what_viewers_show(tmp_path: Path) -> None:
    with Image.open(write_gif(tmp_path / "fast.gif", make_frames(60), fps=60)) as gif:
        assert gif.n_frames == 30
        assert gif.info["duration"] in (30, 40)


def test_filmstrip_puts_rows_under_one_another_unchanged(tmp_path: Path) -> None:
    real, world = make_frames(6), make_frames(6)[:4]
    path = filmstrip([real, world], tmp_path / "strip.png", 2, ["real", "world"], list("012345"))
    with Image.open(path) as image:
        strip = np.asarray(image)
    enlarged = np.kron(real[5], np.ones((2, 2, 1), np.uint8))
    height, width = strip.shape[0], strip.shape[1]
    right_end = strip[height - 2 * 44 : height - 44 - 4, width - 64 : width - 4]
    np.testing.assert_array_equal(right_end, enlarged)
    assert (strip[-44:, -64:] == strip[-1, -1]).all()  # the world's row is shorter
    plain = filmstrip([real], tmp_path / "plain.png", 2)
    with Image.open(plain) as image:
        assert image.width < width  # no room is left for labels that are not there


@pytest.mark.parametrize(
    ("frames", "fps", "scale", "message"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), 10, 1, "frames is empty"),
        (np.zeros((2, 4, 4, 3), np.float32), 10, 1, "uint8 .* float32"),
        (np.zeros((2, 4, 4, 4), np.uint8), 10, 1, "1 or 3 channels"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], 10, 1, "one size"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0, 1, "fps must be above 0, got 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), 10, 0, "scale must be .* at least 1, got 0"),
    ],
)
def test_what_is_no_video_is_refused(
    tmp_path: Path, frames: np.ndarray, fps: float, scale: int, message: str
) -> None:
    for write in (write_mp4, write_gif):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "no.file", frames, fps, scale)
    assert list(tmp_path.iterdir()) == []


def test_labels_must_fit_the_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels must have 1 entries, got 2"):
        filmstrip([make_frames()], tmp_path / "strip.png", labels=["a", "b"])


def test_a_broken_source_leaves_the_older_file_and_no_litter(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "play.mp4", make_frames(), 15)
    before = path.read_bytes()

    def breaking() -> Iterator[np.ndarray]:
        yield from make_frames(3)
        raise OSError("the world fell apart")

    with pytest.raises(OSError, match="fell apart"):
        write_mp4(path, breaking(), 15)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_frame_that_was_enlarged_is_fitted_back_to_what_it_was() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    large = frame.repeat(5, axis=0).repeat(5, axis=1)
    np.testing.assert_array_equal(fit_frame(large, (12, 16)), frame)
    np.testing.assert_array_equal(fit_frame(large, (12, 8)), frame[:, 4:12])
    assert fit_frame(frame, (50, 40)).shape == (50, 40, 3)
