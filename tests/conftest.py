"""What every test needs before torch or pygame is first imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

# Tests are many and small: more threads only wait for one another, long on a busy machine.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    from tests.tiny_worlds import make_tiny_world

    return make_tiny_world()


@pytest.fixture(scope="module")
def mortal_world() -> WorldModel:
    """Its episodes terminate with a probability of about one half in each step."""
    from tests.tiny_worlds import make_tiny_world

    return make_tiny_world(termination_bias=0.0)


@pytest.fixture(scope="module")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_worlds import save_tiny_world

    return save_tiny_world(tmp_path_factory.mktemp("worlds") / "square")


@pytest.fixture
def tiny_is_tinier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs take a second: what a run does is the same at any size."""
    from worldsim.train import presets

    size = {"width": 32, "depth": 3, "num_heads": 2, "num_kv_heads": 1}
    monkeypatch.setitem(presets.SIZES, "tiny", size)


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs train in float32 on every CPU, where they are compared: bfloat16 rounds too much."""
    from tests.distributed_runs import BY_PRECISION, never

    for module in BY_PRECISION:
        monkeypatch.setattr(module, "has_fast_bfloat16", never)
