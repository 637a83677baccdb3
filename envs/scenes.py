"""Scenes for `worldsim probe`: small physical systems whose true state is known.

There is one action, and the reset decides everything. The first three scenes are those of Kang et
al. (2024), "How far is video generation from world model: a physical law perspective". As there, a
world is trained on one range of speeds and sizes and tested on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from . import scene_look as look
from . import scene_readers as readers
from .scene_look import COLOURS, COUNTED_RADIUS, HEIGHT, WIDTH
from .scene_readers import GRAVITY, Errors, Frames, Truth

CONTEXT = 8  # frames that a world is given
LENGTH = 40  # steps of an episode

State = dict[str, np.ndarray]  # each quantity over time, (t ...)


class SceneKind(NamedTuple):
    """A scene and the quantities measured in it.

    Attributes:
        about: A short description.
        decide: Maps (generator, band) to the states of an episode.
        paint: Draws a state on a canvas (h w 3).
        read: Maps (frames, truth, real frames) of the same steps to errors by quantity.
        units: Unit of each quantity: pixels (per step), steps, or a share, printed in per cent.
        against: The true quantity that errors are plotted against.
        true_value: Maps the states of an episode to that quantity.
    """

    about: str
    decide: Callable[[np.random.Generator, str], State]
    paint: Callable[[np.ndarray, dict[str, Any]], None]
    read: Callable[[Frames, Truth, Frames], Errors]
    units: dict[str, str]
    against: str
    true_value: Callable[[Truth], float]


class Scene(gymnasium.Env[np.ndarray, np.int64]):
    """A scene that runs without a player.

    ``info``, also at reset, holds the true state of the frame; see the scene's function below.

    Args:
        scene: A name in ``SCENES``, such as ``motion``.
        band: ``"in"`` for the range of training, or ``"out"`` for values outside of it.
        render_mode: ``"rgb_array"`` or None.

    Raises:
        ValueError: If an argument has another value.

    Example:
        >>> frame, info = Scene("motion").reset(seed=0)
        >>> frame.shape, sorted(info)
        ((32, 64, 3), ['position', 'radius', 'velocity'])
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 15,
    }

    def __init__(
        self, scene: str = "motion", band: str = "in", render_mode: str | None = None
    ) -> None:
        for name, value, known in (
            ("scene", scene, tuple(SCENES)),
            ("band", band, ("in", "out")),
            ("render_mode", render_mode, (None, "rgb_array")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        self.scene, self.band, self.render_mode = scene, band, render_mode
        self.observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.action_space = spaces.Discrete(1)

    def get_action_meanings(self) -> list[str]:
        """Return the word of the one action."""
        return ["WATCH"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw the states of a new episode."""
        super().reset(seed=seed)
        self._states = SCENES[self.scene].decide(self.np_random, self.band)
        self._t = 0
        return self._draw(), self._info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one frame."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0, got {action!r}")
        self._t = min(self._t + 1, LENGTH)
        return self._draw(), 0.0, False, self._t == LENGTH, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return the frame, ``uint8`` of shape (32 64 3), or None without a render mode."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _info(self) -> dict[str, Any]:
        return {name: values[self._t] for name, values in self._states.items()}

    def _draw(self) -> np.ndarray:
        canvas = np.empty((HEIGHT, WIDTH, 3))
        canvas[:] = look.BACKGROUND
        SCENES[self.scene].paint(canvas, self._info())
        return np.round(canvas).astype(np.uint8)


# ------------------------------------------------------------------ the states

_TIME = np.arange(LENGTH + 1.0)


def _pick(
    rng: np.random.Generator, band: str, inside: tuple[float, float], *outside: tuple[float, float]
) -> float:
    """A number from the training range, or from one of the ranges outside of it."""
    low, high = inside if band == "in" else outside[rng.integers(len(outside))]
    return float(rng.uniform(low, high))


def _constant(value: Any) -> np.ndarray:
    return np.repeat(np.asarray(value)[None], LENGTH + 1, axis=0)


def _speed(rng: np.random.Generator, band: str) -> float:
    return _pick(rng, band, (0.5, 1.0), (0.15, 0.3), (1.2, 1.4))


def _radius(rng: np.random.Generator, band: str) -> float:
    return _pick(rng, band, (2.5, 3.5), (1.8, 2.1), (4.0, 4.6))


def motion(rng: np.random.Generator, band: str) -> State:
    """One ball in a straight line: ``position`` (2,) as (x, y), ``velocity`` (2,), ``radius``."""
    radius, velocity = _radius(rng, band), np.array([_speed(rng, band), 0.0])
    start = np.array([radius + 1, rng.uniform(radius + 1, HEIGHT - radius - 1)])
    position = start + _TIME[:, None] * velocity
    if rng.random() < 0.5:
        position[:, 0], velocity = WIDTH - position[:, 0], -velocity
    return {
        "position": position,
        "velocity": _constant(velocity),
        "radius": _constant(radius),
    }


def parabola(rng: np.random.Generator, band: str) -> State:
    """One ball thrown sideways under gravity: ``position``, ``velocity``, ``radius``."""
    radius, speed = _radius(rng, band), _speed(rng, band)
    x = radius + 1 + speed * _TIME
    y = radius + 1 + 0.5 * GRAVITY * _TIME**2
    if rng.random() < 0.5:
        x, speed = WIDTH - x, -speed
    return {
        "position": np.stack((x, y), axis=-1),
        "velocity": np.stack((_constant(speed), GRAVITY * _TIME), axis=-1),
        "radius": _constant(radius),
    }


def collision(rng: np.random.Generator, band: str) -> State:
    """Two balls collide head-on after the context, without loss; mass is radius squared.

    ``position`` (2 2), ``velocity`` (2 2), ``radius`` (2,).
    """
    radius = np.array([_radius(rng, band), _radius(rng, band)])
    speed = np.array([_speed(rng, band), -_speed(rng, band)])
    mass = radius**2
    meeting = rng.uniform(CONTEXT + 1, CONTEXT + 5)
    middle = rng.uniform(0.42, 0.58) * WIDTH
    contact = np.array([middle - radius[0], middle + radius[1]])
    after = speed - 2 * mass[::-1] / mass.sum() * (speed - speed[::-1])
    passed = (_TIME - meeting)[:, None]
    velocity = np.where(passed < 0, speed, after)
    x = contact + velocity * passed
    y = rng.uniform(radius.max() + 1, HEIGHT - radius.max() - 1)
    return {
        "position": np.stack((x, np.full_like(x, y)), axis=-1),
        "velocity": np.stack((velocity, np.zeros_like(x)), axis=-1),
        "radius": _constant(radius),
    }


def occlusion(rng: np.random.Generator, band: str) -> State:
    """A ball of one of three colours passes behind a pillar.

    ``position``, ``velocity``, ``radius`` and ``kind``, the number of its colour.
    """
    state = motion(rng, band)
    speed = _pick(rng, band, (1.1, 1.5), (0.95, 1.02), (1.7, 1.9))
    x = state["radius"] + 1 + speed * _TIME
    sign = np.sign(state["velocity"][0, 0])
    state["position"][:, 0] = x if sign > 0 else WIDTH - x
    state["velocity"][:, 0] = sign * speed
    return {**state, "kind": _constant(rng.integers(len(COLOURS)))}


def pour(rng: np.random.Generator, band: str) -> State:
    """Liquid pours from one vessel into the other: ``volume`` (2,) in pixels, ``rate`` per step."""
    total = _pick(rng, band, (100.0, 160.0), (60.0, 80.0), (180.0, 220.0))
    rate = _pick(rng, band, (2.0, 4.0), (0.8, 1.4), (5.0, 6.0))
    first = np.maximum(total - rate * _TIME, 0.0)
    volume = np.stack((first, total - first), axis=-1)
    if rng.random() < 0.5:
        volume = volume[:, ::-1]
    return {"volume": volume, "rate": _constant(rate)}


def candle(rng: np.random.Generator, band: str) -> State:
    """A candle burns down: its ``height`` in pixels, ``rate`` per step and place ``x``."""
    rate = _pick(rng, band, (0.2, 0.35), (0.08, 0.14), (0.45, 0.55))
    height = np.maximum(rng.uniform(16, 21) - rate * _TIME, 0.0)
    x = rng.uniform(10, WIDTH - 10)
    return {"height": height, "rate": _constant(rate), "x": _constant(x)}


def counting(rng: np.random.Generator, band: str) -> State:
    """Balls of three colours cross and bounce off the walls; the first is drawn last.

    ``position`` (6 2) and ``kind`` (6,), -1 without a ball.
    """
    number = int(rng.integers(2, 5)) if band == "in" else int(rng.choice([1, 5, 6]))
    low = COUNTED_RADIUS + 1
    size = np.array([WIDTH, HEIGHT]) - 2 * low
    start = rng.uniform(0, 1, (number, 2)) * size
    angle = rng.uniform(0, 2 * np.pi, number)
    velocity = rng.uniform(0.6, 1.2, (number, 1)) * np.stack((np.cos(angle), np.sin(angle)), -1)
    free = start + _TIME[:, None, None] * velocity
    position = np.full((LENGTH + 1, 6, 2), -1.0)
    position[:, :number] = low + np.abs((free + size) % (2 * size) - size)  # a bounce is a fold
    kind = np.full(6, -1)
    kind[:number] = rng.integers(len(COLOURS), size=number)
    return {"position": position, "kind": _constant(kind)}


# ------------------------------------------------------------------ the scenes

SHARE = "share"
SCENES = {
    "motion": SceneKind(
        "a ball in a straight line",
        motion,
        look.paint_ball,
        readers.read_motion,
        {"velocity": "px/step", "lost": SHARE},
        "speed",
        readers.speed_of,
    ),
    "collision": SceneKind(
        "two balls that meet",
        collision,
        look.paint_two,
        readers.read_collision,
        {"velocity": "px/step", "momentum": SHARE, "energy": SHARE, "lost": SHARE},
        "speed",
        readers.speed_of,
    ),
    "parabola": SceneKind(
        "a ball thrown under gravity",
        parabola,
        look.paint_ball,
        readers.read_parabola,
        {"velocity": "px/step", "energy": SHARE, "lost": SHARE},
        "speed",
        readers.speed_of,
    ),
    "occlusion": SceneKind(
        "a ball behind a pillar",
        occlusion,
        look.paint_occlusion,
        readers.read_occlusion,
        {"vanished": SHARE, "other kind": SHARE, "time": "steps", "place": "px"},
        "speed",
        readers.speed_of,
    ),
    "pour": SceneKind(
        "liquid poured between vessels",
        pour,
        look.paint_pour,
        readers.read_pour,
        {"volume": SHARE, "total": SHARE},
        "rate",
        readers.rate_of,
    ),
    "candle": SceneKind(
        "a candle that burns down",
        candle,
        look.paint_candle,
        readers.read_candle,
        {"height": "px", "grows": SHARE},
        "rate",
        readers.rate_of,
    ),
    "counting": SceneKind(
        "balls that cross",
        counting,
        look.paint_counting,
        readers.read_counting,
        {"number": SHARE, "kinds": SHARE},
        "number of balls",
        readers.number_of,
    ),
}
