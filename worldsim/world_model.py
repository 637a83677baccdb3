"""WorldModel: the network, the codec and all that a world needs to be played without its data.

On disk a world is a folder, with no pickle in it::

    config.json         the game (ids, frame size, actions, keys) and the default passes
    model/              VideoDiT, as diffusers' from_pretrained reads it
    head.safetensors    reward and termination
    codec/              a diffusers VAE, for large frames only
    starts.h5           recorded windows to begin from, and the recording's median frame
    metrics.json        figures measured when it was trained
    README.md           the model card
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from worldsim.codec import Codec, load_codec, save_codec
from worldsim.damage import damage_past
from worldsim.dit import DiTOutput, VideoDiT
from worldsim.flow import add_noise, frame_errors, sample_tau
from worldsim.game import GameConfig
from worldsim.heads import RewardTerminationHead
from worldsim.moving import moving_places
from worldsim.recording import Windows

BUNDLED = Path(__file__).parent / "worlds"
FORMAT = 3  # of the folder and of the network in it


class _OtherFormatError(ValueError):
    """A world written by another version."""


class Losses(NamedTuple):
    """Losses of each frame of a batch (b t); frames that are padding count 0.

    Attributes:
        frame: Squared error of the predicted clean frame, unweighted by level.
        head: Cross-entropy of reward and termination.
        tau: Noise level of each frame.
        valid: 1 where the frame is recorded, 0 where it is padding.
    """

    frame: torch.Tensor
    head: torch.Tensor
    tau: torch.Tensor
    valid: torch.Tensor

    def mean(self, per_frame: torch.Tensor) -> torch.Tensor:
        """Mean of a (b t) quantity over the frames that are not padding."""
        return (per_frame * self.valid).sum() / self.valid.sum().clamp_min(1)


class WorldModel(nn.Module):
    """An action-conditioned world: predicts the next frame, its reward and whether it ends.

    Args:
        dit: The denoiser.
        head: Reward and termination.
        codec: Frames to latents.
        game: What the world is a model of.
        starts: Recorded windows to begin from.
        background: The recording's median frame, uint8 (h w c); what differs from it moves.
        num_passes: Denoising passes a frame unless asked otherwise.
        metrics: Figures measured when it was trained.
        card: The model card, Markdown.
    """

    still: torch.Tensor

    def __init__(
        self,
        *,
        dit: VideoDiT,
        head: RewardTerminationHead,
        codec: Codec,
        game: GameConfig,
        starts: Windows,
        background: np.ndarray,
        num_passes: int = 2,
        metrics: dict[str, object] | None = None,
        card: str = "",
    ) -> None:
        super().__init__()
        self.dit, self.head, self.codec = dit, head, codec
        self.game, self.starts, self.background = game, starts, background
        still = codec.encode(torch.from_numpy(background)[None, None])
        self.register_buffer("still", still, persistent=False)
        self.num_passes = num_passes
        self.metrics = metrics or {}
        self.card = card

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map uint8 frames (b t h w c) to what the denoiser reads: latents (b t c h w).

        They are relative to the median frame's: what never moves is 0 and need not be learned.
        """
        return self.codec.encode(frames) - self.still

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t h w c)."""
        return self.codec.decode(latents + self.still)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dit.device

    @property
    def window(self) -> int:
        """Frames that the world remembers, the one under way included."""
        return self.dit.config.window

    @property
    def num_history(self) -> int:
        """Frames before a window's first target that training needs."""
        return self.dit.config.num_history

    def history(self, latents: torch.Tensor) -> torch.Tensor:
        """The frames before each frame but the first ``num_history``, newest first.

        Args:
            latents: (b num_history + t c h w).

        Returns:
            (b t num_history * c h w).
        """
        k = self.num_history
        t = latents.shape[1] - k
        return torch.cat([latents[:, k - 1 - i : k - 1 - i + t] for i in range(k)], dim=2)

    def losses(
        self,
        windows: Windows,
        generator: torch.Generator,
        *,
        moving_weight: float = 0.0,
        presence: float = 0.6,
        clean_fraction: float = 0.0,
        noise_fraction: float = 0.0,
        history_noise: float = 0.0,
        own_history: float = 0.0,
        damaged_history: float = 0.0,
        action_dropout: float = 0.0,
    ) -> Losses:
        """Train on recorded windows: every frame after the first ``num_history`` is a target.

        Args:
            windows: Recorded windows of ``num_history + t`` frames.
            generator: Source of every random draw, on the CPU.
            moving_weight: Extra weight of the places where something moves.
            presence: How much of it lies where something is, see ``worldsim.moving``.
            clean_fraction: Fraction of frames at the clean level, as a session's first ones are.
            noise_fraction: Fraction of frames made of nothing but noise, as new ones are.
            history_noise: Largest standard deviation of noise on the frames given as history.
            own_history: Fraction of windows whose history is what the model itself makes of the
                frames, as it will be in play (scheduled sampling in parallel, Mihaylova & Martins
                2019), so that it learns to mend its own errors. Costs another forward pass.
            damaged_history: Fraction of windows in whose history something is missing or does not
                belong, see ``worldsim.damage``.
            action_dropout: Fraction of actions hidden.

        Returns:
            Losses of each target frame.
        """
        k, device = self.num_history, self.device
        frames = torch.from_numpy(windows.frames).to(device)
        latents = self.encode(frames)
        seen, targets = latents, latents[:, k:]
        b, t = targets.shape[:2]

        def normal(like: torch.Tensor) -> torch.Tensor:
            return torch.randn(like.shape, generator=generator).to(device)

        tau = sample_tau(b, t, clean_fraction, noise_fraction, generator).to(device)
        noisy = add_noise(targets, normal(targets), tau)
        actions = torch.from_numpy(windows.actions[:, k - 1 :]).to(device)
        if action_dropout:
            hidden = torch.rand((b, t), generator=generator).to(device) < action_dropout
            actions = actions.masked_fill(hidden, self.game.num_actions)
        if own_history:
            own = (torch.rand(b, generator=generator) < own_history).nonzero()[:, 0].to(device)
            if len(own):
                recorded = self.history(latents[own])
                made = self.make_frames(noisy[own], tau[own], actions[own], recorded)
                made = torch.cat((latents[own, :k], made.to(latents.dtype)), dim=1)
                seen = seen.index_copy(0, own, made)
        erased = None
        if damaged_history:
            seen, erased = damage_past(seen, latents, damaged_history, generator)
        history = self.history(seen)
        if history_noise:
            sigma = history_noise * torch.rand((b, t, 1, 1, 1), generator=generator).to(device)
            history = history + sigma * normal(history)
        output: DiTOutput = self.dit(noisy, tau, actions, history)

        weights = None
        if moving_weight:
            size = targets.shape[-2], targets.shape[-1]
            background = torch.from_numpy(self.background).to(device)
            places = moving_places(frames, background, size, presence)[:, k:]
            if erased is not None:  # where nothing is seen, what is there may be anywhere
                places = torch.maximum(places, (1 - presence) * erased[:, k - 1 : -1])
            weights = 1 + moving_weight * places
            weights = weights / weights.mean()
        rewards = torch.from_numpy(windows.rewards[:, k - 1 :]).to(device)
        terminations = torch.from_numpy(windows.terminations[:, k - 1 :]).to(device)
        return Losses(
            frame=frame_errors(output.latents, targets, weights),
            head=self.head.loss(self.head(output.features), rewards, terminations),
            tau=tau,
            valid=torch.from_numpy(windows.valid[:, k:]).to(device).float(),
        )

    @torch.no_grad()
    def make_frames(
        self,
        noisy_latents: torch.Tensor,
        tau: torch.Tensor,
        actions: torch.Tensor,
        history: torch.Tensor,
    ) -> torch.Tensor:
        """What one pass makes of noisy frames, as a rollout would show and remember it.

        Args and result are those of ``VideoDiT``: latents (b t c h w).
        """
        made = self.dit(noisy_latents, tau, actions, history).latents
        return self.encode(self.decode(made)) if self.codec.exact else made

    @torch.no_grad()
    def dynamics_errors(
        self, windows: Windows, generator: torch.Generator, actions: np.ndarray | None = None
    ) -> torch.Tensor:
        """Error of the last frame of each window, foretold as in play.

        One pass makes it from pure noise, after a clean past: at other levels the noisy frame
        itself tells what the action did.

        Args:
            windows: Recorded windows of ``num_history + t`` frames.
            generator: Source of noise; the same seed gives the same draws.
            actions: Actions (b t-1) to put in the place of the recorded ones.

        Returns:
            The mean squared error of each window (b), 0 where the last frame is padding.
        """
        k, device = self.num_history, self.device
        latents = self.encode(torch.from_numpy(windows.frames).to(device))
        targets = latents[:, k:]
        tau = torch.ones(targets.shape[:2], device=device)
        tau[:, -1] = 0
        noise = torch.randn(targets.shape, generator=generator).to(device)
        taken = torch.from_numpy(windows.actions if actions is None else actions)[:, k - 1 :]
        output = self.dit(
            add_noise(targets, noise, tau), tau, taken.to(device), self.history(latents)
        )
        errors = frame_errors(output.latents[:, -1:], targets[:, -1:])[:, 0]
        return errors * torch.from_numpy(windows.valid[:, -1]).to(device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the world folder, whole or not at all; an older one in its place is replaced."""
        path = Path(path)
        aside = path.with_name(path.name + ".writing")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._write(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        config = {"format": FORMAT, "num_passes": self.num_passes, "game": self.game.to_dict()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.dit.save_pretrained(folder / "model")
        save_file(self.head.state_dict(), folder / "head.safetensors")
        save_codec(self.codec, folder / "codec")
        with h5py.File(folder / "starts.h5", "w") as file:
            for field in dataclasses.fields(Windows):
                values = getattr(self.starts, field.name)
                file.create_dataset(field.name, data=values, compression="gzip")
            file.create_dataset("background", data=self.background, compression="gzip")
        for tensors in folder.rglob("*.safetensors"):  # written for their owner alone
            shutil.copymode(folder / "config.json", tensors)
        (folder / "metrics.json").write_text(json.dumps(self.metrics, indent=2) + "\n")
        (folder / "README.md").write_text(self.card)


def load(name: str | os.PathLike[str], device: str | torch.device | None = None) -> WorldModel:
    """Load a world.

    Args:
        name: A world that ships with the package ("pong", "maze" or "balls"), a world folder, or a
            run folder, of which the newest checkpoint is taken.
        device: Where to put it; a GPU if there is one.

    Returns:
        The world, in evaluation mode.

    Raises:
        ValueError: If there is no such world, or its folder cannot be read.
    """
    path = _find(name)
    try:
        config = json.loads((path / "config.json").read_text())
        written = int(config["format"])
        if written != FORMAT:  # its parts are not ours to judge
            raise _OtherFormatError(
                f"the world in {path} has format {written} and this version of worldsim reads "
                f"{FORMAT}; train it again, or take the version that wrote it"
            )
        game = GameConfig.from_dict(config["game"])
        dit, found = VideoDiT.from_pretrained(
            path / "model", use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        if found["missing_keys"]:  # diffusers would start them at random
            raise KeyError(f"model/ lacks {', '.join(found['missing_keys'])}")
        head = RewardTerminationHead(dit.config.width)
        head.load_state_dict(load_file(path / "head.safetensors"))
        with h5py.File(path / "starts.h5") as file:
            starts = Windows(**{f.name: file[f.name][:] for f in dataclasses.fields(Windows)})
            background = file["background"][:]
        metrics = json.loads((path / "metrics.json").read_text())
        card = (path / "README.md").read_text()
        codec = load_codec(path / "codec", game.channels)
        num_passes = int(config["num_passes"])
    except _OtherFormatError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"the world in {path} is damaged ({error}); write it again or take another"
        ) from error
    world = WorldModel(
        dit=dit,
        head=head,
        codec=codec,
        game=game,
        starts=starts,
        background=background,
        num_passes=num_passes,
        metrics=metrics,
        card=card,
    )
    for parameter in world.parameters():
        # diffusers maps the file, where tensors lie at odd places and round in their own way
        parameter.data = parameter.data.clone()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return world.to(device).eval()


def _find(name: str | os.PathLike[str]) -> Path:
    """The world folder that a name or a path means."""
    for path in (Path(name), BUNDLED / str(name)):
        if (path / "config.json").is_file() and (path / "model").is_dir():
            return path
        checkpoints = sorted(path.glob("step_[0-9]*[0-9]"))
        if checkpoints:
            return checkpoints[-1]
    bundled = sorted(p.name for p in BUNDLED.iterdir() if p.is_dir()) if BUNDLED.is_dir() else []
    raise ValueError(
        f"no world at {os.fspath(name)!r}: give a world folder, a run folder with a checkpoint, or "
        f"the name of one that ships ({', '.join(bundled) or 'none'})"
    )
