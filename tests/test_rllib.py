"""RLlib learns in a bundled world: with the Gymnasium that it asks for, an older one than ours."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rllib() -> Iterator[Path]:
    """A folder with RLlib and its Gymnasium, to be found before what is installed here."""
    with tempfile.TemporaryDirectory(prefix="rllib-") as folder:
        pins = (ROOT / "constraints.txt").read_text().splitlines()
        kept = [pin for pin in pins if not pin.startswith("gymnasium==")]
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(kept))
        pip = [sys.executable, "-m", "pip", "install", "-q", "ray[rllib]", "-c", str(constraints)]
        site = Path(folder, "site")
        done = subprocess.run(
            [*pip, "--target", str(site)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"RLlib cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        yield site


@pytest.mark.slow
def test_two_runners_play_in_worlds_of_their_own_and_ppo_learns_from_both(rllib: Path) -> None:
    home = rllib.parent  # RLlib writes results there
    env = {**os.environ, "PYTHONPATH": str(rllib), "HOME": str(home), "RAY_TMPDIR": str(home)}
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    options = ["--runners", "2", "--lanes", "4", "--steps", "256", "--horizon", "20"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "rllib.py"), *options],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    runners = re.findall(
        r"runner \d: WorldModelVectorEnv of 4 lanes on \w+, process (\d+) on ", done.stdout
    )
    assert len(set(runners)) == 2
    found = re.search(
        r"(\d+) decisions, \d+ a second, loss (\S+), mean imagined return (\S+) in (\d+) decisions",
        done.stdout,
    )
    assert found, done.stdout
    decisions, loss, mean_return, length = map(float, found.groups())
    assert decisions >= 256
    assert math.isfinite(loss)
    assert -5 <= mean_return <= 5
    assert 1 <= length <= 20
