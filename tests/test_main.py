"""The command `worldsim`: what it teaches, and how it complains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import worldsim
from worldsim.__main__ import COMMANDS, main
from worldsim.system.extras import EXTRAS, find_extra

ROOT = Path(worldsim.__file__).parents[1]


def write_command(
    folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, name: str = "dream"
) -> None:
    """Add a real subcommand whose `main(argv)` has this body."""
    module = f"worldsim_test_{name}"
    (folder / f"{module}.py").write_text(f"def main(argv):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(COMMANDS, name, COMMANDS["demo"]._replace(module=module))


def test_help_lists_every_command_and_the_way_to_a_custom_game(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", text, re.MULTILINE)
    for example in ("worldsim record ALE/Pong-v5", "worldsim train recordings/pong"):
        assert example in text
    assert max(map(len, text.splitlines())) <= 80
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_help_runs_as_a_program_without_torch() -> None:
    script = (
        "import contextlib, sys\n"
        "from worldsim.__main__ import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'pygame', 'wandb', 'tyro', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['train', '--help-all'])\n"
        "heavy -= {'tyro', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_program_is_installed_and_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worldsim", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"worldsim {worldsim.__version__}\n"
    piped = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m worldsim --help | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert piped.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: worldsim {name} ")


def test_an_unknown_command_gets_a_spelling_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tran"]) == 2
    assert capsys.readouterr().err == "worldsim: no command named 'tran'; did you mean `train`?\n"
    assert main(["xyzzy"]) == 2
    assert "there are demo, record, train, play, eval" in capsys.readouterr().err


def test_a_command_gets_its_arguments_and_gives_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_command(tmp_path, "return len(argv)", monkeypatch)
    assert main(["dream", "--steps", "7"]) == 2
    assert main(["dream", "a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise ValueError('steps must be at least 1, got 0')", "steps must be at least 1, got 0"),
        ("open('/nowhere/at/all')", "[Errno 2] No such file or directory: '/nowhere/at/all'"),
        ("import gymnasium; gymnasium.make('Xqzjkw-v0')", "Environment `Xqzjkw` doesn't exist."),
    ],
)
def test_a_mistake_is_one_sentence(
    body: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WORLDSIM_TRACEBACK", raising=False)
    write_command(tmp_path, body, monkeypatch)
    assert main(["dream"]) == 2
    assert capsys.readouterr().err == f"worldsim: {sentence}\n"


def test_the_traceback_is_there_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_command(tmp_path, "raise ValueError('no')", monkeypatch)
    monkeypatch.setenv("WORLDSIM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no"):
        main(["dream"])


def test_a_fault_of_ours_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_command(tmp_path, "return {}['missing']", monkeypatch)
    with pytest.raises(KeyError):
        main(["dream"])
    write_command(tmp_path, "import not_a_module_at_all", monkeypatch, name="other")
    with pytest.raises(ModuleNotFoundError):
        main(["other"])


def test_ctrl_c_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_command(tmp_path, "raise KeyboardInterrupt", monkeypatch)
    assert main(["dream"]) == 130
    assert capsys.readouterr().err == ""


def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLDSIM_TRACEBACK", raising=False)
    write_command(tmp_path, "import pygame.font", monkeypatch)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pygame"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert main(["dream"]) == 2
    assert capsys.readouterr().err == (
        'worldsim: pygame is not installed: pip install "pygame-ce" '
        "(the extra 'play' of worldsim)\n"
    )


@pytest.mark.parametrize("module", [*EXTRAS, "ale_py", "vizdoom", "minigrid", "Box2D"])
def test_every_extra_that_is_named_brings_its_package(module: str) -> None:
    found = find_extra(module)
    assert found is not None
    package, extra = found
    declared = (ROOT / "pyproject.toml").read_text()
    assert re.search(rf'^{extra} = \[.*"{re.escape(package)}(?![\w-])', declared, re.MULTILINE)


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_asleep_unless_the_user_has_set_something(
    given: str | None, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == used
