"""The window: keys in, pictures out, at the game's pace."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pygame

from worldsim.key_bindings import action_from_keys
from worldsim.policy import Policy

from .controls import assign_controls
from .overlay import Overlay, Status
from .pace import Pace
from .session import Session, format_score

GAME_SIZE = 640  # pixels of the longer side of the game, when the window opens
NOTE_SECONDS = 4.0
OVER_SECONDS = 4.0  # until a finished episode is followed by the next
GUARD_SECONDS = 0.5  # keys still going down as an episode ends do not yet begin the next
IDLE_SECONDS = 0.05  # the longest wait for events
SHORTEST = 560  # pixels: the panel stays readable


class Screen:
    """A window on a session. :meth:`run` plays until it is closed.

    Args:
        session: What is played.
        speed: Factor on the game's pace.
        make_policy: Makes a player for each episode; by default the keys play.
        screenshots: Folder for screenshots.
        wait_at_end: Whether a finished episode stays on screen for a moment.

    Raises:
        ValueError: If no window can be opened.
    """

    def __init__(
        self,
        session: Session,
        *,
        speed: float = 1.0,
        make_policy: Callable[[], Policy] | None = None,
        screenshots: Path = Path(),
        wait_at_end: bool = True,
    ) -> None:
        self.session = session
        self.pace = Pace(session.config.fps, speed)
        self.screenshots = screenshots
        self.over_seconds = OVER_SECONDS if wait_at_end else 0.0
        self.controls = assign_controls(session.config.key_bindings)
        self.is_paused = False
        self.is_running = True
        self._make_policy = make_policy
        self._policy: Policy | None = None
        self._player = session.player
        self._by_hand = False
        self._single_steps = 0
        self._panel = True
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self._note = ""
        self._note_until = 0.0
        self._over_since = 0.0
        self._is_stale = True
        self._drawn_at = 0.0
        self._actions: dict[str, Callable[[], None]] = {
            "overlay": self._toggle_panel,
            "pause": self._toggle_pause,
            "step": self._single_step,
            "restart": self._restart,
            "slower": lambda: self._change_speed(-1),
            "faster": lambda: self._change_speed(1),
            "fewer_passes": lambda: self._change_passes(-1),
            "more_passes": lambda: self._change_passes(1),
            "switch": self._switch,
            "take_over": self._take_over,
            "screenshot": self._take_screenshot,
            "quit": self._quit,
        }
        self.overlay = Overlay(self.controls)
        self._open()
        self._begin_episode()

    def _open(self) -> None:
        height, width = self.session.config.frame_size
        scale = max(1, GAME_SIZE // max(height, width))
        try:
            pygame.display.init()
            pygame.font.init()
            window_height = max(height * scale, SHORTEST)
            panel_width = self.overlay.panel_width(window_height, self.session)
            size = (width * scale + panel_width, window_height)
            self.surface = pygame.display.set_mode(size, pygame.RESIZABLE)
        except pygame.error as error:
            raise ValueError(
                f"no window can be opened ({error}): play where there is a display, or give "
                "--headless"
            ) from error
        pygame.display.set_caption(f"worldsim - {self.session.source.name}")

    def run(self, max_steps: int | None = None) -> None:
        """Play until the window is closed, or for ``max_steps`` steps in all."""
        while self.is_running:
            for event in pygame.event.get():
                self._handle(event)
            if max_steps is not None and self.session.total_steps >= max_steps:
                break
            if self.session.is_over:
                if time.perf_counter() - self._over_since >= self.over_seconds:
                    self._restart()
            elif self._may_step():
                self._step()
            self._draw_if_needed()
            self._wait()
        self._draw()

    def close(self) -> None:
        """Close the window."""
        pygame.display.quit()

    def notes(self) -> list[str]:
        """What is said at the lower edge now."""
        notes = []
        if time.perf_counter() < self._note_until:
            notes.append(self._note)
        if scores := self.session.range_left:
            notes.append(f"beyond every recorded score ({scores}): the game may have ended before")
        if self.pace.is_slow:
            notes.append(
                f"slower than the game: {self.pace.reached_fps:.1f} "
                f"of {self.pace.wanted_fps:g} frames per second"
            )
        return notes

    def heading(self) -> str:
        """What is said in the middle now."""
        if self.session.is_over:
            score = format_score(self.session.score)
            return f"episode over\nscore {score}\npress a key to play on"
        return "paused" if self.is_paused else ""

    def _may_step(self) -> bool:
        if self.is_paused:
            return self._single_steps > 0
        return self.pace.seconds_until_due() == 0.0

    def _step(self) -> None:
        session = self.session
        started = time.perf_counter()
        action = action_from_keys(self._held | self._tapped, session.config)
        if self._policy is not None:  # it looks on while a person plays, to go on from there
            wanted = int(self._policy(session.observation, session.info, session.rng))
            action = action if self._by_hand else wanted
        session.step(action)
        self.pace.mark(time.perf_counter() - started)
        self._tapped.clear()
        self._single_steps = max(0, self._single_steps - 1)
        self._is_stale = True
        if session.is_over:
            self._over_since = time.perf_counter()

    def _wait(self) -> None:
        """Sleep until the next frame is due or something happens."""
        seconds = IDLE_SECONDS
        if not self.is_paused and not self.session.is_over:
            seconds = min(seconds, self.pace.seconds_until_due())
        if seconds >= 0.002:
            event = pygame.event.wait(int(1000 * seconds))
            if event.type != pygame.NOEVENT:
                self._handle(event)
        elif seconds > 0:
            time.sleep(seconds)

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self._quit()
        elif event.type == pygame.KEYDOWN:
            self._press(pygame.key.name(event.key))
        elif event.type == pygame.KEYUP:
            self._held.discard(pygame.key.name(event.key))
            self._is_stale = True
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._held.clear()
        elif event.type in (pygame.VIDEORESIZE, pygame.VIDEOEXPOSE):
            self.surface = pygame.display.get_surface() or self.surface
            self._is_stale = True

    def _press(self, key: str) -> None:
        self._is_stale = True
        if key in self.controls:
            self._actions[self.controls[key]]()
            return
        self._held.add(key)
        self._tapped.add(key)  # a tap shorter than a frame counts too
        over_for = time.perf_counter() - self._over_since
        if self.session.is_over and over_for >= min(GUARD_SECONDS, self.over_seconds):
            self._restart()

    def _draw_if_needed(self) -> None:
        now = time.perf_counter()
        if self._is_stale or now - self._drawn_at > 0.25:
            self._draw()

    def _draw(self) -> None:
        self._is_stale = False
        self._drawn_at = time.perf_counter()
        if not (self.surface.get_width() and self.surface.get_height()):
            return
        held = frozenset(self._held | self._tapped)
        status = Status(self._panel, held, self.heading(), self.notes())
        self.overlay.draw(self.surface, self.session, self.pace, status)
        pygame.display.flip()

    def _say(self, note: str) -> None:
        self._note, self._note_until = note, time.perf_counter() + NOTE_SECONDS
        self._is_stale = True

    def _begin_episode(self) -> None:
        self._policy = self._make_policy() if self._make_policy else None
        self.session.player = "person" if self._by_hand else self._player
        self._tapped.clear()
        self.pace.restart()
        self._is_stale = True

    def _toggle_panel(self) -> None:
        self._panel = not self._panel
        if not self._panel and (keys := self.overlay.control_keys.get("overlay")):
            self._say(f"{keys[0]} shows the panel again")

    def _toggle_pause(self) -> None:
        self.is_paused = not self.is_paused
        self._single_steps = 0
        self.pace.restart()

    def _single_step(self) -> None:
        if not self.is_paused:
            self._toggle_pause()
        if self.session.is_over:
            self._restart()
        else:
            self._single_steps += 1

    def _restart(self) -> None:
        self.session.restart()
        self._begin_episode()

    def _change_speed(self, steps: int) -> None:
        self.pace.change_speed(steps)
        self._say(f"speed {self.pace.speed:g}x: {self.pace.wanted_fps:g} frames per second")

    def _change_passes(self, difference: int) -> None:
        try:
            self.session.change_passes(difference)
        except ValueError as error:
            self._say(str(error))
        else:
            passes = self.session.num_passes
            self._say(f"{passes} denoising pass{'es' if passes != 1 else ''} a frame")
            self.pace.restart()

    def _switch(self) -> None:
        self._say("opening the other side ...")
        self._draw()
        try:
            self.session.switch()
        except ValueError as error:
            self._say(str(error))
            return
        note = f"now playing the {self.session.source.kind}"
        if self.session.writer is not None and not self.session.is_recording:
            note += f"; only the {self.session.sources[0].kind} is recorded"
        self._say(note)
        self._begin_episode()

    def _take_over(self) -> None:
        if self._policy is None:
            self._say("the keys play already: --agent or --policy lets somebody else play")
            return
        self._by_hand = not self._by_hand
        if self.session.num_steps:
            self.session.player = f"{self._player} and person"
        self._say("you play" if self._by_hand else f"{self._player} plays")

    def _take_screenshot(self) -> None:
        self._draw()
        name = re.sub(r"[^\w.-]+", "-", self.session.source.name)  # Windows takes no colon either
        stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        number, path = 1, self.screenshots / f"{stamp}.png"
        while path.exists():
            number, path = number + 1, self.screenshots / f"{stamp}-{number}.png"
        try:
            self.screenshots.mkdir(parents=True, exist_ok=True)
            pygame.image.save(self.surface, str(path))
        except (OSError, pygame.error) as error:
            self._say(f"no screenshot: {error}")
        else:
            self._say(f"screenshot: {path}")

    def _quit(self) -> None:
        self.is_running = False
