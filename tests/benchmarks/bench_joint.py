"""Where does joint training help? Worlds measured on recordings of several games and frame sizes.

Each world is fitted to each recording, see `worldsim.eval.held_out.fitted`: it gets the frame size,
and the recording the actions of a world of several games. So sizes that a world was not trained on
are measured too. PSNR on moving pixels at 1, 16 and 32 steps, beside the last frame copied.

    python tests/benchmarks/bench_joint.py runs/sizes runs/pong64 --on recordings/pong48 \\
        recordings/pong64 recordings/pong80
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import worldsim
from worldsim.data.recording import Recording
from worldsim.eval.fidelity import fidelity, with_baselines
from worldsim.eval.held_out import choose_windows, fitted, roll_out
from worldsim.eval.unseen import unseen

HORIZONS = (1, 16, 32)


def main() -> None:
    """Measure each world on each recording and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+")
    parser.add_argument("--on", nargs="+", required=True, help="recordings")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    config = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    print(
        "| recording | world | "
        + " | ".join(f"+{h}" for h in HORIZONS)
        + " |\n|---|---|---|---|---|"
    )
    for path in config.on:
        found[path] = {}
        for number, name in enumerate(config.worlds):
            world, recording = fitted(worldsim.load(name, "cpu"), Recording(path))
            if world.game.action_meanings != recording.game.action_meanings:
                continue  # of another game
            episodes = unseen([world], recording)
            background = recording.median_frame(episodes=episodes.reference)
            held_out = choose_windows(
                world, recording, episodes.unseen, horizons=(32,), num_windows=config.windows
            )
            frames = with_baselines(roll_out(world, held_out), held_out, background)
            rows = fidelity(frames, held_out, background, HORIZONS, with_ssim=False)
            kinds = ("copy_last", "world") if number == 0 else ("world",)
            for kind in kinds:
                values = [rows[h].psnr_moving[kind].value for h in HORIZONS]
                label = name if kind == "world" else "copy-last"
                found[path][label] = values
                cells = " | ".join(f"{value:.1f}" for value in values)
                print(f"| {path} | {label} | {cells} |", flush=True)
    if config.out is not None:
        config.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
