"""Maze: a labyrinth in the dark, which needs memory of places out of sight.

A lamp lights the surroundings of the player. Walls, coins, key and door keep their state while they
are dark. The view does not scroll: a place always has the same pixels. Each quarter of the maze has
its own wall colour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from . import looks
from .maze_sprites import (
    CELL,
    COAT,
    COIN,
    DARK,
    DOOR,
    FLOOR,
    KEY,
    OPEN_DOOR,
    PLAYER,
    PLAYER_WITH_KEY,
    WALL_COLOURS,
    draw_maze,
    draw_sprite,
)
from .sight import is_colour

SIZE = 64
NUM_CELLS = SIZE // CELL  # a side
NUM_COINS = 10
NUM_LOOPS = 10  # walls taken away, so that there is more than one way round
LAMP = 20.0  # radius of the light, in pixels
EXIT_REWARD = 5.0

MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # (row, column) of each action
OPPOSITE = (0, 2, 1, 4, 3)  # the action that undoes each

LOOKS = looks.Looks(
    "maze",
    {"wall_colour": None, "night": True},
    {
        "wall_colour": {colour: f"{colour} walls" for colour in looks.COLOURS},
        "night": looks.NIGHT_WORDS,
    },
)
"""Variants of the game, and their words."""

Cell = tuple[int, int]


class Maze(gymnasium.Env[np.ndarray, np.int64]):
    """Collect the coins, find the key, and leave by the door that it opens.

    Actions: 0 NOOP, 1 UP, 2 DOWN, 3 LEFT, 4 RIGHT, each a move of one cell. Walls block the way,
    and so does the door without the key. Reward: +1 for a coin and for the key, +5 for the door,
    which ends the episode. A player who carries the key is drawn with it, and the door turns green.

    ``info``, also at reset, holds the true state. Cells are (row, column) from the upper left.

    - ``player``, ``key``, ``door``: cells, (2,).
    - ``open_ways``: whether the way down, and to the right, of each cell is open, bool (8 8 2).
    - ``coins``: cells, (10 2); ``coins_left``: whether each is still there, bool (10,).
    - ``has_key``: whether the player carries the key, bool.
    - ``score``: the sum of rewards.
    - ``caption``: what the game looks like, in words, if an argument changes it.

    Args:
        render_mode: ``"rgb_array"`` or None.
        wall_colour: Name of the colour of all walls, from `worldsim.envs.looks.COLOURS`. None: each
            quarter has its own.
        night: Whether all is dark beyond the lamp. By day the whole maze is visible.
        vary: Names of the last two arguments that each episode draws from its seed.
        vary_except: Combinations that are not drawn: ``[{"wall_colour": "red", "night": True}]``.
        vary_only: Combinations of which one is drawn, if not empty.

    Raises:
        ValueError: If an argument is none of these, or no combination is left.

    Example:
        >>> env = Maze()
        >>> frame, info = env.reset(seed=0)
        >>> frame.shape, info["open_ways"].shape, int(info["coins_left"].sum())
        ((64, 64, 3), (8, 8, 2), 10)
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "scripted_policy": "worldsim.envs.maze:Player",
    }

    def __init__(
        self,
        render_mode: str | None = None,
        wall_colour: str | None = None,
        night: bool = True,
        vary: Sequence[str] = (),
        vary_except: Sequence[Mapping[str, Any]] = (),
        vary_only: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(5)
        given = {"wall_colour": wall_colour, "night": night}
        self._looks = LOOKS.choose(given, vary, vary_except, vary_only)

    def get_action_meanings(self) -> list[str]:
        """Return the word of each action."""
        return ["NOOP", "UP", "DOWN", "LEFT", "RIGHT"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Grow a new maze and put the player at a random cell of it."""
        super().reset(seed=seed)
        look, self._caption = self._looks.draw(self.np_random)
        self._open_ways, self._player, self._door = grow_maze(self.np_random)
        free = [cell for cell in np.ndindex(NUM_CELLS, NUM_CELLS) if cell != self._door]
        free.remove(self._player)
        chosen = self.np_random.choice(len(free), NUM_COINS + 1, replace=False)
        self._key, *self._coins = [free[i] for i in chosen]
        self._coins_left = [True] * NUM_COINS
        self._has_key, self._score = False, 0.0
        self._night = look["night"]
        walls: Sequence[looks.Colour] = WALL_COLOURS
        if look["wall_colour"] is not None:
            walls = [looks.COLOURS[look["wall_colour"]]] * len(WALL_COLOURS)
        self._floor = draw_maze(self._open_ways, walls, night=self._night)
        return self._draw(), self._get_info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move by one cell if no wall blocks the way, and take the object there."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an integer from 0 to 4, got {action!r}")
        place = ahead_of(self._player, int(action))
        shut = place == self._door and not self._has_key
        reward = 0.0
        if action and is_open(self._open_ways, self._player, int(action)) and not shut:
            self._player = place
            reward = self._take(place)
        self._score += reward
        return self._draw(), reward, self._player == self._door, False, self._get_info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return the frame, ``uint8`` of shape (64 64 3), or None without a render mode."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _take(self, place: Cell) -> float:
        """Take the object at a place and return its reward."""
        if place == self._door:
            return EXIT_REWARD
        if place in self._coins and self._coins_left[self._coins.index(place)]:
            self._coins_left[self._coins.index(place)] = False
            return 1.0
        if place == self._key and not self._has_key:
            self._has_key = True
            return 1.0
        return 0.0

    def _draw(self) -> np.ndarray:
        frame = self._floor.copy()
        draw_sprite(frame, OPEN_DOOR if self._has_key else DOOR, self._door)
        if not self._has_key:
            draw_sprite(frame, KEY, self._key)
        for coin, left in zip(self._coins, self._coins_left, strict=True):
            if left:
                draw_sprite(frame, COIN, coin)
        draw_sprite(frame, PLAYER_WITH_KEY if self._has_key else PLAYER, self._player)
        if self._night:
            frame[~lit_from(self._player)] = DARK
        return frame

    def _get_info(self) -> dict[str, Any]:
        return {
            "player": np.array(self._player),
            "open_ways": self._open_ways.copy(),
            "coins": np.array(self._coins),
            "coins_left": np.array(self._coins_left),
            "key": np.array(self._key),
            "has_key": self._has_key,
            "door": np.array(self._door),
            "score": self._score,
            **self._caption,
        }


def lit_from(cell: Cell) -> np.ndarray:
    """Return the pixels (64 64) bool that the lamp lights when the player stands on a cell."""
    y, x = (CELL * place + (CELL - 1) / 2 for place in cell)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return (rows - y) ** 2 + (columns - x) ** 2 <= LAMP**2


def is_open(open_ways: np.ndarray, cell: Cell, action: int) -> bool:
    """Return whether no wall blocks an action, 1 to 4, from a cell."""
    ahead = ahead_of(cell, action)
    return inside(ahead) and bool(open_ways[way_between(cell, ahead)])


def ahead_of(cell: Cell, action: int) -> Cell:
    """Return the cell to which an action leads if nothing blocks the way."""
    row, column = MOVES[action]
    return cell[0] + row, cell[1] + column


def way_between(one: Cell, other: Cell) -> tuple[int, int, int]:
    """Return the index in ``open_ways`` of the way between two neighbours."""
    return *min(one, other), 0 if one[0] != other[0] else 1


def inside(cell: Cell) -> bool:
    """Return whether a cell lies in the maze."""
    return min(cell) >= 0 and max(cell) < NUM_CELLS


def grow_maze(rng: np.random.Generator) -> tuple[np.ndarray, Cell, Cell]:
    """Grow a maze by a random depth-first walk, then open some loops.

    Args:
        rng: Source of randomness.

    Returns:
        The open ways (down and to the right, bool (8 8 2)), and the cells of the start and of the
        door. The door is the cell farthest from the start, a dead end.
    """
    open_ways = np.zeros((NUM_CELLS, NUM_CELLS, 2), bool)
    first, second = rng.integers(NUM_CELLS, size=2).tolist()
    start = (first, second)
    # A depth-first walk opens a way to every cell, and gives its distance from the start.
    stack, distance = [start], {start: 0}
    while stack:
        here = stack[-1]
        ahead = [ahead_of(here, action) for action in range(1, len(MOVES))]
        ahead = [cell for cell in ahead if inside(cell) and cell not in distance]
        if not ahead:
            stack.pop()
            continue
        cell = ahead[int(rng.integers(len(ahead)))]
        open_ways[way_between(here, cell)] = True
        distance[cell] = distance[here] + 1
        stack.append(cell)

    door = max(distance, key=lambda cell: distance[cell])
    between = [  # walls between two cells, without the door's
        (r, c, way)
        for r, c, way in np.ndindex(open_ways.shape)
        if not open_ways[r, c, way]
        and inside((r + 1 - way, c + way))
        and door not in ((r, c), (r + 1 - way, c + way))
    ]
    for i in rng.choice(len(between), NUM_LOOPS, replace=False):
        open_ways[between[i]] = True
    return open_ways, start, door


class Player:
    """The scripted policy: to the nearest coin, then to the key, then through the door.

    A `worldsim.game.policy.Policy`. Without the true state, as in a learned world, it uses the
    frame: it goes where it sees no wall, and turns back only at a dead end.
    """

    def __init__(self) -> None:
        self._last = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return an action from 0 to 4 for a frame ``uint8`` (64 64 3)."""
        if "open_ways" not in info:
            self._last = self._wander(observation, rng)
            return self._last
        goals = {tuple(coin) for coin in info["coins"][info["coins_left"]].tolist()}
        if not goals:
            goals = {tuple(info["door" if info["has_key"] else "key"].tolist())}
        shut = None if info["has_key"] else tuple(info["door"].tolist())
        start = tuple(info["player"].tolist())
        return first_move(info["open_ways"], start, lambda cell: cell in goals, shut)

    def _wander(self, frame: np.ndarray, rng: np.random.Generator) -> int:
        rows, columns = np.nonzero(is_colour(frame, COAT))
        if not len(rows):
            return 0
        y, x = (CELL * int(place.mean() / CELL) + CELL // 2 for place in (rows, columns))
        ahead = []
        for action, (row, column) in enumerate(MOVES[1:], 1):
            edge_y, edge_x = y + (CELL // 2) * row, x + (CELL // 2) * column
            if min(edge_y, edge_x) > 0 and max(edge_y, edge_x) < SIZE:
                edge = frame[edge_y - 1 : edge_y + 1, edge_x - 1 : edge_x + 1].mean((0, 1))
                if np.abs(edge - FLOOR).max() < 40:
                    ahead.append(action)
        ahead = [action for action in ahead if action != OPPOSITE[self._last]] or ahead
        if self._last in ahead and rng.random() < 0.5:
            return self._last
        return int(rng.choice(ahead or [0]))


def first_move(
    open_ways: np.ndarray,
    start: Cell,
    is_goal: Callable[[Cell], bool],
    shut: Cell | None = None,
) -> int:
    """Return the first action of a shortest path to a goal around a shut cell, or 0."""
    queue = deque([(start, 0)])
    seen = {start, shut}
    while queue:
        cell, first = queue.popleft()
        if is_goal(cell):
            return first
        for action in range(1, len(MOVES)):
            ahead = ahead_of(cell, action)
            if ahead not in seen and is_open(open_ways, cell, action):
                seen.add(ahead)
                queue.append((ahead, first or action))
    return 0
