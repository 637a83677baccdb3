"""Captions as embeddings: a vocabulary that is trained, and encoders of transformers."""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_text import save_tiny_encoder
from worldsim.model.pretrained_text import PretrainedEncoder, load_encoder
from worldsim.model.text import VocabularyEncoder, load_text, split_words

CAPTIONS = ["A red ball.", "two blue balls, at night", None, ""]
KNOWN = ["a ball", "a ball that rolls over the grass"]


def make_vocabulary() -> VocabularyEncoder:
    torch.manual_seed(0)
    return VocabularyEncoder.of(CAPTIONS, width=8).eval()


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    assert split_words("It's 2 Bälle.") == ["it", "'", "s", "2", "bälle", "."]
    assert split_words(None) == []


def test_a_vocabulary_has_the_words_of_its_captions_once() -> None:
    encoder = make_vocabulary()
    assert encoder.words == (",", ".", "a", "at", "ball", "balls", "blue", "night", "red", "two")
    assert encoder.max_tokens == 6


def test_a_missing_caption_has_no_token() -> None:
    text = make_vocabulary().encode(CAPTIONS)
    assert text.embeddings.shape == (4, 6, 8)
    assert text.mask.sum(1).tolist() == [4, 6, 0, 0]
    assert text.embeddings.isfinite().all()
    assert text.embeddings.dtype == torch.float32


@pytest.mark.numeric
def test_a_caption_means_the_same_alone_and_in_a_batch() -> None:
    encoder = make_vocabulary()
    together = encoder.encode(CAPTIONS)
    for row, caption in enumerate(CAPTIONS[:2]):
        alone = encoder.encode([caption])
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[row])


def test_a_word_means_something_else_beside_other_words() -> None:
    encoder = make_vocabulary()
    red = encoder.encode(["a red ball"]).embeddings[0, 2]
    blue = encoder.encode(["a blue ball"]).embeddings[0, 2]
    assert not torch.allclose(red, blue, atol=1e-3)


def test_rows_lose_their_captions() -> None:
    text = make_vocabulary().encode(CAPTIONS[:2]).drop(torch.tensor([True, False]))
    assert text.mask.any(1).tolist() == [False, True]


def test_gradients_reach_the_words_that_are_used() -> None:
    encoder = make_vocabulary().train()
    encoder.encode(["red ball"]).embeddings[:, :2].square().sum().backward()
    assert encoder.embedding.weight.grad is not None
    used = encoder.embedding.weight.grad.abs().sum(1) > 0
    words = {word for word, is_used in zip(encoder.words, used, strict=True) if is_used}
    assert {"red", "ball"} <= words


def test_an_unknown_word_is_named_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"no word 'bals' \(it knows 10 words, .*balls.*ball"):
        make_vocabulary().encode(["two bals"])
    with pytest.raises(ValueError, match=r"no word 'zzz' \(it knows 10 words: ,, \., a, at"):
        make_vocabulary().encode(["zzz"])


def test_a_caption_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 6 words, got 7"):
        make_vocabulary().encode(["a a a a a a a"])


@pytest.mark.parametrize(
    ("words", "width", "rule"),
    [
        ([], 8, "got 0 words"),
        (["a", "a"], 8, "1 different"),
        (["a"], 6, "width 6"),
        (["a" * 101], 8, "1 to 100 printable characters"),
        (["a\x1b[2J"], 8, "1 to 100 printable characters"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(words: list[str], width: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        VocabularyEncoder(words, 3, width)


def test_a_vocabulary_is_saved_and_read(tmp_path: Path) -> None:
    encoder = make_vocabulary()
    encoder.save(tmp_path / "text")
    read = load_text(tmp_path / "text")
    assert read is not None
    assert read.identity() == encoder.identity()
    assert read.encode(CAPTIONS).embeddings.equal(encoder.encode(CAPTIONS).embeddings)
    assert load_text(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "os.system"}, "_class_name must be one of VocabularyEncoder, Pre"),
        ({"words": "a red ball"}, "must be a list of texts"),
        ({"words": [1, 2]}, "must be a list of texts"),
        ({"words": ["one", "two"]}, "embedding.weight has shape"),
        ({"width": 2**15}, "many more weights than are stored"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_damaged_vocabulary_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    make_vocabulary().save(tmp_path / "text")
    edit(tmp_path / "text/config.json", change)
    with pytest.raises(ValueError, match=words):
        load_text(tmp_path / "text")


def edit(path: Path, change: dict[str, Any]) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **change}), encoding="utf-8")


@pytest.mark.parametrize(("kind", "width"), [("T5", 32), ("UMT5", 32), ("CLIP", 24)])
def test_encoders_of_transformers_embed_captions(kind: str, width: int, tmp_path: Path) -> None:
    name = save_tiny_encoder(tmp_path, kind)
    encoder = PretrainedEncoder.of(name, [*KNOWN, None])
    text = encoder.encode([None, *KNOWN])
    assert text.embeddings.shape == (3, encoder.max_tokens, width)
    assert text.mask.sum(1).tolist() == [0, 2, 7]
    # They are those of the model itself, without padding.
    loaded = load_encoder(name)
    tokens = loaded.tokenizer(KNOWN[0], return_tensors="pt")
    expected = loaded.model(input_ids=tokens["input_ids"]).last_hidden_state[0]
    torch.testing.assert_close(text.embeddings[1, :2], expected)
    assert list(encoder.parameters()) == []


def test_a_world_keeps_captions_and_needs_its_encoder_for_new_ones(tmp_path: Path) -> None:
    name = save_tiny_encoder(tmp_path / "encoder")
    encoder = PretrainedEncoder.of(name, KNOWN)
    encoder.save(tmp_path / "text", [KNOWN[0], None, KNOWN[0]])
    read = load_text(tmp_path / "text")
    assert isinstance(read, PretrainedEncoder)
    assert read.encode([KNOWN[0]]).embeddings.equal(encoder.encode([KNOWN[0]]).embeddings)
    assert not read.encode([None]).mask.any()
    with pytest.raises(ValueError, match=r"not loaded because a file names it.*--text-encoder"):
        read.encode(["the grass"])
    for each in (read, encoder):
        assert isinstance(each, PretrainedEncoder)
        each.use(name)
    torch.testing.assert_close(
        read.encode(["the grass"]).embeddings, encoder.encode(["the grass"]).embeddings
    )
    with pytest.raises(ValueError, match="at most 7 tokens, got 8"):
        read.encode([f"{KNOWN[1]} grass"])


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    encoder = PretrainedEncoder.of(save_tiny_encoder(tmp_path / "a"), KNOWN)
    encoder.save(tmp_path / "text", KNOWN)
    read = load_text(tmp_path / "text")
    assert isinstance(read, PretrainedEncoder)
    with pytest.raises(ValueError, match="another text encoder than the world was trained with"):
        read.use(save_tiny_encoder(tmp_path / "b", seed=1))
    with pytest.raises(ValueError, match="cannot be loaded as a text encoder"):
        read.use(str(tmp_path / "text"))


def test_a_copy_of_an_encoder_elsewhere_is_the_same(tmp_path: Path) -> None:
    one, two = (load_encoder(save_tiny_encoder(tmp_path / name)) for name in "ab")
    assert one.fingerprint == two.fingerprint


def test_a_world_that_names_an_encoder_on_the_hub_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PretrainedEncoder.of(save_tiny_encoder(tmp_path / "encoder"), KNOWN)
    encoder.save(tmp_path / "text", KNOWN)
    edit(tmp_path / "text/config.json", {"name": "stranger/encoder"})

    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    read = load_text(tmp_path / "text")
    assert read is not None
    assert read.encode(KNOWN).mask.any(1).all()
    with pytest.raises(ValueError, match="stranger/encoder"):
        read.encode(["grass"])


def test_embeddings_of_a_training_are_kept_in_a_file(tmp_path: Path) -> None:
    name, file = save_tiny_encoder(tmp_path / "encoder"), tmp_path / "captions.safetensors"
    first = PretrainedEncoder.of(name, KNOWN, file)
    written = file.read_bytes()
    tensors = load_file(file)
    again = PretrainedEncoder.of(name, KNOWN, file)
    assert file.read_bytes() == written
    assert again.encode(KNOWN).embeddings.equal(first.encode(KNOWN).embeddings)
    # What the file holds is used, and not computed again.
    with pytest.raises(ValueError, match="another text encoder"):
        PretrainedEncoder.of(save_tiny_encoder(tmp_path / "b", seed=1), KNOWN, file)
    about = {"captions": json.dumps(KNOWN), "fingerprint": first.identity()["fingerprint"]}
    save_file({key: 2 * tensor for key, tensor in tensors.items()}, file, metadata=about)
    twice = PretrainedEncoder.of(name, KNOWN, file).encode(KNOWN).embeddings
    assert twice.equal(2 * first.encode(KNOWN).embeddings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "sha256:0"}, "of another text encoder"),
        ({"width": 31}, "have the shape"),
        ({"max_tokens": 1}, "have the shape"),
        ({"name": 3}, "are texts"),
    ],
)
def test_a_damaged_folder_of_embeddings_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    PretrainedEncoder.of(save_tiny_encoder(tmp_path / "encoder"), KNOWN).save(
        tmp_path / "text", KNOWN
    )
    edit(tmp_path / "text/config.json", change)
    with pytest.raises(ValueError, match=words):
        load_text(tmp_path / "text")


def test_a_model_that_is_no_text_encoder_is_refused(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path)
    edit(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match="it is a bert, and text encoders are t5, mt5, umt5, clip"):
        load_encoder(str(tmp_path))


def test_copies_share_what_is_known(tmp_path: Path) -> None:
    encoder = PretrainedEncoder.of(save_tiny_encoder(tmp_path), KNOWN)
    twin = copy.deepcopy(encoder)
    assert isinstance(twin, PretrainedEncoder)
    assert twin.known is encoder.known
    assert np.array_equal(twin.encode(KNOWN).embeddings, encoder.encode(KNOWN).embeddings)
