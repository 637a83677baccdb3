"""Maze: a labyrinth larger than the view, for worlds that must remember what is out of sight.

The view is centred on the player and shows seven tiles each way of a maze of seventeen, so coins, a
key, a door and the exit leave the view and are still there, or still gone, on return. The four
quarters of the maze have walls of their own colour, so that a place can be recognised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from .maze_sprites import COIN, DARK, DOOR, EXIT, FLOOR, KEY, PLAYER, TILE, draw_sprite, draw_tiles

SIZE = 64
NUM_CELLS = 8  # cells a side; a cell and the wall beside it are one tile each
NUM_TILES = 2 * NUM_CELLS + 1
NUM_COINS = 8
NUM_LOOPS = 8  # walls taken away, so that there is more than one way round
EXIT_REWARD = 5.0

MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # (row, column) of each action
OPPOSITE = (0, 2, 1, 4, 3)  # the action that undoes each

_MARGIN = SIZE // 2  # dark pixels around the maze, for views at its edge
DARKNESS = np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)) > 34  # pixels beyond the view


class Maze(gymnasium.Env[np.ndarray, np.int64]):
    """Collect the coins, find the key, open the door and leave by the exit behind it.

    Actions: 0 NOOP, 1 UP, 2 DOWN, 3 LEFT, 4 RIGHT, a tile each; walls, and the door without the
    key, do not give way. Reward: +1 for a coin, the key and the opened door, +5 for the exit, which
    ends the episode. A player who carries the key shows it.

    ``info`` (at reset too) holds the true state in tiles, (row, column) from the upper left:
    ``player`` (2,), ``walls`` (17 17) bool, ``coins`` (8 2), ``coins_left`` (8,) bool, ``key``
    (2,), ``has_key`` bool, ``door`` (2,), ``door_open`` bool, ``exit`` (2,), ``score`` (the sum of
    rewards).

    Args:
        render_mode: ``"rgb_array"`` or None.

    Example:
        >>> env = Maze()
        >>> frame, info = env.reset(seed=0)
        >>> frame.shape, info["walls"].shape, int(info["coins_left"].sum())
        ((64, 64, 3), (17, 17), 8)
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "scripted_policy": "worldsim.envs.maze:Player",
    }

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(5)

    def get_action_meanings(self) -> list[str]:
        """Return the word of each action."""
        return ["NOOP", "UP", "DOWN", "LEFT", "RIGHT"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Grow a new maze and put the player at a random cell of it."""
        super().reset(seed=seed)
        self._walls, start, self._door, self._exit = grow_maze(self.np_random)
        cells = [(r, c) for r in range(1, NUM_TILES, 2) for c in range(1, NUM_TILES, 2)]
        free = [cell for cell in cells if cell not in (start, self._exit)]
        chosen = self.np_random.choice(len(free), NUM_COINS + 1, replace=False)
        self._key, *self._coins = [free[i] for i in chosen]
        self._coins_left = [True] * NUM_COINS
        self._player, self._has_key, self._door_open, self._score = start, False, False, 0.0

        self._floor = draw_tiles(self._walls, _MARGIN)
        self._canvas = self._floor.copy()
        for sprite, place in ((KEY, self._key), (DOOR, self._door), (EXIT, self._exit)):
            draw_sprite(self._canvas, sprite, *_to_pixels(place))
        for coin in self._coins:
            draw_sprite(self._canvas, COIN, *_to_pixels(coin))
        return self._draw(), self._get_info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walk one tile, where there is no wall, and take what lies there."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an integer from 0 to 4, got {action!r}")
        row, column = MOVES[int(action)]
        place = (self._player[0] + row, self._player[1] + column)
        shut = place == self._door and not (self._door_open or self._has_key)
        reward = 0.0
        if not self._walls[place] and not shut:
            self._player = place
            reward = self._take(place)
        self._score += reward
        terminated = self._player == self._exit
        return self._draw(), reward, terminated, False, self._get_info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return the frame, ``uint8`` of shape (64 64 3), or None without a render mode."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _take(self, place: tuple[int, int]) -> float:
        """Take what lies at a place off the canvas and return its reward."""
        if place == self._exit:
            return EXIT_REWARD
        if place in self._coins and self._coins_left[self._coins.index(place)]:
            self._coins_left[self._coins.index(place)] = False
        elif place == self._key and not self._has_key and not self._door_open:
            self._has_key = True
        elif place == self._door and not self._door_open:
            self._door_open, self._has_key = True, False
        else:
            return 0.0
        y, x = _to_pixels(place)
        self._canvas[y : y + TILE, x : x + TILE] = self._floor[y : y + TILE, x : x + TILE]
        return 1.0

    def _draw(self) -> np.ndarray:
        y, x = _to_pixels(self._player)
        corner = (SIZE - TILE) // 2  # of the player within the view
        frame = self._canvas[y - corner : y - corner + SIZE, x - corner : x - corner + SIZE].copy()
        draw_sprite(frame, PLAYER, corner, corner)
        if self._has_key:
            draw_sprite(frame, KEY, corner + 3, corner + 1)
        frame[DARKNESS] = DARK
        return frame

    def _get_info(self) -> dict[str, Any]:
        return {
            "player": np.array(self._player),
            "walls": self._walls.copy(),
            "coins": np.array(self._coins),
            "coins_left": np.array(self._coins_left),
            "key": np.array(self._key),
            "has_key": self._has_key,
            "door": np.array(self._door),
            "door_open": self._door_open,
            "exit": np.array(self._exit),
            "score": self._score,
        }


def _to_pixels(place: tuple[int, int]) -> tuple[int, int]:
    """Return the canvas row and column of a tile's upper left pixel."""
    return place[0] * TILE + _MARGIN, place[1] * TILE + _MARGIN


def grow_maze(
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Grow a maze by a random depth-first walk, then open some loops.

    Args:
        rng: Where the maze comes from.

    Returns:
        Walls (bool, (17 17)), and the tiles of the start, of the door and of the exit. The exit is
        the cell farthest from the start, a dead end whose only neighbour is the door.
    """
    walls = np.ones((NUM_TILES, NUM_TILES), bool)
    first, second = (2 * rng.integers(NUM_CELLS, size=2) + 1).tolist()
    start = (first, second)
    walls[start] = False
    stack = [start]
    distance = {start: 0}
    while stack:
        r, c = stack[-1]
        ahead = [
            (r + 2 * dr, c + 2 * dc)
            for dr, dc in MOVES[1:]
            if 0 < r + 2 * dr < NUM_TILES and 0 < c + 2 * dc < NUM_TILES
        ]
        ahead = [cell for cell in ahead if walls[cell]]
        if not ahead:
            stack.pop()
            continue
        cell = ahead[int(rng.integers(len(ahead)))]
        walls[(r + cell[0]) // 2, (c + cell[1]) // 2] = walls[cell] = False
        distance[cell] = distance[r, c] + 1
        stack.append(cell)

    goal = max(distance, key=lambda cell: distance[cell])
    around = [(goal[0] + dr, goal[1] + dc) for dr, dc in MOVES[1:]]
    door = next(tile for tile in around if not walls[tile])
    between = [  # walls between two cells, save the exit's own
        (r, c)
        for r in range(1, NUM_TILES - 1)
        for c in range(1, NUM_TILES - 1)
        if (r + c) % 2 and walls[r, c] and (r, c) not in around
    ]
    for i in rng.choice(len(between), NUM_LOOPS, replace=False):
        walls[between[i]] = False
    return walls, start, door, goal


class Player:
    """The scripted player: to the nearest coin, then to the key, then through the door to the exit.

    A `worldsim.policy.Policy`. Where the true state is not told, it goes by the picture: along open
    floor, and back only from a dead end.
    """

    def __init__(self) -> None:
        self._last = 0

    def __call__(
        self, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> int:
        """Return an action from 0 to 4 for a frame ``uint8`` (64 64 3)."""
        if "walls" not in info:
            self._last = self._wander(observation, rng)
            return self._last
        walls = info["walls"]
        if not (info["has_key"] or info["door_open"]):
            walls = walls.copy()
            walls[tuple(info["door"])] = True
        goals = {tuple(coin) for coin in info["coins"][info["coins_left"]].tolist()}
        if not goals:
            ready = info["has_key"] or info["door_open"]
            goals = {tuple(info["exit" if ready else "key"].tolist())}
        start = tuple(info["player"].tolist())
        return _first_move(walls, start, lambda place: place in goals)

    def _wander(self, frame: np.ndarray, rng: np.random.Generator) -> int:
        corner = (SIZE - TILE) // 2
        tops = {  # the upper edge of a tile tells wall and floor apart, whatever lies on it
            action: frame[corner + TILE * row, corner + TILE * column :][:TILE].mean(0)
            for action, (row, column) in enumerate(MOVES)
            if action
        }
        ahead = [action for action, top in tops.items() if np.abs(top - FLOOR).max() < 30]
        ahead = [action for action in ahead if action != OPPOSITE[self._last]] or ahead
        if self._last in ahead and rng.random() < 0.8:
            return self._last
        return int(rng.choice(ahead or [0]))


def _first_move(
    walls: np.ndarray, start: tuple[int, ...], is_goal: Callable[[tuple[int, ...]], bool]
) -> int:
    """Return the first action of a shortest walk to a goal, 0 if there is none."""
    queue = deque([(start, 0)])
    seen = {start}
    while queue:
        place, first = queue.popleft()
        if is_goal(place):
            return first
        for action, (row, column) in enumerate(MOVES[1:], 1):
            ahead = (place[0] + row, place[1] + column)
            if ahead not in seen and not walls[ahead]:
                seen.add(ahead)
                queue.append((ahead, first or action))
    return 0
