"""A prompt in play: on the command line, and typed into the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_text import make_text_world, save_tiny_encoder
from tests.tiny_worlds import save_tiny_world
from worldsim.__main__ import main
from worldsim.data.recording import Recording
from worldsim.model.pretrained_text import PretrainedEncoder
from worldsim.play import controller, screen, session, sources

pygame = screen.pygame
RED, BLUE = "a red ball", "two blue balls"


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "balls"
    make_text_world().save(path)
    return path


@pytest.fixture
def played(folder: Path) -> Iterator[session.Session]:
    one = session.Session(sources.find_sources(str(folder)), seed=0, prompt=RED)
    yield one
    one.close()


@pytest.fixture
def control(played: session.Session) -> controller.Controller:
    return controller.Controller(played, speed=50.0)


def of_prompt(played: session.Session, prompt: str | None, seed: int = 5) -> np.ndarray:
    """The first frame of an episode by a prompt, with the session's next seed set."""
    played.rng = np.random.default_rng(seed)
    played.change_prompt(prompt)
    return played.observation


class TestSession:
    def test_begins_episodes_by_its_prompt(self, played: session.Session) -> None:
        red, blue, none = (of_prompt(played, prompt) for prompt in (RED, BLUE, None))
        assert (red != blue).any()
        starts = played.env.unwrapped.world.starts.frames[:, -1]  # type: ignore[attr-defined]
        assert any(np.array_equal(none, start) for start in starts)
        assert np.array_equal(of_prompt(played, RED), red)

    def test_a_word_that_the_world_does_not_know_changes_nothing(
        self, played: session.Session
    ) -> None:
        played.step(0)
        with pytest.raises(ValueError, match="no word 'green'"):
            played.change_prompt("a green ball")
        assert (played.prompt, played.num_steps) == (RED, 1)

    def test_a_world_without_text_refuses_a_prompt(self, tmp_path: Path) -> None:
        name = str(save_tiny_world(tmp_path / "silent"))
        with pytest.raises(ValueError, match="silent takes no prompt"):
            session.Session(sources.find_sources(name), prompt=RED)
        with pytest.raises(ValueError, match="guidance_scale 2 for a world without"):
            sources.find_sources(name, guidance_scale=2.0)

    def test_follows_more_closely_with_guidance(self, folder: Path) -> None:
        frames = []
        for scale in (1.0, 3.0):
            found = sources.find_sources(str(folder), guidance_scale=scale)
            one = session.Session(found, seed=0, prompt=RED)
            frames.append(one.observation)
            one.close()
        assert (frames[0] != frames[1]).any()


class TestTyping:
    def test_play_waits_until_the_line_is_applied(self, control: controller.Controller) -> None:
        control.command("prompt")
        assert control.view().typed == RED
        assert not control.advance()
        for _ in RED:
            control.erase()
        control.type_text("two blue\x1b\n balls")
        assert control.view().typed == BLUE
        assert "enter begins" in control.view().heading
        control.end_typing(apply=True)
        assert control.view().typed is None
        assert control.session.prompt == BLUE
        assert control.advance()

    def test_a_line_that_is_left_changes_nothing(self, control: controller.Controller) -> None:
        before = control.session.observation
        control.command("prompt")
        control.type_text(" two")
        control.end_typing(apply=False)
        assert control.session.prompt == RED
        assert control.session.observation is before

    def test_an_unknown_word_is_named_and_can_be_corrected(
        self, control: controller.Controller
    ) -> None:
        control.command("prompt")
        control.type_text("x")
        control.end_typing(apply=True)
        assert "no word 'ballx'" in control.view().notes[0]
        assert control.view().typed == "a red ballx"
        assert control.session.prompt == RED
        control.erase()
        control.type_text("s")
        control.end_typing(apply=True)
        assert control.session.prompt == "a red balls"

    def test_without_a_word_starts_have_their_own_captions(
        self, control: controller.Controller
    ) -> None:
        control.command("prompt")
        for _ in range(30):
            control.erase()
        control.end_typing(apply=True)
        assert control.session.prompt is None

    def test_a_world_without_text_has_no_line(self, tmp_path: Path) -> None:
        name = str(save_tiny_world(tmp_path / "silent"))
        one = session.Session(sources.find_sources(name), seed=0)
        control = controller.Controller(one)
        control.command("prompt")
        control.type_text("a")
        assert control.typed is None
        assert "only worlds trained on captions" in control.view().notes[0]
        shown = screen.Screen(control, tmp_path)
        assert "prompt" not in shown.controls.values()
        shown.close()
        one.close()


def type_keys(text: str) -> None:
    keys = {"\r": pygame.K_RETURN, "\x1b": pygame.K_ESCAPE, "\b": pygame.K_BACKSPACE}
    for letter in text:
        key = keys.get(letter) or pygame.key.key_code("space" if letter == " " else letter)
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, unicode=letter))
        pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))


def test_keys_write_the_prompt_and_do_nothing_else(
    control: controller.Controller, tmp_path: Path
) -> None:
    """The letters are also keys of the window: p pauses, r restarts, t opens the line."""
    shown = screen.Screen(control, tmp_path)
    assert shown.controls["t"] == shown.controls["insert"] == "prompt"
    number = control.view().episode
    type_keys("t" + "\b" * len(RED) + "two red and blue balls")
    shown.run(control.session.total_steps)  # events only
    assert control.view().typed == "two red and blue balls"
    assert control.view().episode == number
    assert not control.is_paused
    type_keys("\r")
    shown.run(control.session.total_steps + 2)
    assert control.session.prompt == "two red and blue balls"
    assert (control.session.num_steps, control.typed) == (2, None)
    type_keys("t\x1b")
    shown.run(control.session.total_steps)
    assert control.typed is None
    assert control.is_running
    shown.close()


def test_the_command_plays_and_records_by_a_prompt(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["play", str(folder), "--headless", "--steps", "3", "--speed", "100"]
    record = ["--record", str(tmp_path / "imagined")]
    assert main([*command, *record, "--prompt", BLUE, "--guidance-scale", "2"]) == 0
    assert Recording(tmp_path / "imagined").caption(0) == BLUE
    assert main([*command, "--prompt", "a green ball"]) == 2
    assert "no word 'green'" in capsys.readouterr().err


def test_the_command_takes_the_text_encoder_of_a_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = save_tiny_encoder(tmp_path / "encoder")
    world = make_text_world(PretrainedEncoder.of(encoder, ["a ball that rolls"]))
    world.starts.captions = ()
    world.save(tmp_path / "world")
    command = ["play", str(tmp_path / "world"), "--headless", "--steps", "2", "--speed", "100"]
    command += ["--prompt", "a ball"]
    assert main(command) == 2
    assert "--text-encoder" in capsys.readouterr().err
    assert main([*command, "--text-encoder", encoder]) == 0
