"""Absurd values for every option of every command: status 2, one sentence, nothing begun."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.__main__ import COMMANDS, main
from worldsim.system.options import options_of

pytestmark = pytest.mark.slow

# What each command is given beside the option: it ends in a sentence even where the option is fine.
NOWHERE = {
    "demo": ["--world", "nowhere", "--no-window"],
    "record": ["Nowhere-v0"],
    "train": ["nowhere", "--out", "run"],
    "codec": ["nowhere", "--out", "run"],
    "play": ["nowhere", "--headless", "--steps", "1"],
    "eval": ["nowhere", "nowhere"],
    "probe": ["motion", "--episodes", "1", "--device", "nowhere"],
    "agent": ["nowhere", "--out", "run"],
    "bench": ["nowhere"],
    "animate": ["nowhere.png"],
    "imagine": ["words", "--model", "nowhere"],
    "cost": ["nowhere"],
}
ABSURD = [
    *("0", "-1", "1e400", "1e-320", "nan", "-inf", "9" * 20, "9" * 5000, "x", "x" * 5000),
    *("", "\N{ROCKET}", "a\x1b[2Jb", "\0", "\n", "\udcff", "None", "../..", "%s", "nowhere/at/all"),
]
# No word that names a module to import, a model on the Hub, or a file of this machine.
WORDS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="/:~."), max_size=50),
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.delenv("WORLDSIM_TRACEBACK", raising=False)


def flags_of(command: str) -> list[str]:
    config = getattr(import_module(COMMANDS[command].module), f"{command.capitalize()}Config")
    return [f"--{option.name.replace('_', '-')}" for option in options_of(config)]


def refuse(words: list[str]) -> None:
    """Run a command that cannot do anything, and see that it says so and leaves nothing."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status, is_ours = main(words), True
        except SystemExit as stopped:  # by the parser, whose message has a frame
            status, is_ours = stopped.code, False
    assert status == 2, words
    if is_ours:
        (line,) = said.getvalue().splitlines()
        assert line.startswith("worldsim: "), words
        assert line.isprintable(), words
    assert not list(Path().iterdir()), words


def test_every_command_has_words_that_lead_nowhere() -> None:
    assert set(NOWHERE) == set(COMMANDS)
    for command, words in NOWHERE.items():
        refuse([command, *words])


@pytest.mark.parametrize("command", COMMANDS)
def test_absurd_values_of_every_option(command: str) -> None:
    for option in flags_of(command):
        for value in ABSURD:
            refuse([command, *NOWHERE[command], option, value])
            if value.startswith("-") or not value:
                refuse([command, *NOWHERE[command], f"{option}={value}"])


@pytest.mark.parametrize("command", COMMANDS)
def test_any_values_of_any_options(command: str) -> None:
    options = st.tuples(st.sampled_from(flags_of(command)), WORDS)

    @settings(derandomize=True, database=None, max_examples=40, deadline=None)
    @given(st.lists(options, min_size=1, max_size=3))
    def try_them(chosen: list[tuple[str, str]]) -> None:
        refuse([command, *NOWHERE[command], *(word for pair in chosen for word in pair)])

    try_them()
