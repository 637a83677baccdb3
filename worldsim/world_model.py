"""WorldModel: the network, the codec and all else that play needs without the recording."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from einops import rearrange, repeat
from torch import nn

from worldsim.data.rewards import RecordedRewards
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.frame_size import fit_frame
from worldsim.frames import UNKNOWN
from worldsim.game.config import GameConfig
from worldsim.model.codec import Codec
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput, VideoDiT
from worldsim.model.dit_config import DiTConfig
from worldsim.model.heads import RewardTerminationHead
from worldsim.model.kv_cache import KVCache
from worldsim.model.layout import fold, fold_whole, unfold
from worldsim.model.text import Caption, Text, TextEncoder
from worldsim.system.options import Passes, check_value


class WorldModel(nn.Module):
    """An action-conditioned world: predicts the next frame, its reward and the episode's end.

    Args:
        dit: The denoiser.
        head: Reward and termination.
        codec: Frames to latents.
        game: The game that it models.
        starts: Recorded windows to begin from.
        background: The recording's median frame, uint8 (h w c); moving pixels differ from it.
        recorded_rewards: Statistics of the recording's rewards; None if unknown.
        num_passes: Default number of denoising passes per frame.
        split: Which episodes it was trained on; None if unknown.
        metrics: Figures measured in training.
        card: The model card, Markdown.
        text: The encoder of its prompts; None for a world without text.

    Raises:
        ValueError: If ``num_passes`` is out of range, or denoiser, codec and text encoder do not
            fit.
    """

    background_latents: torch.Tensor

    def __init__(
        self,
        *,
        dit: VideoDiT,
        head: RewardTerminationHead,
        codec: Codec,
        game: GameConfig,
        starts: Windows,
        background: np.ndarray,
        recorded_rewards: RecordedRewards | None = None,
        num_passes: int = 2,
        split: Split | None = None,
        metrics: dict[str, object] | None = None,
        card: str = "",
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        _check_codec(codec, dit.config)
        width = 0 if text is None else text.width
        if dit.config.text_width != width:
            raise ValueError(
                f"a denoiser with text_width {dit.config.text_width} needs a text encoder of that "
                f"width, got {width}"
            )
        self.dit, self.head, self.codec, self.text = dit, head, codec, text
        self.game, self.starts, self.background = game, starts, background
        background_latents = _encode_still(codec, torch.from_numpy(background))
        self.register_buffer("background_latents", background_latents, persistent=False)
        self._backgrounds: dict[tuple[Any, ...], torch.Tensor] = {}  # at other sizes
        check_value("num_passes", num_passes, Passes)
        self.recorded_rewards = recorded_rewards
        self.num_passes = num_passes
        self.split = split
        self.metrics = metrics or {}
        self.card = card

    def encode(self, frames: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        """Map uint8 frames (b t h w c) to latents (b t' c h w) relative to the median frame's.

        Pixels that never move are 0, so the denoiser need not learn them. Frames may have any size;
        the median frame is then scaled to it. With spacetime patches, a latent has the frames of a
        patch along its channels. A codec of video joins frames itself.

        Args:
            frames: 1 + p * (t' - 1) frames, where p is ``patch_frames``: the first is a time alone.
            whole: Whether all times are whole patches instead, where the codec is exact.
        """
        return self.relative(self.codec.encode(frames), whole=whole)

    def relative(self, latents: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        """Map latents of the codec (b t c h w) to those that the denoiser sees, see `encode`."""
        latents = latents - self._background_of(latents)
        return (fold_whole if whole else fold)(latents, self.dit.config.patch_frames)

    def decode(self, latents: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        """Map latents (b t c h w) to uint8 frames (b t*patch_frames h w c).

        Args:
            latents: Latents that begin a sequence, or go on with it.
            past: The latents right before them, of which ``decode_past`` are seen. Without them a
                codec of video decodes the first latent to one frame.
        """
        p, offset = self.dit.config.patch_frames, self._background_of(latents)
        if past is not None:
            past = unfold(past, p) + offset
        return self.codec.decode(unfold(latents, p) + offset, past)

    def _background_of(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents of the median frame at the size of others."""
        size = latents.shape[-2:]
        if size == self.background_latents.shape[-2:]:
            return self.background_latents
        factor = self.codec.space_factor
        key = (*size, latents.device)
        if key not in self._backgrounds:
            frame_size = size[0] * factor, size[1] * factor
            frame = fit_frame(self.background, frame_size, self.game.channels)
            still = torch.from_numpy(frame).to(latents.device)
            self._backgrounds[key] = _encode_still(self.codec, still)
        return self._backgrounds[key]

    @overload
    def predict(
        self, noisy_latents: torch.Tensor, conditions: Conditions, cache: KVCache | None = None
    ) -> DiTOutput: ...

    @overload
    def predict(
        self, noisy_latents: Sequence[torch.Tensor], conditions: Sequence[Conditions]
    ) -> list[DiTOutput]: ...

    def predict(
        self,
        noisy_latents: torch.Tensor | Sequence[torch.Tensor],
        conditions: Conditions | Sequence[Conditions],
        cache: KVCache | None = None,
    ) -> DiTOutput | list[DiTOutput]:
        """Predict clean latents and features, in one pass of the network.

        Args:
            noisy_latents: (b t c h w), or those of each group, see `VideoDiT.forward`.
            conditions: Of each frame.
            cache: Past frames of the lanes, for t = 1; without it the frames are a sequence.
        """
        if not isinstance(noisy_latents, torch.Tensor) and len(noisy_latents) == 1:
            return [self.dit(noisy_latents[0], conditions[0])]  # what hooks see is as in play
        output: DiTOutput | list[DiTOutput] = self.dit(noisy_latents, conditions, cache)
        return output

    def at_size(self, frame_size: tuple[int, int]) -> WorldModel:
        """The same world for frames of another size; its starts and median frame are scaled.

        Nothing is copied but these. Sizes that it was not trained on work as far as they do.

        Args:
            frame_size: Height and width in pixels.

        Raises:
            ValueError: If the codec cannot have the size.
        """
        self.codec.latent_size(frame_size)

        def scaled(frame: np.ndarray) -> np.ndarray:
            return fit_frame(frame, frame_size, self.game.channels)

        frames = np.stack([list(map(scaled, clip)) for clip in self.starts.frames])
        world = WorldModel(
            dit=self.dit,
            head=self.head,
            codec=self.codec,
            game=replace(self.game, frame_size=frame_size),
            starts=replace(self.starts, frames=frames),
            background=scaled(self.background),
            recorded_rewards=self.recorded_rewards,
            num_passes=self.num_passes,
            split=self.split,
            metrics=self.metrics,
            card=self.card,
            text=self.text,
        )
        return world.to(self.device).train(self.training)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Caption]) -> Text:
        """Embed a prompt for each lane; None is no prompt.

        Raises:
            ValueError: If the world has no text, or cannot encode a prompt.
        """
        if self.text is None:
            raise ValueError(
                f"this world takes no prompt, got {prompts[0]!r}: it was trained without captions, "
                "see --model.text of worldsim train"
            )
        tokens = self.text.tokenize(prompts).to(self.device)
        text: Text = self.text(tokens)
        return text

    def quantize(self, latents: torch.Tensor) -> torch.Tensor:
        """Round latents (b t c h w) to those of uint8 frames, if the codec is exact."""
        return self.encode(self.decode(latents), whole=True) if self.codec.exact else latents

    def __repr__(self) -> str:
        """One line, instead of all modules as in PyTorch."""
        return (
            f"WorldModel(game={self.game.env_id!r}, frame_size={self.game.frame_size}, "
            f"parameters={sum(p.numel() for p in self.parameters()):,}, window={self.window}, "
            f"num_passes={self.num_passes}, device={str(self.device)!r})"
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.dit.device

    @property
    def window(self) -> int:
        """Times of the attention window, the predicted one included: frames, or patches of them."""
        return self.dit.config.window

    @property
    def patch_frames(self) -> int:
        """Frames of a time, which a step predicts together: those of a patch, or of a latent."""
        return self.dit.config.frames_per_time

    @property
    def context_frames(self) -> int:
        """Frames of a window's times, of which the first is one frame."""
        return 1 + self.patch_frames * (self.window - 1)

    @property
    def reward_floor(self) -> float:
        """The absolute value below which an expected reward becomes exactly 0."""
        return self.recorded_rewards.floor if self.recorded_rewards else 0.0

    @property
    def num_history(self) -> int:
        """Times that each time's history has; training needs them before its first target."""
        return self.dit.config.num_history

    @property
    def decode_past(self) -> int:
        """Latents before a latent that decoding it takes, where there are as many."""
        return max(self.codec.decode_context, int(self.codec.time_factor > 1))

    @property
    def num_kept(self) -> int:
        """Newest latents that play keeps: those that the network reads or that decoding takes."""
        return max(self.num_history, 1 + self.decode_past)

    def unknown_history(self, latent_size: Sequence[int]) -> torch.Tensor:
        """The history of a time that nothing precedes: grey frames (num_history*c h w).

        Pictures have the same, see `Pictures`.

        Args:
            latent_size: Height and width of a latent.
        """
        height, width = (side * self.codec.space_factor for side in latent_size)
        num_frames = 1 + self.patch_frames * (self.num_history - 1)
        shape = (1, num_frames, height, width, self.game.channels)
        grey = torch.full(shape, UNKNOWN, dtype=torch.uint8, device=self.device)
        return rearrange(self.encode(grey).flip(1), "1 k c h w -> (k c) h w")

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the world folder, see `worldsim.world_folder.save`."""
        from worldsim.world_folder import save  # imports this module

        save(self, path)


def _check_codec(codec: Codec, config: DiTConfig) -> None:
    """Raise ValueError for a codec that does not fit the denoiser."""
    p = codec.time_factor
    if config.latent_frames != p:
        raise ValueError(
            f"a codec with {p} frames per latent needs a denoiser with latent_frames {p}, got "
            f"{config.latent_frames}"
        )
    if p > 1 and config.patch_frames > 1:
        raise ValueError(
            f"frames are joined by the codec or by patches, got a codec with {p} frames per latent "
            f"and patch_frames {config.patch_frames}: take patch_frames 1"
        )
    if codec.decode_context > config.num_history:
        raise ValueError(
            f"this codec decodes a latent with the {codec.decode_context} before it, and the "
            f"denoiser has a num_history of {config.num_history}: take {codec.decode_context} or "
            "more"
        )


def _encode_still(codec: Codec, frame: torch.Tensor) -> torch.Tensor:
    """The latent (1 1 c h w) of a frame (h w c) that stays as it is."""
    num_frames = 1 if codec.time_factor == 1 else 1 + codec.time_factor
    return codec.encode(repeat(frame, "h w c -> 1 t h w c", t=num_frames))[:, -1:]
