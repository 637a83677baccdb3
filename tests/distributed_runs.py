"""What `tests/test_distributed.py` runs under torchrun: small trainings, one after the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.test_train import make_config
from worldsim.train import presets
from worldsim.train.dynamics import train_on
from worldsim.train.processes import Processes

TINIER = {"width": 32, "depth": 3, "num_heads": 2, "num_kv_heads": 1}

if __name__ == "__main__":
    presets.SIZES["tiny"] = TINIER
    with Processes("cpu") as processes:
        for out, changes in json.loads(sys.argv[2]):
            train_on(processes, make_config(Path(sys.argv[1]), Path(out), **changes))
