"""The log of a run: JSON lines always, and wandb and TensorBoard if requested.

Every figure is appended to ``metrics.jsonl`` in the run's folder: one object per line, ready for
``jq`` or ``pandas.read_json``. A log never stops a run: a missing login, network or wandb is noted,
and the training continues.
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
    from .codec_config import CodecConfig
    from .config import TrainConfig

Logger = Literal["wandb", "tensorboard"]


@dataclass(frozen=True)
class Logging:
    """Loggers for figures and videos, in addition to metrics.jsonl."""

    log: tuple[Logger, ...] = ("wandb",)
    """Loggers in addition to metrics.jsonl: wandb, tensorboard or both. `--log` without a
    word: neither."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    wandb_project: Annotated[str | None, Advanced()] = None
    """Project in wandb; WANDB_PROJECT, or worldsim, if not given."""
    wandb_entity: Annotated[str | None, Advanced()] = None
    """User or team in wandb; WANDB_ENTITY if not given."""
    wandb_tags: Annotated[tuple[str, ...], Advanced()] = ()
    """Tags in wandb; WANDB_TAGS if not given."""


def check_log(log: Sequence[Logger]) -> None:
    """Check before a run that its loggers are installed.

    Raises:
        ModuleNotFoundError: If TensorBoard is requested but missing. Without wandb, which is a
            default, a run logs only to ``metrics.jsonl``.
    """
    if "tensorboard" in log:
        require("tensorboard")


def open_log(
    config: TrainConfig | AgentConfig | CodecConfig, note: Callable[[str], None]
) -> RunLog:
    """Open the log of a run with its options.

    Args:
        config: The run's options.
        note: Called with sentences for the user.

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
            ``metrics.jsonl``, so a resumed run continues its own file. If steps overlap, the later
            line counts.
        config: The run's settings.
        wandb: ``auto`` is online when logged in and offline otherwise; ``disabled`` never
            imports wandb.
        name: The run's name in wandb.
        log: The loggers in addition to ``metrics.jsonl``.
        wandb_project: Project in wandb; None takes ``WANDB_PROJECT``, or worldsim.
        wandb_entity: User or team in wandb; None takes ``WANDB_ENTITY``, or the logged-in user.
        wandb_tags: Tags in wandb; without any, ``WANDB_TAGS``.
        note: Called with sentences for the user.

    Raises:
        ModuleNotFoundError: If TensorBoard is requested but missing.
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
                raise ValueError(f"{path} is a link, and logs are not written to links: remove it")
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
        """The current mode of wandb, after any fallback."""
        return self._wandb.mode

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Log figures.

        Args:
            metrics: Numbers by name, such as ``{"loss/tau_0.1": 0.2}``; NaN and infinity become
                ``null``, since JSON has neither.
            step: The optimizer step of the figures.

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
        """Log a video, and write its path to the JSON lines.

        Args:
            key: The video's name, such as ``rollout``.
            mp4_path: An mp4 file; arrays would need moviepy.
            step: The optimizer step of the video.

        Raises:
            FileNotFoundError: If the file does not exist.
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
            exit_code: 0 for success; shown by wandb.
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
    """Rewrite the file without an unfinished last line of a killed run.

    Another hard link to the file keeps its content.
    """
    content = path.read_bytes()
    with written_aside(path) as aside:
        aside.write_bytes(content[: content.rfind(b"\n") + 1])
