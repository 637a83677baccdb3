"""The controller: keys and commands in, a view out, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.game.describe import describe_game
from worldsim.play import controller, pace, session, sources
from worldsim.play.controller import Controller

PONG = "worldsim/Pong-v0"
NOOP, UP, DOWN = 0, 1, 2


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game that takes 150 ms a step."""

    def __init__(self, env: gymnasium.Env[Any, Any], clock: Clock) -> None:
        super().__init__(env)
        self.clock = clock

    def step(self, action: int) -> Any:
        self.clock.now += 0.15
        return self.env.step(action)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(clock: Clock) -> Iterator[Callable[..., Controller]]:
    opened: list[session.Session] = []

    def make(name: str = PONG, **options: Any) -> Controller:
        opened.append(session.Session(sources.find_sources(name), seed=0))
        return Controller(opened[-1], clock=clock, **options)

    yield make
    for one in opened:
        one.close()


def play_on(played: Controller, clock: Clock, num_steps: int = 1) -> None:
    """Let time pass until so many more steps are played."""
    until = played.session.total_steps + num_steps
    while played.session.total_steps < until:
        clock.now += played.seconds_until_due()
        assert played.advance()


def test_keys_play_and_a_tap_between_two_frames_counts(control: Any, clock: Clock) -> None:
    played = control()
    play_on(played, clock)
    before = played.session.info["player_y"]
    played.press("up")
    assert played.view().held == {"up"}
    play_on(played, clock, 3)
    assert played.session.last_action == UP
    assert played.session.info["player_y"] == before - 6
    played.release("up")
    play_on(played, clock)
    assert played.session.last_action == NOOP
    played.press("down")  # down and up again before the next frame
    played.release("down")
    play_on(played, clock)
    assert played.session.last_action == DOWN
    play_on(played, clock)
    assert played.session.last_action == NOOP
    played.press("up")
    played.release_all()
    play_on(played, clock, 2)
    assert played.session.last_action == NOOP


def test_pause_single_step_and_restart(control: Any, clock: Clock) -> None:
    played = control()
    play_on(played, clock, 5)
    for command in ("pause", "step", "step"):
        played.command(command)
    play_on(played, clock, 2)
    assert played.view().heading == "paused"
    assert played.view().num_steps == 7
    clock.now += 100
    assert not played.advance()
    played.command("restart")
    assert (played.view().num_steps, played.view().episode) == (0, 2)
    played.command("pause")
    play_on(played, clock)
    assert not played.is_paused
    played.command("quit")
    assert not played.is_running
    with pytest.raises(ValueError, match=r"a command is one of pause, step, .*, got 'jump'"):
        played.command("jump")


def test_speed_and_passes_and_the_other_side(control: Any, clock: Clock, tmp_path: Path) -> None:
    make_tiny_world(replace(describe_game(PONG), frame_size=(SIDE, SIDE))).save(
        tmp_path / "imagined"
    )
    played = control(str(tmp_path / "imagined"))
    passes = played.view().num_passes
    for command in ("more_passes", "more_passes", "fewer_passes", "more_passes"):
        played.command(command)
    assert played.view().num_passes == passes + 2
    for _ in range(9):
        played.command("fewer_passes")
    play_on(played, clock)
    assert played.view().num_passes == 1
    played.command("slower")
    assert played.view().speed == pace.SPEEDS[2]
    assert played.view().notes == ["speed 0.5x: 7.5 frames per second"]
    played.command("switch")
    assert played.view().notes == ["opening the other source ..."]  # to be seen while it opens
    assert played.view().kind == "world"
    assert played.advance()
    assert (played.view().kind, played.view().name) == ("real game", PONG)
    play_on(played, clock)
    assert "player_y" in played.session.info
    played.command("more_passes")
    assert played.view().notes == ["a real game has no denoising passes"]
    played.command("switch")
    play_on(played, clock)
    assert played.view().kind == "world"


def test_a_machine_that_cannot_keep_up_is_reported(control: Any, clock: Clock) -> None:
    played = control()
    played.session._envs[0] = Slow(played.session.env, clock)
    play_on(played, clock, 10)
    view = played.view()
    assert view.is_slow
    assert view.reached_fps == pytest.approx(1 / 0.15)
    assert view.notes == ["slower than the game: 6.7 of 15 frames per second"]


def test_play_keeps_the_recorded_pace(control: Any, clock: Clock) -> None:
    played = control(speed=4.0)
    play_on(played, clock)
    started = clock.now
    play_on(played, clock, 60)
    assert clock.now - started == pytest.approx(1.0)  # 4 x 15 frames per second


def test_an_episodes_end_is_shown_until_a_key_or_for_a_while(control: Any, clock: Clock) -> None:
    played = control(speed=100.0)
    for shown_until in ("a key", "later"):
        while not played.session.is_over:
            play_on(played, clock)
        assert played.view().heading.startswith("episode over\nscore ")
        played.press("up")  # still held from the game
        assert not played.advance()
        assert played.session.is_over
        if shown_until == "a key":
            clock.now += controller.GUARD_SECONDS
            played.press("up")
        else:
            clock.now += controller.OVER_SECONDS
            assert played.advance()
        assert (played.session.is_over, played.session.num_steps) == (False, 0)


def test_a_command_takes_over_from_a_player_and_hands_back(control: Any, clock: Clock) -> None:
    seen: list[int] = []

    def always_down(observation: np.ndarray, info: dict[str, Any], rng: Any) -> int:
        seen.append(1)
        return DOWN

    played = control(make_policy=lambda: always_down)
    played._policy_name = "robot"
    play_on(played, clock, 2)
    assert played.session.last_action == DOWN
    played.command("take_over")
    played.press("up")
    play_on(played, clock, 2)
    assert played.session.last_action == UP
    assert played.view().notes[0] == "you play"
    assert played.session.player == "robot and person"
    played.command("take_over")
    play_on(played, clock)
    assert played.session.last_action == DOWN
    assert len(seen) == 5  # it looks on, to go on from there
    played.command("restart")
    assert played.session.player == "robot"
    alone = control()
    alone.command("take_over")
    assert alone.view().notes[0].startswith("the keys play already")
