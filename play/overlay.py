"""Drawing of the window: the game's frame, a panel next to it, and notes over it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pygame
from einops import repeat
from PIL import ImageFont

from worldsim.game.config import GameConfig

from .controller import View
from .controls import CONTROLS, keys_by_control

Colour = tuple[int, int, int]
BACKGROUND: Colour = (13, 14, 18)
PANEL: Colour = (22, 23, 29)
KEYCAP: Colour = (44, 46, 56)
INK: Colour = (232, 232, 238)
MUTED: Colour = (142, 146, 160)
GREEN: Colour = (86, 204, 138)
AMBER: Colour = (240, 178, 78)
RED: Colour = (236, 92, 92)
KIND_COLOURS = {"world": GREEN, "real game": AMBER}

PANEL_WIDTH = 17  # in letters' heights, as are all distances in the panel
ROW = 1.5
SMALLEST, LARGEST = 9, 20  # height of a letter, in pixels
MAX_BINDINGS = 9


class Overlay:
    """Draws a view and the keys; events are handled elsewhere.

    Args:
        controls: Key -> name of a control, see `assign_controls`.
        config: The game, whose keys the panel lists.
    """

    def __init__(self, controls: Mapping[str, str], config: GameConfig) -> None:
        self.control_keys = keys_by_control(controls)
        self._bindings = [
            (config.action_meanings[action].lower().replace("_", " "), keys)
            for action, keys in bindings_by_action(config.key_bindings)[:MAX_BINDINGS]
        ]
        self._fonts: dict[int, pygame.font.Font] = {}

    def panel_width(self, height: int) -> int:
        """Width of the panel in a window of that height, in pixels."""
        return PANEL_WIDTH * self._unit(height)

    def _unit(self, height: int) -> int:
        """Height of a letter at which all rows of the panel fit into the window."""
        rows = 10 + len(self._bindings) + len(self.control_keys)
        return int(min(max(height / (rows * ROW + 6), SMALLEST), LARGEST))

    def draw(self, screen: pygame.Surface, view: View, has_panel: bool) -> None:
        """Draw the window."""
        screen.fill(BACKGROUND)
        width, height = screen.get_size()
        unit = self._unit(height)
        panel_width = min(PANEL_WIDTH * unit, width // 2) if has_panel else 0
        area = pygame.Rect(0, 0, width - panel_width, height)
        self._draw_frame(screen, area, view.frame)
        if has_panel:
            panel = pygame.Rect(width - panel_width, 0, panel_width, height)
            self._draw_panel(screen, panel, unit, view)
        elif view.is_recording:
            pygame.draw.circle(screen, RED, (unit + 2, unit + 2), unit // 2)
        size = int(min(max(height / 34, 12), 22))
        if view.heading:
            self._draw_note(screen, area, area.centery, view.heading, int(size * 1.5))
        bottom = area.bottom - size
        if view.typed is not None:
            line = f"> {view.typed}_"
            bottom -= self._draw_note(screen, area, bottom, line, size, from_bottom=True) + 6
        for note in reversed(view.notes):
            bottom -= self._draw_note(screen, area, bottom, note, size, from_bottom=True) + 6

    def _draw_frame(
        self, screen: pygame.Surface, area: pygame.Rect, observation: np.ndarray
    ) -> None:
        """Draw a frame (h w c) enlarged by an integer factor, so that pixels stay square."""
        if observation.shape[2] == 1:
            observation = repeat(observation, "h w 1 -> h w c", c=3)
        height, width = observation.shape[:2]
        image = pygame.image.frombuffer(
            np.ascontiguousarray(observation).tobytes(), (width, height), "RGB"
        )
        scale = min(area.width / width, area.height / height)
        scale = float(int(scale)) if scale >= 1 else scale
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        image = pygame.transform.scale(image, size)
        screen.blit(image, image.get_rect(center=area.center))

    def _draw_panel(
        self, screen: pygame.Surface, panel: pygame.Rect, unit: int, view: View
    ) -> None:
        """Draw the panel's parts from top to bottom; each returns the top of the next."""
        pygame.draw.rect(screen, PANEL, panel)
        left, right = panel.left + unit, panel.right - unit
        y = self._draw_title(screen, left, right, panel.top + unit, unit, view)
        y = self._draw_pace(screen, left, right, y, unit, view)
        facts = {
            "score": view.score,
            "step": str(view.num_steps),
            "episode": str(view.episode),
            "speed": f"{view.speed:g}x",
            "passes": "-" if view.num_passes is None else str(view.num_passes),
        }
        row = int(ROW * unit)
        for name, value in facts.items():
            self._put(screen, name, (left, y), unit, MUTED)
            text = self._text(value, unit, INK)
            screen.blit(text, text.get_rect(topright=(right, y)))
            y += row
        y += unit
        for meaning, keys in self._bindings:
            self._draw_keys(screen, keys[:3], _shortened(meaning, 18), INK, (left, y), unit, view)
            y += row
        y += unit
        for control, keys in self.control_keys.items():
            self._draw_keys(screen, keys, CONTROLS[control][0], MUTED, (left, y), unit, view)
            y += row

    def _draw_title(
        self, screen: pygame.Surface, left: int, right: int, y: int, unit: int, view: View
    ) -> int:
        """Draw the name of the world or game, and whether it is recorded."""
        row = int(ROW * unit)
        badge = self._text(view.kind, int(unit * 0.9), BACKGROUND)
        pill = badge.get_rect(topleft=(left, y)).inflate(unit, unit // 3)
        pill.topleft = (left, y)
        colour = KIND_COLOURS.get(view.kind, MUTED)
        pygame.draw.rect(screen, colour, pill, border_radius=pill.height)
        screen.blit(badge, badge.get_rect(center=pill.center))
        if view.is_recording:
            text = self._text("recording", int(unit * 0.9), RED)
            screen.blit(text, text.get_rect(midright=(right, pill.centery)))
            dot = (right - text.get_width() - unit // 2 - 3, pill.centery)
            pygame.draw.circle(screen, RED, dot, max(3, unit // 3))
        y += row + unit // 3
        size = int(unit * 1.5)
        while size > unit and self._text(view.name, size, INK).get_width() > right - left:
            size -= 1
        self._put(screen, _shortened(view.name, 32), (left, y), size, INK)
        return y + int(row * 1.5)

    def _draw_pace(
        self, screen: pygame.Surface, left: int, right: int, y: int, unit: int, view: View
    ) -> int:
        """Draw frames per second, the time per frame, and its share of the available time."""
        row = int(ROW * unit)
        colour = AMBER if view.is_slow else INK
        fps = "-" if view.reached_fps is None else f"{view.reached_fps:.1f}"
        self._put(screen, f"{fps} fps", (left, y), int(unit * 1.5), colour)
        wanted = self._text(f"of {view.wanted_fps:g}", unit, MUTED)
        screen.blit(wanted, wanted.get_rect(topright=(right, y + unit // 2)))
        y += int(row * 1.3)
        ms = "-" if view.milliseconds is None else f"{view.milliseconds:.1f}"
        self._put(screen, f"{ms} ms per frame", (left, y), unit, MUTED)
        y += row
        bar = pygame.Rect(left, y, right - left, max(3, unit // 4))
        pygame.draw.rect(screen, KEYCAP, bar, border_radius=2)
        share = min(1.0, (view.milliseconds or 0.0) * view.wanted_fps / 1000)
        filled = (*bar.topleft, int(bar.width * share), bar.height)
        pygame.draw.rect(screen, colour, filled, border_radius=2)
        return y + unit

    def _draw_keys(
        self,
        screen: pygame.Surface,
        keys: Sequence[str],
        meaning: str,
        ink: Colour,
        corner: tuple[int, int],
        unit: int,
        view: View,
    ) -> None:
        """Draw a row of keys and their meaning."""
        left, y = corner
        x = self._put_keycaps(screen, keys, corner, unit, view.held)
        self._put(screen, meaning, (max(x, left + int(5.8 * unit)), y), unit, ink)

    def _put_keycaps(
        self,
        screen: pygame.Surface,
        keys: Sequence[str],
        corner: tuple[int, int],
        unit: int,
        held: frozenset[str],
    ) -> int:
        """Draw keys side by side, lit while held; returns the x of the next element."""
        x, y = corner
        for key in keys:
            down = set(key.split("+")) <= held
            ink, cap = (BACKGROUND, GREEN) if down else (INK, KEYCAP)
            text = self._text({"escape": "esc", "return": "enter"}.get(key, key), unit - 2, ink)
            arrow = key in ("up", "down", "left", "right")
            box = pygame.Rect(0, 0, max(text.get_width() * (not arrow) + unit, 2 * unit), 0)
            box.height = int(1.3 * unit)
            box.topleft = (x, y)
            pygame.draw.rect(screen, cap, box, border_radius=max(3, unit // 4))
            if arrow:
                pygame.draw.polygon(screen, ink, _arrow(box.center, unit * 0.32, key))
            else:
                screen.blit(text, text.get_rect(center=box.center))
            x = box.right + unit // 3
        return x + unit // 4

    def _draw_note(
        self,
        screen: pygame.Surface,
        area: pygame.Rect,
        y: int,
        note: str,
        size: int,
        from_bottom: bool = False,
    ) -> int:
        """Draw a note in a box centred at y (``from_bottom``: ending at y); returns its height."""
        columns = max(12, int((area.width - 4 * size) / (0.52 * size)))
        lines = [
            line
            for paragraph in note.split("\n")
            for line in textwrap.wrap(paragraph, columns) or [""]
        ]
        texts = [self._text(line, size, INK) for line in lines]
        line_height = int(1.4 * size)
        width = max(text.get_width() for text in texts) + 2 * size
        box = pygame.Rect(0, 0, width, line_height * len(texts) + size)
        box.centerx = area.centerx
        if from_bottom:
            box.bottom = y
        else:
            box.centery = y
        shade = pygame.Surface(box.size, pygame.SRCALPHA)
        pygame.draw.rect(shade, (*BACKGROUND, 225), shade.get_rect(), border_radius=size // 2)
        screen.blit(shade, box)
        for index, text in enumerate(texts):
            line_center = (box.centerx, box.top + size // 2 + int((index + 0.5) * line_height))
            screen.blit(text, text.get_rect(center=line_center))
        return box.height

    def _put(
        self, screen: pygame.Surface, text: str, corner: tuple[int, int], size: int, ink: Colour
    ) -> None:
        screen.blit(self._text(text, size, ink), corner)

    def _text(self, text: str, size: int, ink: Colour) -> pygame.Surface:
        if size not in self._fonts:
            self._fonts[size] = _font(size)
        return self._fonts[size].render(text, True, ink)


def bindings_by_action(key_bindings: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """List the keys of each action, single keys before combinations.

    A combination is listed only if one of its keys has no action by itself: ``up+space`` needs no
    line if ``up`` and ``space`` have theirs.

    Example:
        >>> bindings_by_action({"up": 1, "space": 2, "up+space": 3, "w": 1})
        [(1, ['up', 'w']), (2, ['space'])]
    """
    single = {key for key in key_bindings if "+" not in key}
    keys: dict[int, list[str]] = {}
    for key, action in sorted(key_bindings.items(), key=lambda item: item[0].count("+")):
        if key in single or not set(key.split("+")) <= single:
            keys.setdefault(action, []).append(key)
    return list(keys.items())


def _arrow(center: tuple[int, int], size: float, direction: str) -> list[tuple[float, float]]:
    x, y = center
    along = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[direction]
    dx, dy = along
    return [
        (x + dx * size, y + dy * size),
        (x - dx * size + dy * size * 1.2, y - dy * size + dx * size * 1.2),
        (x - dx * size - dy * size * 1.2, y - dy * size - dx * size * 1.2),
    ]


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "..." + text[3 - length :]


def _font(size: int) -> pygame.font.Font:
    """Pillow's font, so that all machines show the same; pygame's if Pillow has none."""
    font = ImageFont.load_default(size)
    if isinstance(font, ImageFont.FreeTypeFont) and isinstance(font.path, io.BytesIO):
        return pygame.font.Font(io.BytesIO(font.path.getvalue()), size)
    return pygame.font.Font(None, size)
