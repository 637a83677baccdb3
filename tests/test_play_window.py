"""The window: without a display, and a real one with real keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.data.recording import Recording
from worldsim.game.describe import describe_game
from worldsim.play import controller, overlay, screen, session, sources, window

pygame = screen.pygame
PONG = "worldsim/Pong-v0"
NOOP, UP, DOWN = 0, 1, 2


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random world that takes itself for Pong."""
    game = replace(describe_game(PONG), frame_size=(SIDE, SIDE))
    folder = tmp_path_factory.mktemp("worlds") / "imagined"
    make_tiny_world(game).save(folder)
    return folder


@pytest.fixture
def open_screen(tmp_path: Path) -> Iterator[Callable[..., screen.Screen]]:
    opened: list[screen.Screen] = []

    def open_one(name: str) -> screen.Screen:
        played = session.Session(sources.find_sources(name), seed=0)
        control = controller.Controller(played, speed=50.0, wait_at_end=False)
        opened.append(screen.Screen(control, tmp_path))
        return opened[-1]

    yield open_one
    for one in opened:
        one.controller.session.close()
        one.close()


def press(*names: str, release: bool = True) -> None:
    for name in names:
        key = pygame.key.key_code(name)
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
        if release:
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))


def play_on(shown: screen.Screen, num_steps: int = 1) -> None:
    shown.run(shown.controller.session.total_steps + num_steps)


def handle_events(shown: screen.Screen) -> None:
    """Let the window see its events and draw, without a step."""
    shown.run(shown.controller.session.total_steps)


def test_keys_reach_the_game_and_the_controls(open_screen: Any) -> None:
    shown = open_screen(PONG)
    played = shown.controller.session
    press("up", release=False)
    play_on(shown, 2)
    assert played.last_action == UP
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_UP))
    press("down")  # down and up again before the next frame
    play_on(shown)
    assert played.last_action == DOWN
    press("up", release=False)
    play_on(shown)
    pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    play_on(shown)
    assert played.last_action == NOOP
    press("p", "n", "n")
    play_on(shown, 2)
    assert shown.controller.is_paused
    press("r")
    handle_events(shown)
    assert played.num_steps == 0


def test_the_note_is_shown_while_the_other_source_opens(
    open_screen: Any, world_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = open_screen(str(world_folder))
    drawn: list[controller.View] = []
    draw = shown.overlay.draw

    def watch(surface: Any, view: controller.View, has_panel: bool) -> None:
        drawn.append(view)
        draw(surface, view, has_panel)

    monkeypatch.setattr(shown.overlay, "draw", watch)
    press("g")
    play_on(shown)
    opening = [view.kind for view in drawn if "opening the other source ..." in view.notes]
    assert opening == ["world"]
    assert drawn[-1].kind == "real game"


def test_the_panel_shows_what_it_should_and_hides(open_screen: Any) -> None:
    shown = open_screen(PONG)
    play_on(shown)
    pixels = pygame.surfarray.array3d(pygame.display.get_surface())
    assert (pixels[-40, :] == overlay.PANEL).all(axis=-1).mean() > 0.5
    assert (pixels[:640] == (64, 208, 112)).all(axis=-1).any()  # the player's paddle
    press("tab")
    handle_events(shown)
    pixels = pygame.surfarray.array3d(pygame.display.get_surface())
    assert (pixels == overlay.PANEL).all(axis=-1).mean() < 0.001


def test_the_game_is_drawn_with_square_unblended_pixels(open_screen: Any) -> None:
    shown = open_screen(PONG)
    play_on(shown)
    pixels = pygame.surfarray.array3d(pygame.display.get_surface())[:640, :640].swapaxes(0, 1)
    expected = np.kron(shown.controller.session.observation, np.ones((10, 10, 1), np.uint8))
    np.testing.assert_array_equal(pixels, expected)


def test_screenshots_get_names_of_their_own(open_screen: Any, tmp_path: Path) -> None:
    shown = open_screen(PONG)
    press("c", "c")
    handle_events(shown)
    paths = sorted(tmp_path.glob("worldsim-Pong-v0-*.png"))
    assert len(paths) == 2
    with Image.open(paths[0]) as image:
        assert image.size == pygame.display.get_surface().get_size()
    shown.controller.session.sources[0] = replace(
        shown.controller.session.source, name="my games:a/b-v0"
    )
    press("c")
    handle_events(shown)
    assert len([*tmp_path.glob("my-games-a-b-v0-*.png")]) == 1


def test_the_window_closes_by_key_and_by_its_button(open_screen: Any) -> None:
    for event in (
        pygame.event.Event(pygame.QUIT),
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE),
    ):
        shown = open_screen(PONG)
        pygame.event.post(event)
        shown.run()
        assert not shown.controller.is_running


def test_a_policy_plays_headless_and_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [PONG, "--headless", "--steps", "60", "--speed", "50", "--policy", "scripted"]
    assert window.main([*arguments, "--record", str(tmp_path / "kept"), "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("played 60 steps")
    assert f"next: worldsim train {tmp_path / 'kept'}" in said
    recording = Recording(tmp_path / "kept")
    assert recording.total_steps == 60
    assert recording.episode(0).policy == "scripted"
    assert len(set(recording.episode(0).actions.tolist())) > 1


def test_options_that_cannot_be_are_refused(world_folder: Path) -> None:
    with pytest.raises(ValueError, match="--steps must be a whole number from 1 to"):
        window.main([PONG, "--steps", "0"])
    with pytest.raises(ValueError, match=r"--headless .* --steps"):
        window.main([PONG, "--headless"])
    with pytest.raises(ValueError, match="policy"):
        window.main([PONG, "--headless", "--steps", "1", "--policy", "nobody"])


@pytest.fixture
def display(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An X server of the test's own; gives the environment for its clients."""
    missing = [tool for tool in ("Xvfb", "xdotool") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"a real window needs {' and '.join(missing)}: apt install xvfb xdotool")
    read_end, write_end = os.pipe()
    # Without -noreset the server starts anew whenever its last client leaves: any xdotool.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1100x800x24", "-noreset"],
        pass_fds=[write_end],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        number = pipe.readline().strip()
    environment = {**os.environ, "DISPLAY": f":{number}", "SDL_VIDEODRIVER": "x11"}
    yield environment
    server.terminate()
    server.wait(timeout=10)


@pytest.mark.slow
def test_a_real_window_obeys_real_keys(tmp_path: Path, display: dict[str, str]) -> None:
    record = tmp_path / "mine"
    command = [sys.executable, "-W", "ignore", "-m", "worldsim", "play", PONG]
    command += ["--record", str(record), "--screenshots", str(tmp_path / "shots")]

    def xdotool(*arguments: str) -> None:
        subprocess.run(["xdotool", *arguments], env=display, check=True, stdout=subprocess.PIPE)

    def window_is_there() -> bool:
        search = ["xdotool", "search", "--onlyvisible", "--class", "worldsim"]
        return subprocess.run(search, env=display, stdout=subprocess.PIPE).returncode == 0

    with subprocess.Popen(command, env=display, stdout=subprocess.PIPE, text=True) as process:
        try:
            give_up = time.monotonic() + 60
            while not window_is_there():
                assert process.poll() is None, "the window was closed before it was there"
                assert time.monotonic() < give_up, "no window after 60 s"
                time.sleep(0.2)
            time.sleep(0.5)
            xdotool("keydown", "Up")
            time.sleep(0.8)
            xdotool("keyup", "Up")
            time.sleep(0.4)
            xdotool("keydown", "Down")
            time.sleep(0.8)
            xdotool("keyup", "Down")
            xdotool("key", "c")
            time.sleep(0.3)
            xdotool("key", "Escape")
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"1 episode kept in {record}" in said
    actions = Recording(record).episode(0).actions
    held = [int(action) for action in actions[np.diff(actions, prepend=-1) != 0]]
    assert [action for action in held if action != NOOP] == [UP, DOWN]
    for action in (UP, DOWN):
        assert (actions == action).sum() > 1  # held, which a tap is not
    (screenshot,) = (tmp_path / "shots").glob("*.png")
    with Image.open(screenshot) as image:
        assert image.width > 640
