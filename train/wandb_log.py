"""Log a run's figures in wandb, without letting wandb stop or delay the run."""

from __future__ import annotations

import netrc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from worldsim.system.files import one_line, read_text, write_text

ChosenMode = Literal["online", "offline", "disabled"]
WandbMode = Literal[ChosenMode, "auto"]

INIT_TIMEOUT_SECONDS = 15.0
FINISH_TIMEOUT_SECONDS = 60.0
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # the old home and the new one


def has_wandb_login() -> bool:
    """Whether wandb finds a key in the environment or in netrc, without a prompt."""
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
    """Choose a mode in which wandb does not prompt.

    Args:
        wanted: The requested mode. ``auto`` follows ``WANDB_MODE`` if it is set; otherwise it is
            online with a login and offline without.
        note: Called with a sentence if ``online`` was requested without a login.

    Returns:
        ``online``, ``offline`` or ``disabled``.

    Raises:
        ValueError: If ``wanted`` or ``WANDB_MODE`` is not a mode.
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


class WandbLog:
    """One run in wandb. Arguments that are not given follow wandb's environment variables.

    Args:
        run_dir: The run's folder, in which wandb keeps its files.
        config: The run's settings.
        mode: ``disabled`` never imports wandb.
        name: The run's name.
        project: Project; None takes ``WANDB_PROJECT``, or worldsim.
        entity: User or team; None takes ``WANDB_ENTITY``, or the logged-in user.
        tags: Tags; without any, ``WANDB_TAGS``.
        note: Called with sentences for the user.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Mapping[str, Any],
        mode: ChosenMode,
        name: str | None = None,
        *,
        project: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] = (),
        note: Callable[[str], None] = print,
    ) -> None:
        self._run_dir, self._note = run_dir, note
        self._init: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT") or "worldsim",
            "entity": entity,
            "tags": list(tags) or None,
            "name": name,
            "config": dict(config),
            "dir": str(run_dir),
        }
        self._run = None if mode == "disabled" else self._start(mode)

    @property
    def mode(self) -> ChosenMode:
        """The current mode, after any fallback."""
        if self._run is None:
            return "disabled"
        return "offline" if self._run.offline else "online"

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log figures."""
        self._send({**numbers, "step": step})

    def log_video(self, key: str, mp4_path: Path, step: int) -> None:
        """Log a video, of which wandb keeps a copy."""
        if self._run is not None:
            import wandb

            self._send({key: wandb.Video(str(mp4_path), format="mp4"), "step": step})

    def finish(self, exit_code: int) -> None:
        """Close the run; a second call does nothing."""
        run, self._run = self._run, None
        if run is None:
            return
        folder, offline = Path(run.settings.sync_dir), run.offline
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # an error of wandb must not look like one of the run
            self._note(f"wandb: could not finish cleanly ({one_line(error)})")
            offline = True
        if offline:
            self._note(f"wandb: kept offline; `wandb sync {folder}` uploads it")

    def _start(self, mode: ChosenMode) -> Any | None:  # wandb.Run, not imported only for a type
        try:
            import wandb
        except ImportError:
            self._note(
                "wandb is not installed, so figures go only to metrics.jsonl; "
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
                    id=self._run_id(),
                    resume="allow" if attempt == "online" else None,
                    mode=attempt,
                    settings=settings,
                    **self._init,
                )
            except Exception as error:  # no key, no network, a full disk: log without wandb
                following = "offline" if attempt == "online" else "only to metrics.jsonl"
                self._note(f"wandb: {one_line(error)}; this run is logged {following}")
                wandb.teardown()  # otherwise the failed attempt keeps the run's id in use
                continue
            # Plot figures over our own step: wandb's step must not decrease, but a resumed run's
            # does.
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            return run
        return None

    def _run_id(self) -> str:
        """One id for the run's folder, so that a resumed run continues its curves."""
        path = self._run_dir / "wandb_id.txt"
        if not path.exists():
            write_text(path, f"{time.time_ns():x}\n")
        return read_text(path).strip()

    def _send(self, values: dict[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(values)
        except Exception as error:  # an error of wandb must not stop a run
            self._run = None
            self._note(f"wandb: {one_line(error)}; figures are now logged without wandb")
