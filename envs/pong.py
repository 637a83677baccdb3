"""Pong: a paddle, a ball and a computer that follows it, on 64 by 64 pixels.

Made to be learned as well as played. Everything moves by whole pixels, and colours are flat. The
last two frames determine the next one, serves apart. That is why a ball may overlap a wall or a
paddle by a pixel or two before it turns: two frames around a bounce still show its speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces

from . import looks

SIZE = 64
COURT_TOP, COURT_BOTTOM = 8, 62  # rows between the walls: top included, bottom excluded
PADDLE_HEIGHT, PADDLE_WIDTH = 12, 3
OPPONENT_X, PLAYER_X = 4, 57  # left columns of the two paddles
BALL_SIZE = 4
PADDLE_SPEED = 2  # pixels per step
WINNING_SCORE = 5

BACKGROUND = (14, 16, 34)
NET = (30, 34, 62)
WALL = (84, 92, 140)
PIP_OFF = (40, 44, 74)
PLAYER = (64, 208, 112)
OPPONENT = (240, 120, 48)
BALL = (250, 246, 220)

DAY_NET = (140, 160, 176)
DAY_PIP_OFF = (142, 162, 178)

LOOKS = looks.Looks(
    "pong",
    {"ball_colour": None, "night": True},
    {
        "ball_colour": {colour: f"a {colour} ball" for colour in looks.COLOURS},
        "night": looks.NIGHT_WORDS,
    },
)
"""Variants of the game, and their words."""

_PADDLE_TOP_MAX = COURT_BOTTOM - PADDLE_HEIGHT
_BALL_TOP_MAX = COURT_BOTTOM - BALL_SIZE
_SERVE_X = (SIZE - BALL_SIZE) // 2
_SERVE_Y = (COURT_TOP + COURT_BOTTOM - BALL_SIZE) // 2


Serve = Literal["lot", "play"]


class Pong(gymnasium.Env[np.ndarray, np.int64]):
    """First to five points. The player has the right paddle, the computer the left one.

    Actions: 0 NOOP, 1 UP, 2 DOWN. Reward: +1 for a point won, -1 for a point lost. The place where
    the ball hits a paddle decides its angle and speed: the middle returns it flat and slow, the
    ends steep and fast. The computer is slower than the player, so steep returns beat it.

    ``info``, also at reset, holds the true state as ints, in pixels and pixels per step.

    - ``ball_x``, ``ball_y``: the ball's upper left corner.
    - ``ball_vx``, ``ball_vy``: its velocity.
    - ``player_y``, ``opponent_y``: the paddles' upper ends.
    - ``player_score``, ``opponent_score``: points won.

    ``info`` also has ``caption``, what the game looks like in words, if an argument changes it.

    Args:
        render_mode: ``"rgb_array"`` or None.
        serve: ``"lot"``: each serve goes one of eight ways, drawn at random. ``"play"``: only the
            first serve of a game is random. Each later one goes to the side that scored, at a slope
            given by where the ball was last seen.
        ball_colour: Name of the colour of the ball, from `worldsim.envs.looks.COLOURS`; the paddles
            are grey then. None: a pale ball and paddles of two colours.
        night: Whether the court is dark.
        vary: Names of the last two arguments that each episode draws from its seed.
        vary_except: Combinations that are not drawn: ``[{"ball_colour": "red", "night": True}]``.
        vary_only: Combinations of which one is drawn, if not empty.

    Raises:
        ValueError: If an argument is none of these, or no combination is left.

    Example:
        >>> env = Pong()
        >>> frame, info = env.reset(seed=0)
        >>> frame.shape, info["player_score"]
        ((64, 64, 3), 0)
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "scripted_policy": "worldsim.envs.pong:play",
    }

    def __init__(
        self,
        render_mode: str | None = None,
        serve: Serve = "lot",
        ball_colour: str | None = None,
        night: bool = True,
        vary: Sequence[str] = (),
        vary_except: Sequence[Mapping[str, Any]] = (),
        vary_only: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        if serve not in get_args(Serve):
            raise ValueError(f"serve must be 'lot' or 'play', got {serve!r}")
        self.serve = serve
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        given = {"ball_colour": ball_colour, "night": night}
        self._looks = LOOKS.choose(given, vary, vary_except, vary_only)

    def get_action_meanings(self) -> list[str]:
        """Return the word of each action."""
        return ["NOOP", "UP", "DOWN"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a game at 0:0 with both paddles at random heights."""
        super().reset(seed=seed)
        look, self._caption = self._looks.draw(self.np_random)
        self._set_look(look)
        self._player_y = int(self.np_random.integers(COURT_TOP, _PADDLE_TOP_MAX + 1))
        self._opponent_y = int(self.np_random.integers(COURT_TOP, _PADDLE_TOP_MAX + 1))
        self._player_score = self._opponent_score = 0
        self._serve_at_random()
        return self._draw(), self._get_info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the paddles, then the ball, then let the ball bounce or score."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0 (NOOP), 1 (UP) or 2 (DOWN), got {action!r}")
        self._player_y += (0, -PADDLE_SPEED, PADDLE_SPEED)[int(action)]
        self._player_y = min(max(self._player_y, COURT_TOP), _PADDLE_TOP_MAX)
        self._move_opponent()
        last_y = self._ball_y
        self._ball_x += self._ball_vx
        self._ball_y += self._ball_vy
        self._bounce()

        reward = 0.0
        if self._ball_x <= 0:
            self._player_score += 1
            reward = 1.0
        elif self._ball_x >= SIZE - BALL_SIZE:
            self._opponent_score += 1
            reward = -1.0
        if reward:
            if self.serve == "lot":
                self._serve_at_random()
            else:
                self._serve_by_play(last_y)
        terminated = max(self._player_score, self._opponent_score) >= WINNING_SCORE
        return self._draw(), reward, terminated, False, self._get_info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return the frame, ``uint8`` of shape (64 64 3), or None without a render mode."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _set_look(self, look: looks.Look) -> None:
        self._court = _draw_court(look["night"])
        self._ball_colour, self._player_colour, self._opponent_colour = BALL, PLAYER, OPPONENT
        if look["ball_colour"] is not None:
            self._ball_colour = looks.COLOURS[look["ball_colour"]]
            self._player_colour = self._opponent_colour = looks.PLAIN

    def _serve_at_random(self) -> None:
        """Serve from the middle, one of eight ways."""
        self._ball_vx = int(self.np_random.choice((-2, 2)))
        self._ball_vy = int(self.np_random.choice((-2, -1, 1, 2)))
        self._ball_x, self._ball_y = _SERVE_X, _SERVE_Y

    def _serve_by_play(self, last_y: int) -> None:
        """Serve from the middle to the side that scored, at an angle given by the last height."""
        self._ball_vx = 2 if self._ball_vx < 0 else -2
        height = last_y - _SERVE_Y
        self._ball_vy = (1 if abs(height) < 12 else 2) * (-1 if height < 0 else 1)
        self._ball_x, self._ball_y = _SERVE_X, _SERVE_Y

    def _move_opponent(self) -> None:
        """Follow the ball at the player's speed if it is near, and at half that speed otherwise."""
        speed = 2 if self._ball_vx < 0 and self._ball_x < 24 else 1
        distance = (self._ball_y + BALL_SIZE // 2) - (self._opponent_y + PADDLE_HEIGHT // 2)
        self._opponent_y += min(max(distance, -speed), speed)
        self._opponent_y = min(max(self._opponent_y, COURT_TOP), _PADDLE_TOP_MAX)

    def _bounce(self) -> None:
        """Turn the ball where it touches a paddle or a wall; its position stays as it is."""
        coming_left = self._ball_vx < 0
        paddle_x, paddle_y = (
            (OPPONENT_X, self._opponent_y) if coming_left else (PLAYER_X, self._player_y)
        )
        offset = (self._ball_y + BALL_SIZE // 2) - (paddle_y + PADDLE_HEIGHT // 2)
        if (
            paddle_x - BALL_SIZE < self._ball_x < paddle_x + PADDLE_WIDTH
            and abs(offset) < (PADDLE_HEIGHT + BALL_SIZE) // 2
        ):
            steepness = abs(offset) // 2  # 0 in the middle, 3 at the ends
            self._ball_vy = steepness if offset > 0 else -steepness
            speed = 3 if steepness >= 2 else 2
            self._ball_vx = speed if coming_left else -speed
        if self._ball_y <= COURT_TOP:
            self._ball_vy = abs(self._ball_vy)
        elif self._ball_y >= _BALL_TOP_MAX:
            self._ball_vy = -abs(self._ball_vy)

    def _draw(self) -> np.ndarray:
        frame = self._court.copy()
        for i in range(self._opponent_score):
            frame[1:5, 4 + 5 * i : 8 + 5 * i] = self._opponent_colour
        for i in range(self._player_score):
            frame[1:5, 56 - 5 * i : 60 - 5 * i] = self._player_colour
        y = self._opponent_y
        frame[y : y + PADDLE_HEIGHT, OPPONENT_X : OPPONENT_X + PADDLE_WIDTH] = self._opponent_colour
        y = self._player_y
        frame[y : y + PADDLE_HEIGHT, PLAYER_X : PLAYER_X + PADDLE_WIDTH] = self._player_colour
        x, y = self._ball_x, self._ball_y
        frame[y : y + BALL_SIZE, x : x + BALL_SIZE] = self._ball_colour
        return frame

    def _get_info(self) -> dict[str, Any]:
        return {
            "ball_x": self._ball_x,
            "ball_y": self._ball_y,
            "ball_vx": self._ball_vx,
            "ball_vy": self._ball_vy,
            "player_y": self._player_y,
            "opponent_y": self._opponent_y,
            "player_score": self._player_score,
            "opponent_score": self._opponent_score,
            **self._caption,
        }


def _draw_court(night: bool) -> np.ndarray:
    """Return the background: walls, net and the ten unlit score pips."""
    ground, net, pip_off = BACKGROUND, NET, PIP_OFF
    if not night:
        ground, net, pip_off = looks.DAY, DAY_NET, DAY_PIP_OFF
    court = np.full((SIZE, SIZE, 3), ground, np.uint8)
    for y in range(COURT_TOP + 2, COURT_BOTTOM, 6):
        court[y : y + 3, SIZE // 2 - 1 : SIZE // 2 + 1] = net
    court[COURT_TOP - 2 : COURT_TOP] = WALL
    court[COURT_BOTTOM:] = WALL
    for i in range(WINNING_SCORE):
        court[1:5, 4 + 5 * i : 8 + 5 * i] = pip_off
        court[1:5, 56 - 5 * i : 60 - 5 * i] = pip_off
    return court


def play(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
    """Follow the ball and return it away from the computer's paddle.

    A `worldsim.game.policy.Policy` that reads only the frame, ``uint8`` (64 64 3), where the game
    has its usual look. It returns 0 (NOOP) if it finds no ball or no own paddle.
    """
    if {"caption", "ball_y"} <= info.keys():  # another look: go by the true state
        middle = PADDLE_HEIGHT / 2
        ball = info["ball_y"] + BALL_SIZE / 2
        return _meet(ball, info["player_y"] + middle, info["opponent_y"] + middle)
    court = observation[COURT_TOP:COURT_BOTTOM].astype(np.int16)
    # Thresholds instead of exact colours: the frames of a learned world are not exact.
    red, green, blue = court[..., 0], court[..., 1], court[..., 2]
    ball_y = _centre_row(court.min(-1) > 130)
    player_y = _centre_row((green - red > 60)[:, SIZE // 2 :])
    opponent_y = _centre_row((red - blue > 60)[:, : SIZE // 2])
    if ball_y is None or player_y is None:
        return 0
    return _meet(ball_y, player_y, opponent_y)


def _meet(ball_y: float, player_y: float, opponent_y: float | None) -> int:
    """Return the action that brings the paddle to the ball, given the rows of their centres."""
    # The paddle's upper end returns the ball upwards: aim for the half without the computer.
    computer_is_low = opponent_y is not None and opponent_y > ball_y
    target = ball_y + 5 if computer_is_low else ball_y - 5
    if abs(target - player_y) <= 1.5:
        return 0
    return 1 if target < player_y else 2


def _centre_row(mask: np.ndarray) -> float | None:
    """Return the mean row of the True pixels of an (h w) mask, None if fewer than four."""
    rows = np.nonzero(mask)[0]
    return float(rows.mean()) if len(rows) >= 4 else None
