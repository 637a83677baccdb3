"""Real T5 and CLIP text encoders of random weights, with a tokenizer, saved as the Hub's are."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.tiny_pipelines import WORDS, make_t5, make_tokenizer


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
