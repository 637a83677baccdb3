"""The sizes of a `VideoDiT`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_type_hints

from worldsim.model.patterns import LayerAttention, Pattern, layer_attentions
from worldsim.system.options import Positive, Range, check_value

Size = Annotated[int, Range(1, 2**20)]


@dataclass(frozen=True)
class DiTConfig:
    """The arguments of a VideoDiT.

    Attributes:
        num_actions: Actions of the game; the index ``num_actions`` is an unknown action.
        latent_channels: Channels of a latent.
        latent_frames: Frames that the codec joins in a latent, see `Codec`.
        patch_frames: Frames of a spacetime patch, which are predicted together, see `Layout`.
        patch_size: Side of a patch in latent cells, or its height and width. Frames of any size are
            padded to multiples of it.
        width: Channels of a token.
        depth: Layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        mlp_ratio: Hidden width of the feed-forward layers divided by ``width``.
        time_every: Layers per layer with attention over time.
        num_registers: Register tokens per frame.
        num_history: Finished frames that the convolutional path reads.
        window: Frames of attention over time, the current one included.
        detail_width: Channels of the convolutional path.
        chance_bits: Bits of a chance code, see `ChanceCodes`; 0: none.
        attention: Attention of the layers, in turn, such as ``("space", "local:near=8")``, see
            `LayerAttention.parse`. If empty, it follows from ``time_every``.
        text_width: Channels of the embeddings of captions, see `Text`; 0: no text.

    Raises:
        ValueError: If a size is not an integer or out of range, width and heads do not divide, or
            there is no such attention.
    """

    num_actions: Size
    latent_channels: Size = 3
    latent_frames: Annotated[int, Range(1, 16)] = 1
    patch_frames: Annotated[int, Range(1, 16)] = 1
    patch_size: Size | tuple[Size, Size] = 8
    width: Size = 128
    depth: Size = 6
    num_heads: Size = 4
    num_kv_heads: Size = 2
    mlp_ratio: Positive = 2.0
    time_every: Size = 3
    num_registers: Annotated[int, Range(0, 2**20)] = 2
    num_history: Size = 2
    window: Annotated[int, Range(1, 4096)] = 16  # a lane's cache grows with it
    detail_width: Size = 32
    chance_bits: Annotated[int, Range(0, 12)] = 0
    attention: tuple[str, ...] = ()
    text_width: Annotated[int, Range(0, 2**16)] = 0

    def __post_init__(self) -> None:
        for name in ("attention", "patch_size"):
            if isinstance(getattr(self, name), list):  # from JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, kind in get_type_hints(DiTConfig, include_extras=True).items():
            check_value(name, getattr(self, name), kind)
        if self.width % (4 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                "width must be a multiple of 4 * num_heads and num_heads one of num_kv_heads, got "
                f"width {self.width}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}"
            )
        over_both = [
            text
            for text in self.layer_attentions
            if isinstance(LayerAttention.parse(text).time, Pattern)
        ]
        if over_both and self.width % (8 * self.num_heads):
            raise ValueError(
                f"attention {over_both[0]} needs a width that is a multiple of 8 * num_heads, got "
                f"width {self.width}, num_heads {self.num_heads}"
            )

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width of a patch."""
        size = self.patch_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def detail_stride(self) -> int:
        """Cells along each side of a feature of the convolutional path.

        Two, since neighbouring pixels are alike; one where patches have few cells, as in latents,
        whose neighbours are not.
        """
        return 1 if any(side % 2 or side == 2 for side in self.patch_sides) else 2

    @property
    def channels(self) -> int:
        """Channels of the frames of a patch together."""
        return self.latent_channels * self.patch_frames

    @property
    def frames_per_time(self) -> int:
        """Frames, and so actions, of a time: those of a patch, or those of a latent."""
        return self.latent_frames * self.patch_frames

    def to_dict(self) -> dict[str, Any]:
        """The arguments as JSON values."""
        values = asdict(self)
        if self.latent_frames == 1:  # so that versions that do not know it read most worlds
            del values["latent_frames"]
        return values

    @property
    def layer_attentions(self) -> list[str]:
        """The attention of each layer."""
        return layer_attentions(self.attention, self.depth, self.time_every)
