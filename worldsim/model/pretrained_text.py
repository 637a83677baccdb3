"""A frozen text encoder of transformers (T5 or CLIP) as the condition of a world.

The world's folder keeps the embeddings of its starts' captions, and which encoder they are of. So
a world can be played without the encoder. Only a new prompt needs it, and then its user names it: a
name in a world's folder is never loaded or downloaded unasked, see `worldsim.system.trust`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from worldsim.model.text import (
    Caption,
    MaxTokens,
    Text,
    TextEncoder,
    TextWidth,
    Tokens,
    check_length,
)
from worldsim.model.weights import CONFIG, REMEDY, digest
from worldsim.system.devices import pick_device
from worldsim.system.extras import require
from worldsim.system.files import (
    naming_damage,
    one_line,
    printable,
    reading,
    write_json,
    written_aside,
)
from worldsim.system.options import check_value

if TYPE_CHECKING:
    import transformers

EMBEDDINGS = "embeddings.safetensors"
AT_ONCE = 32  # captions that are encoded together
CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
"""The ``model_type`` of an encoder -> its class in transformers."""


class LoadedEncoder(NamedTuple):
    """A text encoder of transformers in memory.

    Attributes:
        model: The network, frozen.
        tokenizer: Its tokenizer.
        fingerprint: A digest of weights and vocabulary, whatever files they are in.
    """

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    fingerprint: str

    def length(self, caption: str) -> int:
        """Tokens of a caption."""
        return len(self.tokenizer(caption)["input_ids"])

    @torch.inference_mode()
    def embed(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """The embeddings of each caption, float32 (s d) on the CPU, without padding."""
        found: list[torch.Tensor] = []
        for first in range(0, len(captions), AT_ONCE):
            part = list(captions[first : first + AT_ONCE])
            tokens = self.tokenizer(part, padding=True, return_tensors="pt")
            tokens = {name: tokens[name].to(self.model.device) for name in _INPUTS}
            embedded = self.model(**tokens).last_hidden_state.float().cpu()
            masks = tokens["attention_mask"].bool().cpu()
            rows = zip(embedded, masks, strict=True)
            found += [row[mask].clone() for row, mask in rows]
        return found


_INPUTS = ("input_ids", "attention_mask")


def load_encoder(name: str) -> LoadedEncoder:
    """Load a text encoder that the user has named.

    Args:
        name: A folder of ``save_pretrained`` with encoder and tokenizer, or an id on the Hub.

    Raises:
        ModuleNotFoundError: If transformers is not installed (the extra ``video``).
        ValueError: If it does not exist, is of another class or has no safetensors.
    """
    require("transformers")
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    no_code = {"trust_remote_code": False}
    try:
        kind = transformers.AutoConfig.from_pretrained(name, **no_code).model_type
        if kind not in CLASSES:
            raise ValueError(f"it is a {kind}, and text encoders are {', '.join(CLASSES)}")
        model = getattr(transformers, CLASSES[kind]).from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, **no_code
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **no_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ValueError(
            f"{name} cannot be loaded as a text encoder ({one_line(error)}): give the folder, or "
            "the id on the Hub, of a T5 or CLIP encoder with its tokenizer, in safetensors"
        ) from error
    model = model.requires_grad_(False).eval().to(pick_device(None))
    return LoadedEncoder(model, tokenizer, fingerprint(model, tokenizer))


def fingerprint(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> str:
    """A digest of an encoder's weights and vocabulary."""
    return digest(json.dumps(tokenizer.get_vocab(), sort_keys=True), model.state_dict())


class PretrainedEncoder(TextEncoder):
    """A frozen text encoder of transformers, of which some captions are known.

    Args:
        name: Path or Hub id of the encoder, for people and errors.
        fingerprint: See `LoadedEncoder`.
        width: Channels of an embedding.
        max_tokens: Tokens of the longest caption.
        known: Embeddings (s d) of the captions that are known.

    Raises:
        ValueError: If a size is out of range, or an embedding has another width or is too long.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        width: int,
        max_tokens: int,
        known: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(name, str) or not isinstance(fingerprint, str):
            raise ValueError("the name and the fingerprint of a text encoder are texts")
        check_value("width", width, TextWidth)
        check_value("max_tokens", max_tokens, MaxTokens)
        self.name, self.fingerprint = name, fingerprint
        self.width, self.max_tokens = width, max_tokens
        self.known: dict[str, torch.Tensor] = {}
        self._loaded: LoadedEncoder | None = None
        self._add(known or {})

    @classmethod
    def of(cls, name: str, captions: Iterable[Caption], file: Path | None = None) -> TextEncoder:
        """Embed the captions of a training by an encoder that the user has named.

        It is loaded for that only: new prompts need `use`.

        Args:
            name: As for `load_encoder`.
            captions: All captions of the training; the longest one decides ``max_tokens``.
            file: Where their embeddings are kept from one start of the training to the next.

        Raises:
            ValueError: As `load_encoder`, or if there is no caption.
        """
        loaded = load_encoder(name)
        distinct = sorted({caption for caption in captions if caption})
        if not distinct:
            raise ValueError("there is no caption to encode: give the recording captions")
        known: dict[str, torch.Tensor] = {}
        if file is not None and file.exists():
            with naming_damage(file, "delete it"):
                known = read_embeddings(file, loaded.fingerprint)
        missing = [caption for caption in distinct if caption not in known]
        known.update(zip(missing, loaded.embed(missing), strict=True))
        known = {caption: known[caption] for caption in distinct}
        if file is not None and missing:
            write_embeddings(file, known, loaded.fingerprint)
        lengths = [len(embedding) for embedding in known.values()]
        width = known[distinct[0]].shape[1]
        return cls(name, loaded.fingerprint, width, max(lengths), known)

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedEncoder:
        """A copy that shares the embeddings, which nothing changes."""
        copy = type(self)(self.name, self.fingerprint, self.width, self.max_tokens)
        copy.known, copy._loaded = self.known, self._loaded
        return copy.train(self.training)

    def use(self, name: str) -> None:
        """Load the encoder, which the user names, so that new prompts can be encoded.

        Raises:
            ValueError: As `load_encoder`, or if it is another encoder than the world's.
        """
        loaded = load_encoder(name)
        if loaded.fingerprint != self.fingerprint:
            raise ValueError(
                f"{name} is another text encoder than the world was trained with, which was "
                f"{printable(self.name)!r}: its weights or its words differ"
            )
        self._loaded = loaded

    def tokenize(self, captions: Sequence[Caption]) -> Tokens:
        """Look up the embeddings of captions; new ones are encoded, if the encoder is there.

        Raises:
            ValueError: If a caption is new and the encoder was not named by the user, or the
                caption is too long.
        """
        new = sorted({caption for caption in captions if caption} - self.known.keys())
        if new and self._loaded is None:
            raise ValueError(
                f"the prompt {printable(new[0][:60])!r} is new to this world, and needs the text "
                f"encoder {printable(self.name)!r}, which is not loaded because a file names it: "
                "if you trust it, give its name or folder by --text-encoder, or in Python by "
                "worldsim.load(..., text_encoder=...)"
            )
        if self._loaded is not None:
            for prompt in new:
                check_length(prompt, self._loaded.length(prompt), self.max_tokens, "tokens")
            self._add(dict(zip(new, self._loaded.embed(new), strict=True)))
        values = torch.zeros(len(captions), self.max_tokens, self.width)
        mask = torch.zeros(len(captions), self.max_tokens, dtype=torch.bool)
        for row, caption in enumerate(captions):
            if caption:
                embedding = self.known[caption]
                values[row, : len(embedding)] = embedding
                mask[row, : len(embedding)] = True
        return Tokens(values, mask)

    def forward(self, tokens: Tokens) -> Text:
        """Return embeddings (b s d) as they are."""
        return Text(*tokens)

    def _add(self, known: Mapping[str, torch.Tensor]) -> None:
        for embedding in known.values():
            if embedding.shape[1:] != (self.width,) or len(embedding) > self.max_tokens:
                raise ValueError(
                    f"embeddings have the shape ({self.max_tokens} at most, {self.width}), got "
                    f"{tuple(embedding.shape)}"
                )
        self.known.update(known)

    def identity(self) -> dict[str, Any]:
        """The encoder's fingerprint and size."""
        return {
            "fingerprint": self.fingerprint,
            "max_tokens": self.max_tokens,
            "width": self.width,
        }

    def save(self, folder: str | os.PathLike[str], captions: Iterable[Caption] = ()) -> None:
        """Write which encoder it is, and the embeddings of some captions."""
        folder = Path(folder)
        folder.mkdir()
        wanted = sorted({caption for caption in captions if caption})
        self.tokenize(wanted)
        config = {"_class_name": type(self).__name__, "name": self.name, **self.identity()}
        write_json(folder / CONFIG, config)
        known = {caption: self.known[caption] for caption in wanted}
        write_embeddings(folder / EMBEDDINGS, known, self.fingerprint)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> PretrainedEncoder:
        """Read a folder of `save`, with its config; errors as in `load_text`."""
        with reading(folder / EMBEDDINGS, REMEDY) as file:
            known = read_embeddings(file, config["fingerprint"])
        fields = ("name", "fingerprint", "width", "max_tokens")
        return cls(**{field: config[field] for field in fields}, known=known)


def write_embeddings(path: Path, known: Mapping[str, torch.Tensor], fingerprint: str) -> None:
    """Write the embeddings of captions, with the fingerprint of their encoder."""
    captions = list(known)
    about = {"captions": json.dumps(captions), "fingerprint": fingerprint}
    tensors = {str(number): known[caption] for number, caption in enumerate(captions)}
    with written_aside(path) as aside:
        save_file(tensors, aside, metadata=about)


def read_embeddings(path: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    """Read the embeddings (s d) of captions.

    Raises:
        OSError: If the file does not exist or may not be read.
        ValueError: If it is damaged, or of another encoder.
    """
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("fingerprint") != fingerprint:
            raise ValueError("its embeddings are of another text encoder")
        captions = json.loads(about["captions"])
        names = [str(number) for number in range(len(captions))]
        if not all(isinstance(caption, str) for caption in captions):
            raise ValueError("its captions are not texts")
        if sorted(names) != sorted(file.keys()):
            raise ValueError("its captions and its embeddings are not as many")
        tensors = [file.get_tensor(name) for name in names]
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.ndim != 2 or not tensor.isfinite().all():
            raise ValueError("its embeddings must be finite float32 matrices")
    return dict(zip(captions, tensors, strict=True))
