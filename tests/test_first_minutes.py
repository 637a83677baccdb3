"""Mistakes in options and paths are said at once, before torch or anything slow is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_worlds import write_tiny_recording

HEAVY = ["torch", "diffusers", "transformers", "torchmetrics", "matplotlib", "stable_baselines3"]
MISTAKES = [
    ("train nowhere --out run", "nowhere is not a recording"),
    ("train square --out begun", "already holds a run (step_00000001): add --resume"),
    ("train square --out begun --resume", "there is no begun/step_00000001/training.json"),
    ("train square --out run --steps 0", "--steps must be a whole number"),
    ("train square --out run --steps 5 --minutes 1", "give --steps or --minutes, not both"),
    ("agent nowhere --out agent", "no world at 'nowhere'"),
    ("agent pong --out agent --num-envs 3", "--num-envs must be a divisor of 1,024"),
    ("eval nowhere square", "no world at 'nowhere'"),
    ("eval pong nowhere", "nowhere is not a recording"),
    ("eval pong square --windows 0", "--windows must be a whole number"),
    ("bench nowhere", "no world at 'nowhere'"),
    ("bench pong --seconds 0", "--seconds must be a number above 0"),
    ("probe motion --questions 1", "--questions must be a whole number"),
    ("play nowhere", "no world at 'nowhere'"),
    ("play pong --headless", "give the steps with --steps"),
    ("demo --world nowhere --no-window", "no world at 'nowhere'"),
    ("record worldsim/Pnog-v0", "Pnog"),
    ("imagine a-ball --seconds 0", "--seconds must be a number above 0"),
    ("animate nowhere.png", "nowhere.png"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each command says, its exit status and the heavy modules that it has imported."""
    folder = tmp_path_factory.mktemp("first")
    write_tiny_recording(folder / "square", steps=12, episodes=2)
    (folder / "begun" / "step_00000001").mkdir(parents=True)
    script = (
        "import contextlib, io, json, sys\n"
        "from worldsim.__main__ import main\n"
        "said = {}\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as errors:\n"
        "        status = main(command.split())\n"
        "    heavy = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))\n"
        "    said[command] = [errors.getvalue(), str(status), ' '.join(heavy)]\n"
        "print(json.dumps(said))\n"
    )
    commands = json.dumps([command for command, _ in MISTAKES])
    done = subprocess.run(
        [sys.executable, "-c", script, commands, json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    left = {path.name for path in folder.iterdir()}
    assert left == {"begun", "square"}, "a mistake leaves nothing behind"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("command", "words"), MISTAKES)
def test_a_mistake_is_reported_before_anything_slow(
    command: str, words: str, said: dict[str, list[str]]
) -> None:
    sentence, status, heavy = said[command]
    assert (status, heavy) == ("2", "")
    assert words in sentence
    assert sentence.startswith("worldsim: ")
    assert sentence.count("\n") == 1


def test_every_command_explains_itself_without_anything_slow() -> None:
    from worldsim.__main__ import COMMANDS

    script = (
        "import sys\n"
        "from importlib import import_module\n"
        "for module in sys.argv[2:]:\n"
        "    import_module(module)\n"
        "sys.exit(' '.join(set(sys.argv[1].split()) & set(sys.modules)))\n"
    )
    modules = [command.module for command in COMMANDS.values()]
    done = subprocess.run(
        [sys.executable, "-c", script, " ".join(HEAVY), *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == ""


def test_a_load_imports_torch_and_nothing_else_that_is_slow() -> None:
    script = (
        "import sys, worldsim\n"
        "print(worldsim.load('pong'))\n"
        "sys.exit(' '.join(set(sys.argv[1].split()) & set(sys.modules)))\n"
    )
    slow = " ".join([*HEAVY[1:], "torch._dynamo", "sympy", "av", "cv2", "pygame"])
    done = subprocess.run(
        [sys.executable, "-c", script, slow], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
    assert done.stdout.startswith("WorldModel(game='worldsim/Pong-v0'")


@pytest.mark.slow
def test_nothing_that_is_missing_on_windows_is_imported() -> None:
    root = Path(__file__).parents[1]
    modules = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for folder in ("worldsim", "envs", "train", "play")
        for path in (root / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    script = (
        "import sys\n"
        "from importlib import import_module\n"
        "ours = [name if name.startswith('worldsim.') else f'worldsim.{name}'"
        " for name in sys.argv[1:]]\n"
        "for name in ours:\n"  # third parties first: they have their own ways on Windows
        "    import_module(name)\n"
        "for name in ours:\n"
        "    del sys.modules[name]\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "for name in ours:\n"
        "    import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
