"""Controller of play: keys and commands in, a view out, without any screen.

A window draws the view and passes its keys on; a page in a browser can do the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.game.keys import action_from_keys
from worldsim.game.policy import Policy

from .pace import Pace
from .session import Session, format_score

NOTE_SECONDS = 4.0
OVER_SECONDS = 4.0  # from the end of an episode to the next one
MAX_PROMPT = 200  # characters
GUARD_SECONDS = 0.5  # keys pressed just as an episode ends do not begin the next


@dataclass(frozen=True)
class View:
    """Everything that a screen shows.

    Attributes:
        frame: ``uint8`` (h w c), c of 1 or 3.
        name: Name of the world or game, such as ``"pong"`` or ``"ALE/Pong-v5"``.
        kind: ``"world"`` or ``"real game"``.
        is_recording: Whether the current steps are recorded.
        score: Sum of the episode's rewards, as text.
        num_steps: Steps of the episode.
        episode: Number of the episode, from 1.
        num_passes: Denoising passes per frame of a world; None for a real game.
        speed: Factor on the game's pace.
        wanted_fps: Frames per second at this speed.
        reached_fps: Measured frames per second; None before two frames.
        milliseconds: Time to compute a frame, in ms; None before the first.
        is_slow: Whether the machine cannot keep up.
        heading: Text in the middle of the frame; may be empty.
        notes: Texts at the lower edge of the frame, the newest first.
        held: Names of the keys that are down.
        typed: The prompt that is being typed; None if none is.
    """

    frame: np.ndarray
    name: str
    kind: str
    is_recording: bool
    score: str
    num_steps: int
    episode: int
    num_passes: int | None
    speed: float
    wanted_fps: float
    reached_fps: float | None
    milliseconds: float | None
    is_slow: bool
    heading: str
    notes: Sequence[str]
    held: frozenset[str]
    typed: str | None = None


class Controller:
    """Controls a session: pause, speed, episodes, and who plays.

    A screen calls `press`, `release` and `command` on events, calls `advance` whenever
    `seconds_until_due` is 0, and shows `view`.

    Args:
        session: The session to control.
        speed: Factor on the game's pace.
        make_policy: Makes a policy for each episode; by default the keys play.
        wait_at_end: Whether the next episode waits for a moment, or for a key.
        clock: A monotonic clock in seconds.

    Example:
        >>> controller = Controller(session)  # doctest: +SKIP
        >>> controller.press("up")  # doctest: +SKIP
        >>> controller.advance()  # doctest: +SKIP
        True
        >>> controller.view().num_steps  # doctest: +SKIP
        1
    """

    def __init__(
        self,
        session: Session,
        *,
        speed: float = 1.0,
        make_policy: Callable[[], Policy] | None = None,
        wait_at_end: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.session = session
        self.pace = Pace(session.config.fps, speed, clock)
        self.is_paused = False
        self.is_running = True
        self.typed: str | None = None  # the prompt that is being typed, while play waits
        self._clock = clock
        self._make_policy = make_policy
        self._policy: Policy | None = None
        self._policy_name = session.player
        self._by_hand = False
        self._over_seconds = OVER_SECONDS if wait_at_end else 0.0
        self._over_since = 0.0
        self._single_steps = 0
        self._is_switching = False
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self._note, self._note_until = "", 0.0
        self.commands: Mapping[str, Callable[[], None]] = {
            "pause": self._toggle_pause,
            "step": self._single_step,
            "restart": self._restart,
            "slower": lambda: self._change_speed(-1),
            "faster": lambda: self._change_speed(1),
            "fewer_passes": lambda: self._change_passes(-1),
            "more_passes": lambda: self._change_passes(1),
            "switch": self._switch_soon,
            "take_over": self._take_over,
            "prompt": self._begin_typing,
            "quit": self._quit,
        }
        self._begin_episode()

    @property
    def is_switching(self) -> bool:
        """Whether the next `advance` opens another source, which can take seconds."""
        return self._is_switching

    def command(self, name: str) -> None:
        """Execute one of :attr:`commands`.

        Raises:
            ValueError: If the command does not exist.
        """
        if name not in self.commands:
            raise ValueError(f"a command is one of {', '.join(self.commands)}, got {name!r}")
        self.commands[name]()

    def press(self, key: str) -> None:
        """Note that a key of the game goes down, by its name in pygame."""
        self._held.add(key)
        self._tapped.add(key)  # a tap shorter than a frame counts too
        over_for = self._clock() - self._over_since
        if self.session.is_over and over_for >= min(GUARD_SECONDS, self._over_seconds):
            self._restart()

    def release(self, key: str) -> None:
        """Note that a key goes up."""
        self._held.discard(key)

    def release_all(self) -> None:
        """Note that no key is held, as when a window loses the focus."""
        self._held.clear()

    def type_text(self, text: str) -> None:
        """Add text to the prompt that is being typed."""
        if self.typed is not None:
            added = "".join(character for character in text if character.isprintable())
            self.typed = (self.typed + added)[:MAX_PROMPT]

    def erase(self) -> None:
        """Remove the last character of the prompt that is being typed."""
        if self.typed is not None:
            self.typed = self.typed[:-1]

    def end_typing(self, apply: bool) -> None:
        """Begin an episode by the typed prompt, or leave it; a word unknown to the world is named.

        Args:
            apply: Whether to begin. Without a word, episodes have the captions of their starts.
        """
        typed, self.typed = self.typed, None
        self.pace.restart()
        if typed is None or not apply:
            return
        try:
            self.session.change_prompt(typed.strip() or None)
        except ValueError as error:
            self.say(str(error))
            self.typed = typed  # to be corrected
            return
        self._begin_episode()

    def say(self, note: str) -> None:
        """Show a note for some seconds."""
        self._note, self._note_until = note, self._clock() + NOTE_SECONDS

    def seconds_until_due(self) -> float:
        """Seconds until the next `advance` is due; infinite while play is paused or one types."""
        if self._is_switching:
            return 0.0
        if self.typed is not None:
            return math.inf
        if self.session.is_over:
            return max(0.0, self._over_since + self._over_seconds - self._clock())
        if self.is_paused:
            return 0.0 if self._single_steps else math.inf
        return self.pace.seconds_until_due()

    def advance(self) -> bool:
        """Do what is due: a step, the next episode, or the switch to another source.

        Returns:
            Whether anything was due.
        """
        if self.seconds_until_due() > 0:
            return False
        if self._is_switching:
            self._switch()
        elif self.session.is_over:
            self._restart()
        else:
            self._step()
        return True

    def run(self, num_steps: int) -> None:
        """Play ``num_steps`` steps at the pace of the game, without a screen."""
        while self.session.total_steps < num_steps:
            time.sleep(min(1.0, self.seconds_until_due()))  # infinite during a pause
            self.advance()

    def view(self) -> View:
        """The current view."""
        session, pace = self.session, self.pace
        return View(
            frame=session.observation,
            name=session.source.name,
            kind=session.source.kind,
            is_recording=session.is_recording,
            score=format_score(session.score),
            num_steps=session.num_steps,
            episode=len(session.scores) + (not session.is_over),
            num_passes=session.num_passes,
            speed=pace.speed,
            wanted_fps=pace.wanted_fps,
            reached_fps=pace.reached_fps,
            milliseconds=pace.milliseconds,
            is_slow=pace.is_slow,
            heading=self._heading(),
            notes=self._notes(),
            held=frozenset(self._held | self._tapped),
            typed=self.typed,
        )

    def _heading(self) -> str:
        if self.typed is not None:
            return "what the world shows, in words\nenter begins, escape leaves"
        if self.session.is_over:
            score = format_score(self.session.score)
            return f"episode over\nscore {score}\npress a key to play on"
        return "paused" if self.is_paused else ""

    def _notes(self) -> list[str]:
        notes = []
        if self._clock() < self._note_until:
            notes.append(self._note)
        if scores := self.session.range_left:
            notes.append(f"beyond every recorded score ({scores}): the game may have ended before")
        if self.pace.is_slow:
            notes.append(
                f"slower than the game: {self.pace.reached_fps:.1f} "
                f"of {self.pace.wanted_fps:g} frames per second"
            )
        return notes

    def _step(self) -> None:
        session = self.session
        started = self._clock()
        action = action_from_keys(self._held | self._tapped, session.config)
        if self._policy is not None:  # it sees all frames, so that it can take over at any time
            wanted = int(self._policy(session.observation, session.info, session.rng))
            action = action if self._by_hand else wanted
        is_taken = not session.num_ahead
        session.step(action)
        self.pace.mark(self._clock() - started, session.num_ahead)
        if is_taken:  # else a tap waits for the next step
            self._tapped.clear()
        self._single_steps = max(0, self._single_steps - 1)
        if session.is_over:
            self._over_since = self._clock()

    def _begin_episode(self) -> None:
        self._policy = self._make_policy() if self._make_policy else None
        self.session.player = "person" if self._by_hand else self._policy_name
        self._tapped.clear()
        self.pace.restart()

    def _begin_typing(self) -> None:
        if not self.session.takes_prompt:
            self.say("only worlds trained on captions take a prompt")
            return
        self.release_all()
        self.typed = self.session.prompt or ""

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
        self.say(f"speed {self.pace.speed:g}x: {self.pace.wanted_fps:g} frames per second")

    def _change_passes(self, difference: int) -> None:
        try:
            self.session.change_passes(difference)
        except ValueError as error:
            self.say(str(error))
            return
        passes = self.session.num_passes
        self.say(f"{passes} denoising pass{'es' if passes != 1 else ''} per frame")
        self.pace.restart()

    def _switch_soon(self) -> None:
        """Leave the switch to the next `advance`, so that a screen can show the note first."""
        self.say("opening the other source ...")
        self._is_switching = True

    def _switch(self) -> None:
        self._is_switching = False
        try:
            self.session.switch()
        except ValueError as error:
            self.say(str(error))
            return
        note = f"now playing the {self.session.source.kind}"
        if self.session.writer is not None and not self.session.is_recording:
            note += f"; only the {self.session.sources[0].kind} is recorded"
        self.say(note)
        self._begin_episode()

    def _take_over(self) -> None:
        if self._policy is None:
            self.say("the keys play already: start with --policy to let a policy play")
            return
        self._by_hand = not self._by_hand
        if self.session.num_steps:
            self.session.player = f"{self._policy_name} and person"
        self.say("you play" if self._by_hand else f"{self._policy_name} plays")

    def _quit(self) -> None:
        self.is_running = False
