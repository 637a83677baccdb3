"""Help of every command: grouped, in plain letters, with examples that can be typed."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from worldsim.__main__ import COMMANDS
from worldsim.system.command_line import parse
from worldsim.system.help import help_text, is_hidden, sentences
from worldsim.system.options import options_of


def config_of(command: str) -> type:
    return getattr(import_module(COMMANDS[command].module), f"{command.capitalize()}Config")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_each_option_once_and_shows_examples_that_can_be_typed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    config, prog = config_of(command), f"worldsim {command}"
    everything, most = (help_text(config, prog, each) for each in (True, False))
    rows = [line.split()[0] for line in everything.splitlines() if re.match("  (--|[A-Z])", line)]
    rows = [row.replace("[no-]", "").rstrip(",") for row in rows]
    first = most.partition("more options")[0].replace("[no-]", "")
    for option in options_of(config):
        assert sentences(option.owner)[option.path[-1]].endswith("."), option.name
        assert rows.count(option.flag) == 1, option.name
        is_shown = re.search(rf"^  {re.escape(option.flag)}[ ,\n]", first, re.MULTILINE) is not None
        assert is_shown != is_hidden(option), option.name

    # What the examples read must be there.
    for name in ("photo.jpg", "drawing.png", "runs/pong/config.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    text, _, examples = most.partition("\nexamples:\n")
    assert max(map(len, text.splitlines())) <= 80
    assert len(examples.splitlines()) >= 2
    for example in examples.splitlines():
        words = shlex.split(example)
        assert words[:2] == prog.split()
        parse(config, words[2:], prog)


def test_help_of_training_shows_few_of_its_options() -> None:
    options = list(options_of(config_of("train")))
    assert sum(not is_hidden(option) for option in options) == 11
    assert len(options) > 30
