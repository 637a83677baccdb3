"""The text encoder of a run: how captions become a condition of its world."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from worldsim.data.episodes import Episodes
from worldsim.model.pretrained_text import PretrainedEncoder
from worldsim.model.text import TextEncoder, VocabularyEncoder, load_text

from .config import NO_TEXT, VOCABULARY, TrainConfig
from .processes import Processes

VOCABULARY_WIDTH = 128  # channels of a word
EMBEDDINGS = "captions.safetensors"  # in the run's folder


def make_text_encoder(
    config: TrainConfig,
    recordings: Sequence[Episodes],
    checkpoint: Path | None = None,
    processes: Processes | None = None,
) -> TextEncoder | None:
    """The text encoder that the settings ask for, for the captions of recordings.

    A vocabulary's weights are drawn from torch's global generator.

    Args:
        config: The settings.
        recordings: Whose captions are learned.
        checkpoint: From which the run goes on: its vocabulary is kept.
        processes: The processes; captions are read and embedded by the first one.

    Raises:
        ValueError: If no recording has a caption, or there is no such encoder.
    """
    name, first = config.model.text, (processes or Processes()).first
    if name == NO_TEXT:
        return None
    captions = first(partial(_captions_of, recordings))
    if not captions:
        places = ", ".join(str(recording.path) for recording in recordings)
        raise ValueError(
            f"--model.text {name} learns from captions, and there are none in {places}: record "
            "with --caption, or put a captions.json beside the shards"
        )
    begun = None if checkpoint is None else load_text(checkpoint / "text")
    if name == VOCABULARY:
        if isinstance(begun, VocabularyEncoder):
            begun.tokenize(captions)  # words that are new to the run
            return begun.train()
        return VocabularyEncoder.of(captions, VOCABULARY_WIDTH)
    encoder = first(lambda: PretrainedEncoder.of(name, captions, config.out / EMBEDDINGS))
    if isinstance(begun, PretrainedEncoder) and begun.fingerprint != encoder.fingerprint:
        raise ValueError(
            f"this run began with another text encoder than {name}: its weights or its words differ"
        )
    return encoder


def _captions_of(recordings: Sequence[Episodes]) -> list[str]:
    """All captions of all episodes, each once."""
    found = {each.caption(index) for each in recordings for index in range(len(each))}
    return sorted(caption for caption in found if caption)
