"""Balls: a box of balls that collide without loss, one of which the player pushes.

Discs of several sizes and colours move in real-valued pixel coordinates. Their soft edges show
positions to a fraction of a pixel, and two frames show their velocities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from einops import rearrange
from gymnasium import spaces

from . import looks
from .sight import is_colour

SIZE = 64
WALL_WIDTH = 2
RADII = (5.0, 4.0, 6.0, 5.0, 4.0)  # pixels; the first ball is the player's. Mass is radius squared
TARGET_PLACES = ((16, 16), (48, 16), (48, 48), (16, 48))  # (x, y), clockwise
TARGET_RADIUS = 3.0
PUSH = 0.35  # pixels a step, added to the speed of the player's ball
MAX_SPEED = 4.0  # pixels a step
START_SPEED = 1.2  # pixels a step; too little for one ball to reach MAX_SPEED with all the energy
NUM_SUBSTEPS = 4  # about a pixel each, far less than two radii: no ball passes through another

BACKGROUND = (20, 24, 38)
WALL = (92, 100, 132)
TARGET = (255, 208, 64)
COLOURS = ((248, 248, 248), (232, 72, 80), (72, 136, 240), (80, 200, 104), (192, 96, 224))

PUSHES = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # (x, y) of each action

LOOKS = looks.Looks(
    "balls",
    {"num_balls": len(RADII), "ball_colour": None, "night": True},
    {
        "num_balls": {
            1: "one ball",
            2: "two balls",
            3: "three balls",
            4: "four balls",
            5: "five balls",
        },
        "ball_colour": {colour: f"the player's is {colour}" for colour in looks.COLOURS},
        "night": looks.NIGHT_WORDS,
    },
)
"""Variants of the game, and their words."""

_PATCH = 16  # pixels; a square that holds the largest ball wherever it lies


class Balls(gymnasium.Env[np.ndarray, np.int64]):
    """Push the white ball to the golden square, which then moves to the next of four places.

    The square moves clockwise: after the reset the game is deterministic.

    Actions: 0 NOOP, 1 UP, 2 DOWN, 3 LEFT, 4 RIGHT, each a small push of the white ball. Reward: +1
    for each square touched. Only the time limit ends an episode.

    ``info``, also at reset, holds the true state in pixels and pixels per step. Coordinates are
    (x, y) from the upper left corner of the frame.

    - ``positions`` and ``velocities``: of the balls, float64 (5 2).
    - ``radii``: of the balls, (5,).
    - ``target``: the square's centre, (2,).
    - ``score``: squares touched, an int.
    - ``caption``: what the game looks like, in words, if an argument changes it.

    Args:
        render_mode: ``"rgb_array"`` or None.
        gravity: Downward acceleration in pixels per step squared, from 0 to 0.5.
        drag: Share of its speed that each ball loses per step, from 0 to 1. At 0, energy is kept.
        num_balls: From 1 to 5.
        ball_colour: Name of the colour of the player's ball, from `worldsim.envs.looks.COLOURS`;
            the others are grey then. None: white, and each other ball has a colour of its own.
        night: Whether the ground is dark.
        vary: Names of the last three arguments that each episode draws from its seed.
        vary_except: Combinations that are not drawn: ``[{"ball_colour": "red", "num_balls": 3}]``.
        vary_only: Combinations of which one is drawn, if not empty.

    Raises:
        ValueError: If an argument is outside its range, or no combination is left.

    Example:
        >>> env = Balls(gravity=0.1)
        >>> frame, info = env.reset(seed=0)
        >>> frame.shape, info["positions"].shape
        ((64, 64, 3), (5, 2))
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "scripted_policy": "worldsim.envs.balls:play",
    }

    def __init__(
        self,
        render_mode: str | None = None,
        gravity: float = 0.0,
        drag: float = 0.005,
        num_balls: int = len(RADII),
        ball_colour: str | None = None,
        night: bool = True,
        vary: Sequence[str] = (),
        vary_except: Sequence[Mapping[str, Any]] = (),
        vary_only: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        if not 0.0 <= gravity <= 0.5:
            raise ValueError(f"gravity must be from 0 to 0.5 pixels per step^2, got {gravity}")
        if not 0.0 <= drag <= 1.0:
            raise ValueError(f"drag must be from 0 to 1, got {drag}")
        self.render_mode = render_mode
        self.gravity = gravity
        self.drag = drag
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(5)
        given = {"num_balls": num_balls, "ball_colour": ball_colour, "night": night}
        self._looks = LOOKS.choose(given, vary, vary_except, vary_only)

    def get_action_meanings(self) -> list[str]:
        """Return the word of each action."""
        return ["NOOP", "UP", "DOWN", "LEFT", "RIGHT"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the balls where none touches another and send them off."""
        super().reset(seed=seed)
        look, self._caption = self._looks.draw(self.np_random)
        self._set_look(look)
        # Lists of floats: for five balls, plain Python is several times faster than numpy.
        self._positions: list[list[float]] = []
        while len(self._positions) < self._num_balls:
            radius = RADII[len(self._positions)]
            low, high = WALL_WIDTH + radius, SIZE - WALL_WIDTH - radius
            place = self.np_random.uniform(low, high, 2).tolist()
            others = zip(self._positions, RADII, strict=False)
            if all(math.dist(place, other) > radius + other_r for other, other_r in others):
                self._positions.append(place)
        angles = self.np_random.uniform(0, 2 * math.pi, self._num_balls)
        speeds = self.np_random.uniform(0.3, 1.0, self._num_balls) * START_SPEED
        self._velocities: list[list[float]] = [
            [s * math.cos(a), s * math.sin(a)]
            for s, a in zip(speeds.tolist(), angles.tolist(), strict=True)
        ]
        self._score = 0
        far = [
            i for i, place in enumerate(TARGET_PLACES) if math.dist(place, self._positions[0]) > 20
        ]
        self._target = int(self.np_random.choice(far))
        return self._draw(), self._get_info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the player's ball, move all balls, and check whether the target is touched."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an integer from 0 to 4, got {action!r}")
        # Push, gravity, drag and the speed limit change the velocities once per step.
        x, y = PUSHES[int(action)]
        self._velocities[0][0] += PUSH * x
        self._velocities[0][1] += PUSH * y
        for velocity in self._velocities:
            velocity[1] += self.gravity
            speed = math.hypot(*velocity)
            factor = (1.0 - self.drag) * min(1.0, MAX_SPEED / speed if speed else 1.0)
            velocity[0] *= factor
            velocity[1] *= factor
        # Short substeps keep balls from passing through each other.
        for _ in range(NUM_SUBSTEPS):
            for i in range(self._num_balls):
                self._move(i, 1.0 / NUM_SUBSTEPS)
            for i in range(self._num_balls):
                for j in range(i):
                    self._collide(i, j)
        target = TARGET_PLACES[self._target]
        touched = math.dist(self._positions[0], target) < RADII[0] + TARGET_RADIUS
        if touched:
            self._score += 1
            self._target = (self._target + 1) % len(TARGET_PLACES)
        return self._draw(), float(touched), False, False, self._get_info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return the frame, ``uint8`` of shape (64 64 3), or None without a render mode."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _set_look(self, look: looks.Look) -> None:
        self._num_balls: int = look["num_balls"]
        self._ground = BACKGROUND if look["night"] else looks.DAY
        self._box = np.full((SIZE, SIZE, 3), WALL, np.uint8)
        self._box[WALL_WIDTH:-WALL_WIDTH, WALL_WIDTH:-WALL_WIDTH] = self._ground
        colours: Sequence[looks.Colour] = COLOURS
        if look["ball_colour"] is not None:
            colours = (looks.COLOURS[look["ball_colour"]], *[looks.PLAIN] * (len(RADII) - 1))
        self._colours = np.array(colours[: self._num_balls], np.float64)

    def _move(self, i: int, duration: float) -> None:
        """Move a ball in a straight line, mirrored by the walls."""
        position, velocity = self._positions[i], self._velocities[i]
        low, high = WALL_WIDTH + RADII[i], SIZE - WALL_WIDTH - RADII[i]
        for axis in range(2):
            position[axis] += velocity[axis] * duration
            if position[axis] < low:
                position[axis] = 2 * low - position[axis]
                velocity[axis] = abs(velocity[axis])
            elif position[axis] > high:
                position[axis] = 2 * high - position[axis]
                velocity[axis] = -abs(velocity[axis])

    def _collide(self, i: int, j: int) -> None:
        """Let two balls that touch and approach exchange momentum without loss."""
        (xi, yi), (xj, yj) = self._positions[i], self._positions[j]
        dx, dy = xi - xj, yi - yj
        reach = RADII[i] + RADII[j]
        squared = dx * dx + dy * dy
        if squared >= reach * reach or squared == 0.0:
            return
        vi, vj = self._velocities[i], self._velocities[j]
        distance = math.sqrt(squared)
        nx, ny = dx / distance, dy / distance
        approach = (vi[0] - vj[0]) * nx + (vi[1] - vj[1]) * ny
        if approach >= 0.0:
            return
        mass_i, mass_j = RADII[i] ** 2, RADII[j] ** 2
        impulse = -2.0 * approach / (mass_i + mass_j)
        vi[0] += impulse * mass_j * nx
        vi[1] += impulse * mass_j * ny
        vj[0] -= impulse * mass_i * nx
        vj[1] -= impulse * mass_i * ny

    def _draw(self) -> np.ndarray:
        frame = self._box.copy()
        x, y = TARGET_PLACES[self._target]
        frame[y - 3 : y + 3, x - 3 : x + 3] = TARGET
        frame[y - 1 : y + 1, x - 1 : x + 1] = self._ground
        positions = np.array(self._positions)
        corners = np.clip(positions.astype(int) - _PATCH // 2, 0, SIZE - _PATCH)
        pixels = np.arange(_PATCH) + 0.5
        across = rearrange(corners - positions, "n xy -> xy n 1") + pixels
        distances = np.hypot(
            rearrange(across[0], "n w -> n 1 w"), rearrange(across[1], "n h -> n h 1")
        )
        alphas = np.clip(_RADII_COLUMN[: self._num_balls] + 0.5 - distances, 0.0, 1.0)
        for (x, y), alpha, colour in zip(corners.tolist(), alphas, self._colours, strict=True):
            patch = frame[y : y + _PATCH, x : x + _PATCH]
            cover = alpha[..., None]
            patch[:] = patch + cover * (colour - patch) + 0.5
        return frame

    def _get_info(self) -> dict[str, Any]:
        return {
            "positions": np.array(self._positions),
            "velocities": np.array(self._velocities),
            "radii": np.array(RADII[: self._num_balls]),
            "target": np.array(TARGET_PLACES[self._target]),
            "score": self._score,
            **self._caption,
        }


_RADII_COLUMN = rearrange(np.array(RADII), "n -> n 1 1")


def play(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
    """Steer the white ball towards the target, braking in time.

    A `worldsim.game.policy.Policy` for frames ``uint8`` (64 64 3). Without the true state it pushes
    towards the target half of the time: one frame shows no speed.
    """
    if "target" in info:
        wanted = np.clip(0.15 * (info["target"] - info["positions"][0]), -2.0, 2.0)
        x, y = wanted - info["velocities"][0]
    else:
        x, y = (_find(observation, TARGET) - _find(observation, COLOURS[0])) * rng.integers(2)
    if max(abs(x), abs(y)) < PUSH / 2:
        return 0
    if abs(x) > abs(y):
        return 3 if x < 0 else 4
    return 1 if y < 0 else 2


def _find(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the mean place (x, y) of a colour in a frame; the middle if it is not visible."""
    rows, columns = np.nonzero(is_colour(frame, colour))
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.full(2, SIZE / 2)
