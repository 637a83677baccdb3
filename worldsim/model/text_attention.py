"""Cross-attention: the tokens of frames attend to those of a caption.

The caption of a sequence is the same at all of its times. A learned token stands before those of
each caption, and alone where there is none, so a world with text is also defined without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from worldsim.model.layers import grouped_attention, together
from worldsim.model.text import Text


class TextInput(nn.Module):
    """Prepares captions for all layers: normalises them, and puts the learned token first.

    Args:
        width: Channels of an embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.null = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.null)

    def forward(self, text: Text) -> Text:
        """Map s tokens of captions to 1 + s, in the type of the weights."""
        dtype = self.null.dtype
        normalized = self.norm(text.embeddings.to(dtype)).to(dtype)
        null = self.null.expand(len(normalized), 1, -1)
        return Text(torch.cat((null, normalized), dim=1), F.pad(text.mask, (1, 0), value=True))


class TextAttention(nn.Module):
    """Attention of tokens to the caption of their sequence.

    Args:
        width: Channels of a token.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        text_width: Channels of an embedding of the caption.
    """

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, text_width: int) -> None:
        super().__init__()
        self.dim = width // num_heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(text_width, 2 * num_kv_heads * self.dim, bias=False)
        self.query_norm = nn.LayerNorm(self.dim, bias=False)
        self.key_norm = nn.LayerNorm(self.dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, groups: Sequence[torch.Tensor], texts: Sequence[Text]) -> list[torch.Tensor]:
        """Map tokens (b t n d) of each group to their residuals.

        Args:
            groups: Tokens of frames.
            texts: From `TextInput`, the captions of each group's sequences.
        """
        queries = together(lambda x: self.query(self.norm(x)), groups)
        attended = [self._attend(*both) for both in zip(queries, texts, strict=True)]
        return together(self.out, attended)

    def _attend(self, queries: torch.Tensor, text: Text) -> torch.Tensor:
        t = queries.shape[1]
        query = rearrange(queries, "b t n (heads dim) -> b (t n) heads dim", dim=self.dim)
        key, value = rearrange(
            self.key_value(text.embeddings),
            "b s (two kv dim) -> two b kv s dim",
            two=2,
            dim=self.dim,
        )
        query, key = self._normalize(query, self.query_norm), self._normalize(key, self.key_norm)
        mask = rearrange(text.mask, "b s -> b 1 1 s")
        out = grouped_attention(query.to(value.dtype), key.to(value.dtype), value, mask)
        return rearrange(out, "b (t n) d -> b t n d", t=t)

    def _normalize(self, x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """Normalise heads (... dim) in float32, also under autocast."""
        return F.layer_norm(x.float(), (self.dim,), norm.weight.float())
