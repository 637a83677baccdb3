"""A picture of one's own as the start of a world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_worlds import make_tiny_game, make_tiny_world, save_tiny_world
from worldsim.__main__ import main
from worldsim.media import write_mp4
from worldsim.start import start_from


def test_a_recorded_frame_stays_as_it_is() -> None:
    world = make_tiny_world()
    start = start_from(world.starts.frames[0], world)
    np.testing.assert_array_equal(start.frames, world.starts.frames[0][-world.window :])
    assert start.distance == 0
    assert "is like the world's recordings" in start.note


@pytest.mark.parametrize(("channels", "red"), [(3, 255), (1, round(255 * (0.299 + 0.114)))])
def test_a_photo_is_scaled_and_cropped_and_noted_as_unusual(channels: int, red: int) -> None:
    world = make_tiny_world(make_tiny_game(channels=channels))
    height, width = world.game.frame_size
    photo = np.zeros((3 * height, 9 * width, 3), np.uint8)
    photo[:, 3 * width : 6 * width] = (255, 0, 255)  # its middle third, as high as it is wide
    start = start_from(photo[None], world)
    assert start.frames.shape == (1, height, width, channels)
    assert np.unique(start.frames[..., 0]).tolist() == [red]
    assert start.distance > 2 * start.usual_distance
    assert "unlike the world's recordings" in start.note


def test_a_session_begins_from_the_image_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldsim.play.sources import find_sources

    world = save_tiny_world(tmp_path / "world")
    Image.new("RGB", (40, 30), (250, 10, 10)).save(tmp_path / "red.png")
    (imagined, game) = find_sources(str(world), start=tmp_path / "red.png")
    assert game.options is None
    env = imagined.open()
    assert imagined.options is not None
    for _ in range(2):
        observation, info = env.reset(options=imagined.options)
        assert info["start"] == -1
        np.testing.assert_array_equal(observation, imagined.options["start"][-1])
    command = ["play", str(world), "--headless", "--steps", "3", "--start"]
    assert main([*command, str(tmp_path / "red.png")]) == 0
    assert "unlike the world's recordings" in capsys.readouterr().out


def test_a_video_is_gone_on_from_at_its_end(tmp_path: Path) -> None:
    from worldsim.play.sources import find_sources

    world = save_tiny_world(tmp_path / "world")
    levels = np.linspace(0, 240, 12).astype(np.uint8)
    write_mp4(tmp_path / "clip.mp4", [np.full((32, 32, 3), level) for level in levels], 10)
    start = find_sources(str(world), start=tmp_path / "clip.mp4")[0].options
    assert start is not None
    frames = start["start"]
    assert 1 < len(frames) <= 12
    np.testing.assert_allclose(frames.mean((1, 2, 3)), levels[-len(frames) :], atol=3)


def test_what_no_world_can_begin_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = save_tiny_world(tmp_path / "world")
    (tmp_path / "words.txt").write_text("no image")
    command = ["--headless", "--steps", "1", "--start"]
    for target, start, words in (
        (str(world), "nothing.png", "there is no file nothing.png"),
        (str(world), str(tmp_path / "words.txt"), "neither a readable image nor"),
        ("worldsim/Pong-v0", str(tmp_path / "words.txt"), "is a real game"),
    ):
        assert main(["play", target, *command, start]) == 2
        assert words in capsys.readouterr().err
