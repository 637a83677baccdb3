"""Real T5 and CLIP text encoders of random weights, with a tokenizer, saved as the Hub's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny_pipelines import WORDS, make_t5, make_tokenizer
from tests.tiny_worlds import make_tiny_world
from worldsim.model.text import TextEncoder, VocabularyEncoder
from worldsim.world_model import WorldModel

CAPTIONS = ("a red ball", None, "two blue balls")


def make_clip() -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        projection_dim=24,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return transformers.CLIPTextModel(config)


def save_tiny_encoder(folder: Path, kind: str = "T5", seed: int = 0) -> str:
    """Write an encoder and its tokenizer into a folder; kinds are T5, UMT5 and CLIP."""
    torch.manual_seed(seed)
    model = make_clip() if kind == "CLIP" else make_t5(kind)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def make_text_world(text: TextEncoder | None = None, **changes: Any) -> WorldModel:
    """A random world that follows words strongly, and whose starts have captions."""
    torch.manual_seed(5)
    text = text or VocabularyEncoder.of(["two balls , red and blue", *CAPTIONS], width=16)
    world = make_tiny_world(text=text, **changes)
    for block in world.dit.blocks:
        torch.nn.init.normal_(block.text.out.weight, std=0.5)
    world.starts.captions = CAPTIONS
    return world
