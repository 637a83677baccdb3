"""The log of a run: JSON lines always, and wandb and TensorBoard where they are wanted.

Every figure is appended to ``metrics.jsonl`` in the run's folder: one object a line, ready for
``jq`` or ``pandas.read_json``.
A log never stops a run: no login, no network or no wandb each cost one note, not the training.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, SupportsFloat

from worldsim.system.extras import require
from worldsim.system.files import check_regular, written_aside
from worldsim.system.options import Advanced

from .tensorboard_log import TensorBoardLog
from .wandb_log import ChosenMode, WandbLog, WandbMode, choose_wandb_mode

if TYPE_CHECKING:
    from .agent_config import AgentConfig
    from .config import TrainConfig

Logger = Literal["wandb", "tensorboard"]


@dataclass(frozen=True)
class Logging:
    """Where the figures and videos of a run go beside metrics.jsonl."""

    log: tuple[Logger, ...] = ("wandb",)
    """Where figures and videos go beside metrics.jsonl: wandb, tensorboard, both, or neither."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    wandb_project: Annotated[str | None, Advanced()] = None
    """Project in wandb; WANDB_PROJECT, or worldsim, if not given."""
    wandb_entity: Annotated[str | None, Advanced()] = None
    """User or team in wandb; WANDB_ENTITY if not given."""
    wandb_tags: Annotated[tuple[str, ...], Advanced()] = ()
    """Tags in wandb; WANDB_TAGS if not given."""


def check_log(log: Sequence[Logger]) -> None:
    """Say before a run begins that what it is to log to is not installed.

    Raises:
        ModuleNotFoundError: If TensorBoard is asked for and not there; without wandb, which nobody
            need ask for, a run logs to ``metrics.jsonl`` alone.
    """
    if "tensorboard" in log:
        require("tensorboard")


def open_log(config: TrainConfig | AgentConfig, note: Callable[[str], None]) -> RunLog:
    """Open the log of a run as its options say.

    Args:
        config: The run's options.
        note: Called with the few sentences that a person should read.

    Raises:
        ModuleNotFoundError: As `RunLog`.
        ValueError: As `RunLog`.
    """
    return RunLog(
        config.out,
        config.settings(),
        config.logging.wandb,
        config.out.resolve().name,
        log=config.logging.log,
        wandb_project=config.logging.wandb_project,
        wandb_entity=config.logging.wandb_entity,
        wandb_tags=config.logging.wandb_tags,
        note=note,
    )


class RunLog:
    """Figures and videos of one run.

    Args:
        run_dir: The run's folder, made if it is missing. Figures are appended to its
            ``metrics.jsonl``, so a resumed run continues its own file; where steps overlap,
            the later line is the one that counts.
        config: What the run was started with.
        wandb: ``auto`` is online when logged in and offline otherwise; ``disabled`` never
            imports wandb.
        name: The run's name in wandb.
        log: Where figures go beside ``metrics.jsonl``.
        wandb_project: Where wandb files the run; none: ``WANDB_PROJECT``, or worldsim.
        wandb_entity: Whose it is; none: ``WANDB_ENTITY``, or whoever is logged in.
        wandb_tags: Words to find it by; none: ``WANDB_TAGS``.
        note: Called with the few sentences that a person should read.

    Raises:
        ModuleNotFoundError: If TensorBoard is asked for and not installed.
        ValueError: If ``wandb`` is not one of the four modes, or a file or
            folder of the log is a link.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        config: Mapping[str, Any],
        wandb: WandbMode = "auto",
        name: str | None = None,
        *,
        log: Sequence[Logger] = ("wandb",),
        wandb_project: str | None = None,
        wandb_entity: str | None = None,
        wandb_tags: Sequence[str] = (),
        note: Callable[[str], None] = print,
    ) -> None:
        check_log(log)
        mode = choose_wandb_mode(wandb, note) if "wandb" in log else "disabled"
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.path = self.run_dir / "metrics.jsonl"
        for written in ("wandb_id.txt", "wandb", "tensorboard", "videos"):
            if (path := self.run_dir / written).is_symlink():
                raise ValueError(f"{path} is a link, and no log is written through one: remove it")
        if os.path.lexists(self.path):
            check_regular(self.path)
            _drop_unfinished_line(self.path)
        self._lines = self.path.open("a", encoding="utf-8")
        self._wandb = WandbLog(
            self.run_dir,
            config,
            mode,
            name,
            project=wandb_project,
            entity=wandb_entity,
            tags=wandb_tags,
            note=note,
        )
        self._loggers: list[WandbLog | TensorBoardLog] = [self._wandb]
        if "tensorboard" in log:
            self._loggers.append(TensorBoardLog(self.run_dir, config))

    @property
    def mode(self) -> ChosenMode:
        """What wandb does now, after any falling back."""
        return self._wandb.mode

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Write figures down.

        Args:
            metrics: Numbers by name, such as ``{"loss/tau_0.1": 0.2}``; NaN and infinity are
                written as ``null``, which JSON can say.
            step: The optimizer step that they belong to.

        Raises:
            TypeError: If a value is not a single number.
        """
        numbers = {key: _as_number(key, value) for key, value in metrics.items()}
        finite = {key: v if math.isfinite(v) else None for key, v in numbers.items()}
        line = {"step": step, "time": round(time.time(), 3), **finite}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        for logger in self._loggers:
            logger.log(numbers, step)

    def log_video(self, key: str, mp4_path: str | os.PathLike[str], step: int) -> None:
        """Hand a video file to each logger, and note its path in the JSON lines.

        Args:
            key: The video's name, such as ``rollout``.
            mp4_path: An mp4 file; arrays would need moviepy, so encode first.
            step: The optimizer step that it belongs to.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        path = Path(mp4_path)
        if not path.is_file():
            raise FileNotFoundError(f"no video to log under {key!r} at {path}")
        line = {"step": step, "time": round(time.time(), 3), key: str(path)}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for logger in self._loggers:
            logger.log_video(key, path, step)

    def finish(self, exit_code: int = 0) -> None:
        """Close the log; a second call does nothing.

        Args:
            exit_code: 0 when the run did what it should, which is what wandb then shows.
        """
        self._lines.close()
        for logger in self._loggers:
            logger.finish(exit_code)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(exit_code=0 if error is None else 1)


def _as_number(key: str, value: SupportsFloat) -> int | float:
    if isinstance(value, int):
        return int(value)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"a metric must be one number, got {type(value).__name__} for {key!r}"
        ) from error


def _drop_unfinished_line(path: Path) -> None:
    """Write the file anew, without what a killed run left after the last full line.

    Under another name that the file has, a hard link, its content stays what it was.
    """
    content = path.read_bytes()
    with written_aside(path) as aside:
        aside.write_bytes(content[: content.rfind(b"\n") + 1])
