"""Each example runs as it stands, from any folder, and says something at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "agent": ("--steps 64 --lanes 2", r"64 decisions in", "stable_baselines3"),
    "planner": ("--steps 8 --lanes 2 --horizon 8", "after 8 steps", ""),
    "own_recording": ("--minutes 0.05 --games 4", "worldsim play runs/catch", ""),
    "custom_policy": ("--steps 200", "worldsim train recordings/followed", ""),
}


def test_every_example_is_run() -> None:
    elsewhere = {"rllib"}  # in test_rllib.py, with the Gymnasium that it asks for
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHORT, *elsewhere}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_from_any_folder(name: str, tmp_path: Path) -> None:
    options, last_words, package = SHORT[name]
    if package:
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert last_words in done.stdout
