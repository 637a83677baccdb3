"""`worldsim train`: from a recording to a world, in one function that reads downward."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from worldsim.codec import PixelCodec
from worldsim.dit import VideoDiT
from worldsim.flow import ramp_weight
from worldsim.heads import RewardTerminationHead
from worldsim.held_out import HeldOutWindows, choose_windows, roll_out
from worldsim.metrics import action_shuffle_ratio, compare
from worldsim.recording import Recording, Windows
from worldsim.world_model import Losses, WorldModel

from .card import write_card, write_comparison
from .checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from .progress import TrainProgress, duration
from .run_log import RunLog, WandbMode

SIZES = {
    "tiny": {"width": 128, "depth": 6, "num_heads": 4, "num_kv_heads": 2},
    "small": {"width": 256, "depth": 9, "num_heads": 8, "num_kv_heads": 4},
    "base": {"width": 512, "depth": 12, "num_heads": 8, "num_kv_heads": 4},
}


EVAL_HORIZONS = (1, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a world on a recording; it can be played, stepped and evaluated at any time."""

    recording: tyro.conf.Positional[Path]
    """Folder written by `worldsim record`."""
    out: Path
    """Folder of the run: checkpoints, figures, videos."""
    minutes: float | None = None
    """How long to train, in minutes of wall clock; 30 if neither this nor --steps is given."""
    steps: int | None = None
    """How long to train, in optimizer steps; alternative to --minutes."""
    size: Literal["tiny", "small", "base"] = "tiny"
    """Size of the model: tiny for a CPU, small and base for a GPU."""
    resume: bool = False
    """Go on from the newest checkpoint in --out."""
    seed: int = 0
    """Seed of the weights, of the order of the data and of all noise."""
    wandb: WandbMode = "auto"
    """Online when logged in and offline otherwise (auto), or disabled."""
    device: str | None = None
    """Where to train, such as cuda or cpu; a GPU if there is one."""

    batch_size: int = 4
    """Windows in a step."""
    num_frames: int = 16
    """Frames of a window that are learned; also how far the world's attention reaches back."""
    patch_size: int = 8
    """Side of a patch in pixels: smaller is sharper and slower."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps until the learning rate has its peak."""
    decay_fraction: float = 0.4
    """Last part of the run, in which the learning rate falls to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are the world that is kept."""
    moving_weight: float = 10.0
    """Extra weight in the loss of pixels where something moves."""
    clean_fraction: float = 0.25
    """Fraction of frames trained at the clean level, as finished frames are in play."""
    history_noise: float = 0.1
    """Largest noise on the frames given as history, so that small errors do not grow."""
    action_dropout: float = 0.1
    """Fraction of actions hidden."""
    held_out: float = 0.1
    """Fraction of the recording, in whole episodes, kept for evaluation."""
    save_minutes: float = 5.0
    """Minutes between checkpoints."""
    evals: int = 3
    """Evaluations during the run, evenly spaced, beside the one at its end."""

    def command(self) -> str:
        """The command that makes this run: what differs from the defaults."""
        words = ["worldsim train", str(self.recording)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and field.name != "resume":
                words.append(f"--{field.name.replace('_', '-')} {value}")
        return " ".join(words)


def train(config: TrainConfig) -> Path:
    """Train a world.

    Args:
        config: The run.

    Returns:
        The last checkpoint, a world folder.

    Raises:
        ValueError: If the settings contradict one another or the recording does not serve.
        FloatingPointError: If the loss is no longer a number; the last checkpoint is kept.
    """
    steps, minutes = _check(config)

    # Data: whole episodes are held out.
    recording = Recording(config.recording)
    train_episodes, held_out_episodes = recording.split(config.held_out)

    # Model, its average, optimizer.
    torch.manual_seed(config.seed)
    world = build_world(config, recording, held_out_episodes)
    ema_world = copy.deepcopy(world).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in world.parameters() if p.ndim >= 2]},
            {"params": [p for p in world.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
    )

    # Resume.
    progress = Progress(step=0, seconds=0.0)
    checkpoints = list_checkpoints(config.out)
    if checkpoints and not config.resume:
        raise ValueError(
            f"{config.out} already holds a run ({checkpoints[-1].name}): add --resume to go on "
            "with it, or choose another --out"
        )
    if checkpoints:
        progress = load_checkpoint(checkpoints[-1], world, ema_world, optimizer)
    checkpoint = checkpoints[-1] if checkpoints else None

    log = RunLog(config.out, dataclasses.asdict(config), config.wandb, name=config.out.name)
    losses_since: list[Losses] = []
    since = started = time.monotonic()
    seconds_before, step = progress.seconds, progress.step
    last_save, evals_done = started, None
    with log, _stop_on_signal() as stopped, TrainProgress() as bar:
        while True:
            now = time.monotonic()
            seconds = seconds_before + now - started
            fraction = step / steps if steps else seconds / (60 * minutes)
            done = fraction >= 1 or stopped()

            if losses_since and (step % 50 == 0 or done):
                figures = summarize(losses_since)
                trained = len(losses_since) * config.batch_size * config.num_frames
                figures["frames_per_second"] = trained / (now - since)
                figures["lr"] = optimizer.param_groups[0]["lr"]
                log.log(figures, step)
                bar.show(fraction, step, figures)
                losses_since, since = [], now

            if done or now - last_save > 60 * config.save_minutes:
                progress = Progress(step, seconds)
                checkpoint = save_checkpoint(config.out, progress, world, ema_world, optimizer)
                last_save = now

            eval_due = int(fraction * (config.evals + 1))
            if evals_done is None:
                evals_done = eval_due
            if not done and eval_due > evals_done:
                bar.note(f"step {step}: evaluating")
                evaluate_run(ema_world, recording, held_out_episodes, log, step, 16)
                evals_done = eval_due
                since += time.monotonic() - now

            if done:
                break

            # ------------------------------------------------------------------ one step
            lr = config.lr * learning_rate_factor(
                fraction, step, config.warmup_steps, config.decay_fraction
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            data_rng = np.random.default_rng((config.seed, step))
            windows = recording.sample_windows(
                data_rng,
                config.batch_size,
                config.num_frames + world.num_history,
                train_episodes,
                left_padding=world.num_history,
            )
            generator = torch.Generator().manual_seed((config.seed << 32) + step)
            with torch.autocast(
                world.device.type, torch.bfloat16, enabled=world.device.type == "cuda"
            ):
                losses = world.losses(
                    windows,
                    generator,
                    moving_weight=config.moving_weight,
                    clean_fraction=config.clean_fraction,
                    history_noise=config.history_noise,
                    action_dropout=config.action_dropout,
                )
                loss = losses.mean(losses.frame * ramp_weight(losses.tau) + 0.02 * losses.head)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(world.parameters(), config.clip)
            if not math.isfinite(loss.item() + norm.item()):
                kept = f"the last good one is {checkpoint}" if checkpoint else "none was saved yet"
                raise FloatingPointError(
                    f"the loss is {loss.item()} and its gradient {norm.item()} at step {step}, so "
                    f"the run stops ({kept}); go on from it with --resume and a lower --lr than "
                    f"{config.lr}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_ema(ema_world, world, min(config.ema_decay, (1 + step) / (10 + step)))
            step += 1
            losses_since.append(Losses(*(part.detach() for part in losses)))
            # ---------------------------------------------------------------------------

        assert checkpoint is not None
        if not stopped():
            bar.note("evaluating the finished world on held-out episodes")
            shown = evaluate_run(ema_world, recording, held_out_episodes, log, step, 64)
            metrics, held_out_windows, imagined = shown
            facts = {
                "recording": describe_recording(recording),
                "command": f"`{config.command()}`",
                "length": f"{step:,} steps in {duration(seconds)} on {world.device.type}, "
                f"{torch.get_num_threads()} threads",
            }
            write_card(checkpoint, ema_world, held_out_windows, imagined, metrics, facts)
    return checkpoint


def _check(config: TrainConfig) -> tuple[int | None, float]:
    """The run's length: steps, or none and minutes."""
    if config.steps is not None and config.minutes is not None:
        raise ValueError(
            f"give --steps or --minutes, not both (got {config.steps} and {config.minutes})"
        )
    for name in ("steps", "minutes", "batch_size", "num_frames"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    return config.steps, config.minutes or 30.0


def build_world(config: TrainConfig, recording: Recording, held_out: Sequence[int]) -> WorldModel:
    """A fresh world for a recording, with start windows from its held-out episodes."""
    game = recording.game
    codec = PixelCodec(game.channels)
    dit = VideoDiT(
        num_actions=game.num_actions,
        latent_channels=codec.latent_channels,
        patch_size=config.patch_size,
        window=config.num_frames,
        **SIZES[config.size],
    )
    world = WorldModel(
        dit=dit,
        head=RewardTerminationHead(dit.config.width),
        codec=codec,
        game=game,
        starts=pick_starts(recording, held_out, config.num_frames, config.seed),
        background=recording.median_frame(),
    )
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return world.to(device)


def pick_starts(
    recording: Recording, episodes: Sequence[int], length: int, seed: int, num_starts: int = 32
) -> Windows:
    """Random windows that end before their episode does, so that there is play ahead."""
    rng = np.random.default_rng((seed, 0))
    chosen = rng.choice(episodes, num_starts)
    room = recording.episode_lengths[chosen] - length
    starts = [int(rng.integers(min(r, 0), max(r, 0) + 1)) for r in room]
    return recording.windows([int(i) for i in chosen], starts, length)


def learning_rate_factor(
    fraction: float, step: int, warmup_steps: int, decay_fraction: float
) -> float:
    """Linear warm-up, then flat, then linear decay to 0 over the last part of the run."""
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay = min(1.0, max(0.0, 1 - fraction) / decay_fraction) if decay_fraction else 1.0
    return warmup * decay


@torch.no_grad()
def update_ema(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's by ``1 - decay``."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def summarize(losses: Sequence[Losses]) -> dict[str, float]:
    """Mean losses, and the frame loss by noise level in four bins."""
    frame, head, tau, valid = (
        torch.cat(parts).flatten().cpu() for parts in zip(*losses, strict=True)
    )
    keep = valid > 0
    frame, head, tau = frame[keep], head[keep], tau[keep]
    figures = {"loss/frame": frame.mean().item(), "loss/head": head.mean().item()}
    for i in range(4):
        inside = (tau >= i / 4) & (tau < (i + 1) / 4)
        if inside.any():
            figures[f"loss/tau_{i / 4:.2f}"] = frame[inside].mean().item()
    return figures


def evaluate_run(
    world: WorldModel,
    recording: Recording,
    episodes: Sequence[int],
    log: RunLog,
    step: int,
    num_windows: int,
) -> tuple[dict[str, object], HeldOutWindows, np.ndarray]:
    """Roll the world out on held-out episodes; log figures and a video beside the real ones.

    Returns:
        The figures, the windows and the world's frames for them.
    """
    held_out = choose_windows(
        world, recording, episodes, horizons=EVAL_HORIZONS, num_windows=num_windows
    )
    imagined = roll_out(world, held_out)
    horizons = compare(imagined, held_out, world.background, EVAL_HORIZONS)
    ratio = action_shuffle_ratio(world, recording, episodes, num_batches=4)
    flat = {
        f"{kind}/{name}/{horizon}": value
        for horizon, kinds in horizons.items()
        for kind, values in kinds.items()
        for name, value in values.items()
    }
    log.log({**flat, "action_shuffle_ratio": ratio}, step)
    video = log.run_dir / "videos" / f"step_{step:08d}.mp4"
    log.log_video("rollout", write_comparison(video, held_out, imagined, world.game.fps), step)
    return {"horizons": horizons, "action_shuffle_ratio": ratio}, held_out, imagined


def describe_recording(recording: Recording) -> str:
    """How the recording was made, in a line."""
    settings = recording.metadata["worldsim"].get("settings", {})
    made = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{recording.total_steps:,} steps of {recording.game.env_id} ({made})"


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[object]:
    """Let the step under way end on Ctrl-C or SIGTERM; a second one interrupts at once."""
    received = []

    def receive(signum: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    previous = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def main(argv: Sequence[str]) -> int:
    """Run `worldsim train` with the given arguments; returns an exit status."""
    config = tyro.cli(TrainConfig, args=argv, prog="worldsim train")
    checkpoint = train(config)
    print(f"the world is in {checkpoint}; next: worldsim play {config.out}")
    return 0
