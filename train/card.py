"""What a run shows of its world: a video beside the real game, a filmstrip and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange

from worldsim.held_out import HeldOutWindows
from worldsim.video import filmstrip, write_mp4
from worldsim.world_model import WorldModel


def write_comparison(
    path: Path, held_out: HeldOutWindows, imagined: np.ndarray, fps: float
) -> Path:
    """Write a video of four held-out windows: the real game above, the world below.

    Args:
        path: The mp4 to write.
        held_out: Recorded windows.
        imagined: The world's frames for the same actions, uint8 (b t h w c).
        fps: Frames per second.

    Returns:
        The path written.
    """
    both = np.stack((held_out.real[:4], imagined[:4]))
    return write_mp4(path, rearrange(both, "rows b t h w c -> t (rows h) (b w) c"), fps, scale=4)


def write_card(
    checkpoint: Path,
    world: WorldModel,
    held_out: HeldOutWindows,
    imagined: np.ndarray,
    metrics: Mapping[str, object],
    facts: Mapping[str, str],
) -> None:
    """Put figures, a filmstrip and the model card into a finished checkpoint.

    Args:
        checkpoint: The world's folder.
        world: The world.
        held_out: Recorded windows.
        imagined: The world's frames for the same actions, uint8 (b t h w c).
        metrics: What was measured, kept as ``metrics.json``.
        facts: Lines about the training, such as its command.
    """
    shown = [i for i in (0, 1, 3, 7, 11, 15, 19, 23, 27, 31) if i < held_out.horizon]
    rows = []
    for window in range(min(3, len(imagined))):
        rows += [held_out.real[window, shown], imagined[window, shown]]
    filmstrip(
        rows,
        checkpoint / "filmstrip.png",
        labels=["real", "world"] * (len(rows) // 2),
        column_labels=[f"+{i + 1}" for i in shown],
    )
    _write(checkpoint / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write(checkpoint / "README.md", card_text(world, metrics, facts))


def card_text(world: WorldModel, metrics: Mapping[str, object], facts: Mapping[str, str]) -> str:
    """The model card as Markdown, with the header that model hubs read."""
    game = world.game
    h, w = game.frame_size
    horizons: Mapping[object, Mapping[str, Mapping[str, float]]] = metrics["horizons"]  # type: ignore[assignment]
    table = "\n".join(
        f"| {horizon} | "
        + " | ".join(
            f"{row[kind][name]:.1f}"
            for kind in ("psnr_moving", "psnr")
            for name in ("world", "copy_last", "median")
        )
        + " |"
        for horizon, row in horizons.items()
    )
    about = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
library_name: worldsim
license: apache-2.0
tags: [world-model, video-diffusion, gymnasium]
---

# A world of {game.env_id}

A causal video diffusion transformer of {sum(p.numel() for p in world.parameters()) / 1e6:.1f}M \
parameters that plays {game.env_id} from {h}x{w} frames: given the last frames and an action it \
makes the next frame, its reward and whether the episode ends, in {world.num_passes} denoising \
passes.

```python
import gymnasium

env = gymnasium.make("worldsim/WorldModel-v0", world="PATH OF THIS FOLDER")
```

`worldsim play PATH` opens it in a window. Actions: {", ".join(game.action_meanings)}.

## Training

{about}

## Figures

PSNR in dB on held-out episodes, rolled out under the recorded actions; copy-last repeats the last
frame given, median is the recording's median frame. Moving pixels are those where the real frame
or the last one given differs from the median frame.

| step | moving: world | copy-last | median | all: world | copy-last | median |
|---|---|---|---|---|---|---|
{table}

Action-shuffle ratio (loss under other actions over loss under the true ones): \
{metrics["action_shuffle_ratio"]:.2f}

![The real game above, the world below, under the same actions](filmstrip.png)
"""


def _write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    aside.rename(path)
