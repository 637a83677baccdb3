"""`worldsim codec`: from recordings to an autoencoder, in one function that reads downward."""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from worldsim.data.episodes import Episodes
from worldsim.data.opening import open_recordings
from worldsim.data.split import Split
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.autoencoder_sizes import Compression, make_autoencoder
from worldsim.system.devices import pick_device
from worldsim.system.interrupt import StopOnSignal

from .checkpoint import check_finite
from .codec_checkpoint import load_state, save_state
from .codec_config import CodecConfig
from .codec_objective import (
    CLIP_LATENTS,
    Crops,
    RunningStatistics,
    codec_loss,
    draw_crops,
    encode,
    statistics,
)
from .codec_report import describe, summary, write_report
from .data import median_frames
from .optim import Optim
from .optimizers import has_fast_bfloat16, make_optimizers, set_lr, update_ema, warm_decay
from .progress import TrainProgress
from .run_folder import alone
from .run_log import open_log

SAVE_SECONDS = 300.0
READ_SECONDS = 1.0
LOG_STEPS = 50
HELD_OUT_FRAMES = 192  # of the figures
STATISTICS_STEPS = 32  # whose crops give mean and deviation of the latents


class CodecData(NamedTuple):
    """What a codec learns from.

    Attributes:
        recordings: The recordings.
        trained_on: Numbers of the episodes of each that it learns from.
        held_out: Numbers of the others.
        backgrounds: The median frame of each.
    """

    recordings: list[Episodes]
    trained_on: list[tuple[int, ...]]
    held_out: list[tuple[int, ...]]
    backgrounds: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, config: CodecConfig) -> CodecData:
        """Open the recordings; the same episodes are held out as by `worldsim train`.

        Raises:
            OSError: If a file may not be read.
            ValueError: If a recording is damaged, or has one episode.
        """
        recordings = open_recordings(config.recordings)
        splits = [Split.of(each, config.training.held_out) for each in recordings]
        trained_on = [split.trained_on for split in splits]
        backgrounds, _ = median_frames(recordings, trained_on)
        return cls(recordings, trained_on, [split.held_out for split in splits], backgrounds)

    def held_out_clips(self, length: int) -> torch.Tensor:
        """Clips of the first recording's held-out episodes, uint8 (b length h w c)."""
        recording, episodes = self.recordings[0], np.array(self.held_out[0])
        last_starts = np.maximum(recording.episode_lengths[episodes] + 1 - length, 0)
        ends = np.cumsum(last_starts + 1)
        count = min(-(-HELD_OUT_FRAMES // length), int(ends[-1]))
        places = np.linspace(0, ends[-1] - 1, count).astype(np.int64)  # spread over all of them
        rows = np.searchsorted(ends, places, side="right")
        starts = places - (ends[rows] - last_starts[rows] - 1)
        return torch.from_numpy(
            recording.windows(episodes[rows].tolist(), starts.tolist(), length).frames
        )


def train_codec(config: CodecConfig) -> tuple[bool, int, float]:
    """Train a codec.

    Args:
        config: The settings of the command, checked.

    Returns:
        Whether it is finished, its steps, and the seconds that they took.

    Raises:
        ValueError: If a recording is unusable, or the folder holds another codec.
        OSError: If a file cannot be written.
        FloatingPointError: If a loss is not finite; the codec saved before is kept.
    """
    data = CodecData.of(config)
    device = pick_device(config.device)
    compression = Compression.parse(config.compression)
    training = config.training
    torch.manual_seed(config.seed)
    model = make_autoencoder(compression, data.recordings[0].game.channels).to(device)
    if compression.frames == 1:  # the memory layout in which few channels are fast
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False).eval()
    running = RunningStatistics(compression.channels).to(device)
    modules = {"weights": model, "average": average, "statistics": running}
    optim = Optim(lr=training.lr if compression.frames == 1 else 2 * training.lr)
    kernels = [each for each in model.parameters() if each.ndim > 1]
    optimizers = make_optimizers(model, kernels, optim.weight_decay)
    length = 1 if compression.frames == 1 else 1 + compression.frames * (CLIP_LATENTS - 1)

    def crops_of(*key: int) -> Crops:
        crops = draw_crops(
            data.recordings, data.trained_on, data.backgrounds, training, length, key
        )
        return Crops(*(each.to(device) for each in crops))

    def finished_codec() -> AutoencoderCodec:
        crops = [crops_of(config.seed, step, 2) for step in range(STATISTICS_STEPS)]
        return with_statistics(average, crops)

    with (
        alone(config.out),
        StopOnSignal() as stop,
        TrainProgress() as bar,
        open_log(config, bar.note) as log,
    ):
        progress = load_state(config.out, modules, optimizers)
        bar.note(describe(config, compression, data, model, progress))
        started = time.monotonic() - progress.seconds
        saved_at = read_at = progress.seconds
        values: list[torch.Tensor] = []
        unread: list[torch.Tensor] = []
        while True:
            progress = progress._replace(seconds=time.monotonic() - started)
            fraction = config.fraction(progress.step, progress.seconds)
            last = fraction >= 1 or stop.asked
            if values and (progress.step % LOG_STEPS == 0 or last):
                loss, error = torch.stack(values).mean(0).tolist()
                check_finite(loss, progress.step, None)
                values.clear()
                log.log({"loss": loss, "error": error}, progress.step)
            if last or progress.seconds - saved_at > SAVE_SECONDS:
                save_state(config.out, modules, optimizers, progress, config.settings())
                finished_codec().save(config.out)
                saved_at = progress.seconds
            if last:
                break
            set_lr(optimizers, optim.lr_at(progress.step, fraction))
            key = (config.seed, progress.step)
            with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
                loss, error = codec_loss(model, running, crops_of(*key), training, key)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            update_ema(average, model, warm_decay(training.ema_decay, progress.step))
            values.append(torch.stack((loss.detach(), error)))
            unread.append(values[-1])
            shown: list[float] = []
            if progress.seconds - read_at >= READ_SECONDS:  # reading waits for the device
                shown, read_at = torch.stack(unread)[:, 0].tolist(), progress.seconds
                unread.clear()
            progress = progress._replace(step=progress.step + 1)
            fraction = config.fraction(progress.step, time.monotonic() - started)
            bar.show(fraction, progress.step, shown, training.batch_size * length)
        if fraction >= 1:
            codec = finished_codec()
            clips = data.held_out_clips(length).to(device)
            figures = write_report(config, compression, codec, clips, data.backgrounds[0])
            log.log(figures.to_json(), progress.step)
            bar.note(summary(figures))
    return fraction >= 1, progress.step, progress.seconds


@torch.no_grad()
def with_statistics(average: nn.Module, crops: list[Crops]) -> AutoencoderCodec:
    """A codec whose latents have mean 0 and deviation 1 on some crops."""
    autoencoder: Any = copy.deepcopy(average)
    mean, std = statistics(torch.cat([encode(autoencoder, each.images) for each in crops]))
    # The last layer of the encoder takes them: the decoder has learned from normalised latents.
    last = autoencoder.encoder.conv_out
    weight, bias = (getattr(last, "conv", last).get_parameter(name) for name in ("weight", "bias"))
    num = mean.numel()  # those of video have a channel more, for a deviation that is not used
    weight[:num].div_(std.reshape(-1, *[1] * (weight.ndim - 1)))
    bias[:num].sub_(mean.flatten()).div_(std.flatten())
    return AutoencoderCodec(autoencoder)
