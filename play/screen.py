"""The window: passes keys to the controller and draws its view."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pygame

from .controller import Controller
from .controls import assign_controls
from .overlay import Overlay

GAME_SIZE = 640  # pixels of the longer side of the game, when the window opens
IDLE_SECONDS = 0.05  # the longest wait for events
REDRAW_SECONDS = 0.25  # notes come and go without events
SHORTEST = 560  # pixels: the panel stays readable


class Screen:
    """A window on a controller. :meth:`run` plays until it is closed.

    Args:
        controller: The controller to show.
        screenshots: Folder for screenshots.

    Raises:
        ValueError: If no window can be opened.
    """

    def __init__(self, controller: Controller, screenshots: Path = Path()) -> None:
        self.controller = controller
        self.screenshots = screenshots
        self.config = controller.session.config
        self.controls = assign_controls(self.config.key_bindings)
        if not controller.session.takes_prompt:
            self.controls = {k: name for k, name in self.controls.items() if name != "prompt"}
        self.overlay = Overlay(self.controls, self.config)
        self._own_commands: dict[str, Callable[[], None]] = {
            "overlay": self._toggle_panel,
            "screenshot": self._take_screenshot,
        }
        self._has_panel = True
        self._is_stale = True
        self._drawn_at = 0.0
        self._open()

    def _open(self) -> None:
        height, width = self.config.frame_size
        scale = max(1, GAME_SIZE // max(height, width))
        try:
            pygame.display.init()
            pygame.font.init()
            window_height = max(height * scale, SHORTEST)
            size = (width * scale + self.overlay.panel_width(window_height), window_height)
            self.surface = pygame.display.set_mode(size, pygame.RESIZABLE)
        except pygame.error as error:
            raise ValueError(
                f"no window can be opened ({error}): play where there is a display, or give "
                "--headless"
            ) from error
        pygame.display.set_caption(f"worldsim - {self.controller.session.source.name}")

    def run(self, max_steps: int | None = None) -> None:
        """Play until the window is closed, or for ``max_steps`` steps in total."""
        controller = self.controller
        while controller.is_running:
            for event in pygame.event.get():
                self._handle(event)
            if max_steps is not None and controller.session.total_steps >= max_steps:
                break
            if controller.is_switching:  # show its note while the other source opens
                self._draw()
            self._is_stale |= controller.advance()
            if self._is_stale or time.perf_counter() - self._drawn_at > REDRAW_SECONDS:
                self._draw()
            self._wait()
        self._draw()

    def close(self) -> None:
        """Close the window."""
        pygame.display.quit()

    def _wait(self) -> None:
        """Sleep until the next frame is due or an event arrives."""
        seconds = min(IDLE_SECONDS, self.controller.seconds_until_due())
        if seconds >= 0.002:
            event = pygame.event.wait(int(1000 * seconds))
            if event.type != pygame.NOEVENT:
                self._handle(event)
        elif seconds > 0:
            time.sleep(seconds)

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self.controller.command("quit")
        elif event.type == pygame.KEYDOWN:
            if self.controller.typed is None:
                self._press(pygame.key.name(event.key))
            else:
                self._type(event)
        elif event.type == pygame.KEYUP:
            self.controller.release(pygame.key.name(event.key))
            self._is_stale = True
        elif event.type == pygame.WINDOWFOCUSLOST:
            self.controller.release_all()
        elif event.type in (pygame.VIDEORESIZE, pygame.VIDEOEXPOSE):
            self.surface = pygame.display.get_surface() or self.surface
            self._is_stale = True

    def _type(self, event: pygame.event.Event) -> None:
        """Edit the prompt that is being typed."""
        self._is_stale = True
        if event.key in (pygame.K_RETURN, pygame.K_KP_ENTER, pygame.K_ESCAPE):
            self._draw()  # a first frame can take a moment
            self.controller.end_typing(apply=event.key != pygame.K_ESCAPE)
        elif event.key == pygame.K_BACKSPACE:
            self.controller.erase()
        else:
            self.controller.type_text(getattr(event, "unicode", ""))

    def _press(self, key: str) -> None:
        self._is_stale = True
        control = self.controls.get(key)
        if control is None:
            self.controller.press(key)
        elif control in self._own_commands:
            self._own_commands[control]()
        else:
            self.controller.command(control)

    def _draw(self) -> None:
        self._is_stale = False
        self._drawn_at = time.perf_counter()
        if not (self.surface.get_width() and self.surface.get_height()):
            return
        self.overlay.draw(self.surface, self.controller.view(), self._has_panel)
        pygame.display.flip()

    def _toggle_panel(self) -> None:
        self._has_panel = not self._has_panel
        if not self._has_panel and (keys := self.overlay.control_keys.get("overlay")):
            self.controller.say(f"{keys[0]} shows the panel again")

    def _take_screenshot(self) -> None:
        self._draw()
        name = re.sub(r"[^\w.-]+", "-", self.controller.session.source.name)  # no colon on Windows
        stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        number, path = 1, self.screenshots / f"{stamp}.png"
        while path.exists():
            number, path = number + 1, self.screenshots / f"{stamp}-{number}.png"
        try:
            self.screenshots.mkdir(parents=True, exist_ok=True)
            pygame.image.save(self.surface, str(path))
        except (OSError, pygame.error) as error:
            self.controller.say(f"no screenshot: {error}")
        else:
            self.controller.say(f"screenshot: {path}")
