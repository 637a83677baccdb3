"""Evaluation of a run's world: figures, a comparison video, and the model card."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange

from worldsim.data.episodes import Episodes
from worldsim.data.recording import Recording
from worldsim.eval import events
from worldsim.eval.control import action_shuffle_ratio
from worldsim.eval.fidelity import HorizonScores, fidelity, with_baselines
from worldsim.eval.held_out import HeldOutWindows, choose_windows, roll_out
from worldsim.eval.report.events import EventsSection
from worldsim.eval.report.flicker import FlickerSection
from worldsim.model.codec import PixelCodec
from worldsim.system.files import printable, write_json, write_text
from worldsim.world_model import WorldModel

from .data import Data
from .objective import Losses
from .run_log import RunLog

EVAL_HORIZONS = (1, 8, 16, 32)
FLICKER_WINDOWS, FLICKER_STEPS = 6, 16
EVENT_STRETCHES = 64


class Evaluation(NamedTuple):
    """Measures of a world on held-out episodes.

    Attributes:
        horizons: Fidelity by horizon; moving pixels differ from the world's background.
        action_shuffle_ratio: Error under other actions divided by the error under the true ones.
        flicker: Warping errors.
        events: Rewards and ends.
        held_out: The recorded windows.
        imagined: The world's frames for the same actions, uint8 (b t h w c).
    """

    horizons: dict[int, HorizonScores]
    action_shuffle_ratio: float
    flicker: FlickerSection
    events: EventsSection
    held_out: HeldOutWindows
    imagined: np.ndarray

    def summary(self) -> str:
        """The most important figures in one line."""
        horizon = 16 if 16 in self.horizons else max(self.horizons)
        moving = self.horizons[horizon].psnr_moving
        return (
            f"moving pixels after {horizon} steps: {moving['world'].value:.1f} dB "
            f"(copy-last {moving['copy_last'].value:.1f}, background "
            f"{moving['median'].value:.1f}); action-shuffle ratio "
            f"{self.action_shuffle_ratio:.2f}"
        )

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return {
            "horizons": {str(horizon): flat_scores(row) for horizon, row in self.horizons.items()},
            "action_shuffle_ratio": self.action_shuffle_ratio,
            "flicker": self.flicker.to_json(),
            "events": self.events.to_json(),
        }


def flat_scores(row: HorizonScores) -> dict[str, float]:
    """The values of a horizon by names such as ``psnr_moving_world``."""
    figures = {"moving_fraction": row.moving_fraction}
    for name in row.psnr:
        figures[f"psnr_{name}"] = row.psnr[name].value
        figures[f"psnr_moving_{name}"] = row.psnr_moving[name].value
    return figures


def evaluate_run(
    world: WorldModel,
    data: Data,
    log: RunLog,
    step: int,
    num_windows: int,
    on_step: Callable[[float], None],
) -> Evaluation:
    """Roll the world out on held-out episodes of the first recording; log figures and a video.

    Args:
        world: The world, with its held-out episodes.
        data: What it is trained on.
        log: Receives the figures, under names such as ``horizon_16/psnr_moving_world``.
        step: The optimizer step of the figures.
        num_windows: Number of windows, at most.
        on_step: Called now and then with the finished share, in [0, 1]; may raise to stop.
    """
    # Fidelity and control on held-out windows.
    recording, split = data.parts[0]
    episodes, background = split.held_out, data.backgrounds[data.recordings.index(recording)]
    held_out = choose_windows(
        world, recording, episodes, horizons=EVAL_HORIZONS, num_windows=num_windows
    )
    done = itertools.count(1)
    total = held_out.horizon + events.num_batches(EVENT_STRETCHES)

    def advance() -> None:
        on_step(min(1.0, next(done) / total))

    imagined = roll_out(world, held_out, on_step=advance)
    predictions = with_baselines(imagined, held_out, background)
    horizons = fidelity(predictions, held_out, background, EVAL_HORIZONS, with_ssim=False)
    ratio = action_shuffle_ratio(world, recording, episodes, num_batches=4).overall
    figures = {
        f"horizon_{horizon}/{name}": value
        for horizon, row in horizons.items()
        for name, value in flat_scores(row).items()
    }
    # Flicker on some of the same windows, events on stretches of other lengths.
    flicker = FlickerSection.of(held_out.first(FLICKER_WINDOWS, FLICKER_STEPS), imagined)
    predicted = events.summarize(
        events.predict(world, recording, episodes, num_stretches=EVENT_STRETCHES, on_step=advance)
    )
    figures |= {
        "action_shuffle_ratio": ratio,
        "flicker/warping_error": flicker.found.warping_error_world.value,
        "flicker/ratio": flicker.found.ratio,
        "events/f1_gains": predicted.reward_positive.f1,
        "events/f1_losses": predicted.reward_negative.f1,
        "events/f1_ends": predicted.termination.f1,
    }
    log.log(figures, step)
    video = log.run_dir / "videos" / f"step_{step:08d}.mp4"
    log.log_video("rollout", write_comparison(video, held_out, imagined, world.game.fps), step)
    return Evaluation(horizons, ratio, flicker, EventsSection(predicted), held_out, imagined)


def summarize(losses: Sequence[Losses]) -> dict[str, float]:
    """Mean losses, and the frame loss by noise level in four bins."""
    frame, head, tau, valid, chance = (
        torch.cat(parts).flatten().cpu() for parts in zip(*losses, strict=True)
    )
    keep = valid > 0
    frame, head, tau, chance = frame[keep], head[keep], tau[keep], chance[keep]
    figures = {
        "loss/frame": frame.mean().item(),
        "loss/head": head.mean().item(),
        "loss/chance": chance.mean().item(),
    }
    for i in range(4):
        inside = (tau >= i / 4) & (tau < (i + 1) / 4)
        if inside.any():
            figures[f"loss/tau_{i / 4:.2f}"] = frame[inside].mean().item()
    return figures


def describe_run(world: WorldModel, data: Data) -> str:
    """The model and its data in one line."""
    millions = num_trained(world) / 1e6
    steps = sum(recording.total_steps for recording in data.recordings)
    pictures = sum(len(one) for one in data.recordings if not isinstance(one, Recording))
    codec = "" if isinstance(world.codec, PixelCodec) else f", codec {world.codec.describe()}"
    return (
        f"{millions:.1f}M parameters on {world.device.type}{codec}, {steps:,} steps of "
        f"{data.game.env_id}, {f'{pictures:,} pictures, ' if pictures else ''}"
        f"{len(data.split.held_out):,} of {len(data.split.episodes):,} episodes held out"
    )


def num_trained(world: WorldModel) -> int:
    """The number of a world's parameters without those of its codec, which is frozen."""
    named = world.named_parameters()
    return sum(each.numel() for name, each in named if not name.startswith("codec."))


def describe_recording(recording: Episodes) -> str:
    """The recording and its settings in one line."""
    if not isinstance(recording, Recording):
        return f"{len(recording):,} pictures"
    made = ", ".join(f"{name} {value}" for name, value in recording.settings.items())
    steps = f"{recording.total_steps:,} steps of {recording.game.env_id}"
    return f"{steps} ({made})" if made else steps


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
    from worldsim.media import write_mp4  # only evaluations need the encoder

    both = np.stack((held_out.real[:4], imagined[:4]))
    return write_mp4(path, rearrange(both, "rows b t h w c -> t (rows h) (b w) c"), fps, scale=4)


def write_card(
    checkpoint: Path, world: WorldModel, evaluation: Evaluation, facts: Mapping[str, str]
) -> None:
    """Write figures, a filmstrip and, last, the model card into a finished checkpoint.

    Args:
        checkpoint: The world's folder.
        world: The world.
        evaluation: Its measures, written as ``metrics.json``.
        facts: Lines about the training by name, such as its command.
    """
    from worldsim.media import filmstrip

    held_out, imagined = evaluation.held_out, evaluation.imagined
    steps = [i for i in (0, 1, 3, 7, 11, 15, 19, 23, 27, 31) if i < held_out.horizon]
    rows = []
    for window in range(min(3, len(imagined))):
        rows += [held_out.real[window, steps], imagined[window, steps]]
    filmstrip(
        rows,
        checkpoint / "filmstrip.png",
        labels=["real", "world"] * (len(rows) // 2),
        column_labels=[f"+{i + 1}" for i in steps],
    )
    write_json(checkpoint / "metrics.json", evaluation.to_json())
    write_text(checkpoint / "README.md", printable(card_text(world, evaluation, facts)))


def has_card(checkpoint: Path) -> bool:
    """Whether a checkpoint is the last one of a finished run."""
    card = checkpoint / "README.md"
    return card.is_file() and card.stat().st_size > 0


def card_text(world: WorldModel, evaluation: Evaluation, facts: Mapping[str, str]) -> str:
    """The model card as Markdown, with the header that model hubs read."""
    game, p = world.game, world.patch_frames
    h, w = game.frame_size
    frames = "the next frame, its reward"
    if p > 1:
        frames = f"the next {p} frames together, for which the action is held, their reward"
    table = "\n".join(
        f"| {horizon} | "
        + " | ".join(
            f"{scores[name].value:.1f}"
            for scores in (row.psnr_moving, row.psnr)
            for name in ("world", "copy_last", "median")
        )
        + " |"
        for horizon, row in evaluation.horizons.items()
    )
    about = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
library_name: worldsim
license: apache-2.0
tags: [world-model, video-diffusion, gymnasium]
---

# A world of {game.env_id}

A causal video diffusion transformer of {num_trained(world) / 1e6:.1f}M \
parameters for {game.env_id}, {h}x{w} pixels. From the last frames and an action it predicts \
{frames} and the end of the episode, in {world.num_passes} denoising \
pass{"es" if world.num_passes > 1 else ""}.

```python
import gymnasium

env = gymnasium.make("worldsim/WorldModel-v0", world="PATH OF THIS FOLDER")
```

`worldsim play PATH` opens it in a window. Actions: {", ".join(game.action_meanings)}.

## Training

{about}

## Figures

PSNR in dB on held-out episodes, rolled out under the recorded actions. Two baselines: copy-last
repeats the last given frame; background is the median frame of the training episodes. Moving pixels
are those where the real frame or the last given frame differs from the background.

| step | moving: world | copy-last | background | all: world | copy-last | background |
|---|---|---|---|---|---|---|
{table}

Action-shuffle ratio (error under other actions divided by the error under the true ones): \
{evaluation.action_shuffle_ratio:.2f}. Flicker: {evaluation.flicker.verdict()} Events: \
{evaluation.events.verdict()} `worldsim eval` measures more.

![The real game above, the world below, under the same actions](filmstrip.png)
"""
