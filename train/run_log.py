"""The log of a run: JSON lines that are always ours, and wandb where it is wanted.

wandb has no public reader for the files it keeps offline, so every figure is also appended to
``metrics.jsonl`` in the run's folder: one object a line, ready for ``jq`` or ``pandas.read_json``.
A log never stops a run: no login, no network or no wandb each cost one note, not the training.
"""

from __future__ import annotations

import json
import math
import netrc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, SupportsFloat, cast, get_args
from urllib.parse import urlsplit

from worldsim.files import one_line

ChosenMode = Literal["online", "offline", "disabled"]
WandbMode = Literal[ChosenMode, "auto"]

INIT_TIMEOUT_SECONDS = 15.0
FINISH_TIMEOUT_SECONDS = 60.0
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # the old home and the new one


def has_wandb_login() -> bool:
    """Tell whether wandb would find a key without asking: in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    named = os.environ.get("WANDB_BASE_URL")
    hosts = [urlsplit(named).netloc] if named else WANDB_HOSTS
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        logins = netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)


def choose_wandb_mode(wanted: WandbMode, note: Callable[[str], None]) -> ChosenMode:
    """Turn the mode that was asked for into one that cannot prompt.

    Args:
        wanted: ``auto`` follows ``WANDB_MODE`` where it is set, and else is online where a login
            is found and offline where there is none.
        note: Called with one sentence when ``online`` was asked for and there is no login.

    Returns:
        ``online``, ``offline`` or ``disabled``.

    Raises:
        ValueError: If the mode, asked for or in ``WANDB_MODE``, is none of these.
    """
    if wanted == "auto" and (named := os.environ.get("WANDB_MODE")):
        if named not in get_args(ChosenMode):
            raise ValueError(f"WANDB_MODE must be online, offline or disabled, got {named!r}")
        wanted = cast(ChosenMode, named)
    if wanted not in get_args(WandbMode):
        raise ValueError(f"wandb must be one of {', '.join(get_args(WandbMode))}, got {wanted!r}")
    if wanted == "auto":
        return "online" if has_wandb_login() else "offline"
    if wanted == "online" and not has_wandb_login():
        note("wandb: no login found (run `wandb login` once), so this run is logged offline")
        return "offline"
    return wanted


class RunLog:
    """Figures and videos of one run.

    Args:
        run_dir: The run's folder, made if it is missing. Figures are appended to its
            ``metrics.jsonl``, so a resumed run continues its own file; where steps overlap,
            the later line is the one that counts.
        config: What the run was started with, kept by wandb.
        wandb: ``auto`` is online when logged in and offline otherwise; ``disabled`` never
            imports wandb.
        name: The run's name in wandb.
        note: Called with the few sentences that a person should read.

    Raises:
        ValueError: If ``wandb`` is not one of the four modes.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        config: Mapping[str, Any],
        wandb: WandbMode = "auto",
        name: str | None = None,
        *,
        note: Callable[[str], None] = print,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.note = note
        mode = choose_wandb_mode(wandb, note)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.path = self.run_dir / "metrics.jsonl"
        _drop_unfinished_line(self.path)
        self._lines = self.path.open("a", encoding="utf-8")
        self._run = None if mode == "disabled" else self._start_wandb(mode, config, name)

    @property
    def mode(self) -> ChosenMode:
        """What wandb does now, after any falling back."""
        if self._run is None:
            return "disabled"
        return "offline" if self._run.offline else "online"

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
        self._send({**numbers, "step": step})

    def log_video(self, key: str, mp4_path: str | os.PathLike[str], step: int) -> None:
        """Hand a video file to wandb, which keeps a copy, and note its path in the JSON lines.

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
        if self._run is not None:
            import wandb

            self._send({key: wandb.Video(str(path), format="mp4"), "step": step})

    def finish(self, exit_code: int = 0) -> None:
        """Close the log; a second call does nothing.

        Args:
            exit_code: 0 when the run did what it should, which is what wandb then shows.
        """
        self._lines.close()
        run, self._run = self._run, None
        if run is None:
            return
        folder, offline = Path(run.settings.sync_dir), run.offline
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # wandb's own trouble must not look like the run's
            self.note(f"wandb: could not finish cleanly ({one_line(error)})")
            offline = True
        if offline:
            self.note(f"wandb: kept offline; `wandb sync {folder}` uploads it")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(exit_code=0 if error is None else 1)

    def _start_wandb(
        self, mode: ChosenMode, config: Mapping[str, Any], name: str | None
    ) -> Any | None:  # wandb.Run, which is not imported for a type alone
        try:
            import wandb
        except ImportError:
            self.note(
                "wandb is not installed, so figures go to metrics.jsonl alone; "
                "`pip install wandb` adds it"
            )
            return None
        settings = wandb.Settings(
            console="off",
            silent=True,
            login_timeout=1,
            init_timeout=INIT_TIMEOUT_SECONDS,
            finish_timeout=FINISH_TIMEOUT_SECONDS,
        )
        attempts: tuple[ChosenMode, ...] = (mode, "offline") if mode == "online" else (mode,)
        for attempt in attempts:
            try:
                run = wandb.init(
                    project="worldsim",
                    name=name,
                    id=self._run_id(),
                    resume="allow" if attempt == "online" else None,
                    config=dict(config),
                    dir=str(self.run_dir),
                    mode=attempt,
                    settings=settings,
                )
            except Exception as error:  # no key, no network, a full disk: log without it
                following = "offline" if attempt == "online" else "to metrics.jsonl alone"
                self.note(f"wandb: {one_line(error)}; this run is logged {following}")
                wandb.teardown()  # the failed attempt would keep the run's id in use
                continue
            # Figures are drawn over our own step: wandb's must never go back, and a run that
            # resumes from its last checkpoint does.
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            return run
        return None

    def _run_id(self) -> str:
        """One id for the run's folder, so that a resumed run continues its curves."""
        path = self.run_dir / "wandb_id.txt"
        if not path.exists():
            path.write_text(f"{time.time_ns():x}\n")
        return path.read_text().strip()

    def _send(self, values: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(dict(values))
        except Exception as error:  # a figure that wandb cannot take must not stop a run
            self._run = None
            self.note(f"wandb: {one_line(error)}; from here on figures go to metrics.jsonl alone")


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
    """Cut off what a killed run left after the last full line."""
    if not path.exists():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
