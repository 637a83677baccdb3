"""Text: captions of worlds as embeddings, which the denoiser attends to.

Two encoders make them. `VocabularyEncoder` knows the words of the training captions, and is trained
with its world. `PretrainedEncoder` is a frozen encoder of transformers. A world's folder has its
encoder in ``text/``; a world without text has no such folder.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import nn

from worldsim.model.weights import CONFIG, REMEDY, WEIGHTS, build_network
from worldsim.system.files import printable, read_object, reading, write_json
from worldsim.system.options import Range, check_value, shown

Caption = str | None
TextWidth = Annotated[int, Range(1, 2**16)]
MaxTokens = Annotated[int, Range(1, 512)]
MAX_WORDS = 2**16  # of a vocabulary
MAX_LETTERS = 100  # of a word
VOCABULARY_HEADS = 4


class Text(NamedTuple):
    """Embedded captions of a batch.

    Attributes:
        embeddings: One for each token, float32 (b s d).
        mask: True where there is a token, bool (b s). A row without one has no caption.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor

    def drop(self, dropped: torch.Tensor) -> Text:
        """The same without the captions of some rows (b)."""
        return Text(self.embeddings, self.mask & ~dropped[:, None])


class Tokens(NamedTuple):
    """Captions of a batch as an encoder takes them.

    Attributes:
        values: Numbers of words, int64 (b s), or the embeddings of a frozen encoder (b s d).
        mask: As in `Text`.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> Tokens:
        """The same on a device."""
        return Tokens(*(each.to(device, non_blocking=True) for each in self))


class TextEncoder(nn.Module):
    """Base class: maps captions to `Text`; an empty caption or None is no caption.

    Attributes:
        width: Channels of an embedding.
        max_tokens: Tokens of the longest caption. All captions are padded to it.
    """

    width: int
    max_tokens: int

    def tokenize(self, captions: Sequence[Caption]) -> Tokens:
        """Look captions up, on the CPU; what is trained is left to `forward`.

        Raises:
            ValueError: If a caption is too long, or cannot be encoded.
        """
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> Text:
        """Embed tokens, on their device."""
        raise NotImplementedError

    def encode(self, captions: Sequence[Caption]) -> Text:
        """Embed captions: `tokenize`, then `forward` on the device of the weights."""
        own = next(self.parameters(), None)
        tokens = self.tokenize(captions)
        text: Text = self(tokens if own is None else tokens.to(own.device))
        return text

    def knows(self, caption: Caption) -> bool:
        """Whether a caption can be encoded."""
        try:
            self.tokenize([caption])
        except ValueError:
            return False
        return True

    def identity(self) -> dict[str, Any]:
        """What decides its embeddings, apart from its weights in the world, as JSON values."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str], captions: Iterable[Caption] = ()) -> None:
        """Write the folder that `load_text` reads, and create it.

        Args:
            folder: A new folder.
            captions: Captions that can be encoded wherever the folder is.
        """
        raise NotImplementedError


class VocabularyEncoder(TextEncoder):
    """Embeds the words of a closed vocabulary, and is trained from scratch with its world.

    A layer of attention among the words of a caption tells which of them belong together.

    Args:
        words: The vocabulary.
        max_tokens: Words of the longest caption.
        width: Channels of an embedding, a multiple of 4.

    Raises:
        ValueError: If the vocabulary is empty, too large, has a word twice or one that is too long,
            or a size is out of range.

    Example:
        >>> encoder = VocabularyEncoder.of(["a red ball", "two blue balls"], width=8)
        >>> encoder.encode(["two red balls", None]).embeddings.shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, words: Sequence[str], max_tokens: int, width: int) -> None:
        super().__init__()
        check_value("max_tokens", max_tokens, MaxTokens)
        check_value("width", width, TextWidth)
        for word in words:
            if not (0 < len(word) <= MAX_LETTERS and word.isprintable()):
                raise ValueError(
                    f"a word has 1 to {MAX_LETTERS} printable characters, got {shown(word)}"
                )
        if not 1 <= len(set(words)) == len(words) <= MAX_WORDS or width % VOCABULARY_HEADS:
            raise ValueError(
                f"a vocabulary has 1 to {MAX_WORDS:,} different words and a width that is a "
                f"multiple of {VOCABULARY_HEADS}, got {len(words):,} words "
                f"({len(set(words)):,} different) and width {width}"
            )
        self.words, self.max_tokens, self.width = tuple(words), max_tokens, width
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self.embedding = nn.Embedding(len(words), width)
        self.positions = nn.Parameter(torch.empty(max_tokens, width))
        self.norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.positions, std=0.5)
        for linear in (self.query_key_value, self.out):
            nn.init.trunc_normal_(linear.weight, std=width**-0.5)

    @classmethod
    def of(cls, captions: Iterable[Caption], width: int) -> VocabularyEncoder:
        """A fresh encoder for the words of some captions.

        Raises:
            ValueError: If there is no word in them, or a caption is too long.
        """
        sentences = [split_words(caption) for caption in captions]
        words = sorted({word for sentence in sentences for word in sentence})
        return cls(words, max(map(len, sentences), default=0), width)

    def tokenize(self, captions: Sequence[Caption]) -> Tokens:
        """Number the words of captions.

        Raises:
            ValueError: For an unknown word, with the nearest known ones, or a caption that is
                longer than all of the training.
        """
        values = torch.zeros(len(captions), self.max_tokens, dtype=torch.int64)
        mask = torch.zeros(values.shape, dtype=torch.bool)
        for row, caption in enumerate(captions):
            words = split_words(caption)
            check_length(caption, len(words), self.max_tokens, "words")
            values[row, : len(words)] = torch.tensor(
                [self._number(word) for word in words], dtype=torch.int64
            )
            mask[row, : len(words)] = True
        return Tokens(values, mask)

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is not None:
            return number
        near = difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
        known = f"it knows {len(self.words):,} words"
        known += f", the nearest are {', '.join(near)}" if near else f": {some_of(self.words)}"
        raise ValueError(
            f"the world's vocabulary has no word {word!r} ({known}): use only words of its "
            "training captions"
        )

    def forward(self, tokens: Tokens) -> Text:
        """Embed numbers of words (b s), by word, place and neighbours."""
        x = self.embedding(tokens.values) + self.positions
        query, key, value = rearrange(
            self.query_key_value(self.norm(x)),
            "b s (three heads dim) -> three b heads s dim",
            three=3,
            heads=VOCABULARY_HEADS,
        )
        # A place without a word attends to itself, so that no row of scores is empty.
        itself = torch.eye(self.max_tokens, dtype=torch.bool, device=x.device)
        allowed = rearrange(tokens.mask, "b s -> b 1 1 s") | itself
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.out(rearrange(attended, "b heads s dim -> b s (heads dim)"))
        return Text(x.float(), tokens.mask)

    def identity(self) -> dict[str, Any]:
        """Its vocabulary and its size."""
        return {"words": list(self.words), "max_tokens": self.max_tokens, "width": self.width}

    def save(self, folder: str | os.PathLike[str], captions: Iterable[Caption] = ()) -> None:
        """Write vocabulary and weights."""
        folder = Path(folder)
        folder.mkdir()
        write_json(folder / CONFIG, {"_class_name": type(self).__name__, **self.identity()})
        save_file(self.state_dict(), folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> VocabularyEncoder:
        """Read a folder of `save`, with its config; errors as in `load_text`."""
        words = config["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("its words must be a list of texts")
        with reading(folder / WEIGHTS, REMEDY) as file:
            return build_network(lambda: cls(words, config["max_tokens"], config["width"]), file)


def split_words(caption: Caption) -> list[str]:
    """Split a caption into words in lower case; punctuation marks are words of their own.

    Example:
        >>> split_words("Two balls, at night.")
        ['two', 'balls', ',', 'at', 'night', '.']
    """
    return re.findall(r"\w+|[^\w\s]", (caption or "").lower())


def check_length(caption: Caption, length: int, max_tokens: int, unit: str) -> None:
    """Raise ValueError for a caption that is longer than an encoder takes."""
    if length > max_tokens:
        raise ValueError(
            f"captions of this world have at most {max_tokens} {unit}, got {length} in "
            f"{printable((caption or '')[:60])!r}: shorten it"
        )


def some_of(words: Sequence[str], count: int = 12) -> str:
    """A few of many words, for an error."""
    return ", ".join(words[:count]) + (", …" if len(words) > count else "")


def load_text(folder: str | os.PathLike[str]) -> TextEncoder | None:
    """Read the text encoder in a folder, or return None if there is no such folder.

    A frozen encoder outside of the folder is neither read nor downloaded, see `PretrainedEncoder`.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: If a file is missing or damaged, or the kind of encoder is unknown.
    """
    from worldsim.model.pretrained_text import PretrainedEncoder

    kinds = {kind.__name__: kind for kind in (VocabularyEncoder, PretrainedEncoder)}
    folder = Path(folder)
    if not os.path.lexists(folder):
        return None
    with reading(folder / CONFIG, REMEDY) as file:
        config = read_object(file)
        kind = config.get("_class_name")
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"its _class_name must be one of {', '.join(kinds)}, got {kind!r}")
        encoder: TextEncoder = kinds[kind].load(folder, config)
    return encoder.eval()
