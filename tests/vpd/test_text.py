"""The tokenizer against mmsegmentation's own CLIP tokenizer, cleaning, padding, the adapter."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from vpd.errors import ConfigError, TextError
from vpd.text import TextAdapter, clean, clip_tokenizer, encode, token_counts, tokenize

SENTENCES = [
    "the left giraffe",
    "Woman's   hat &amp; scarf",
    "guy in #23, 2nd from right...",
    "caf\u00e9 sign \u201cOPEN\u201d",
    "man w/ tie (blue)!!",
    "don't it's we've",
    "girl <3 mom &amp;amp; dad",
]


def reference_ids(sentences: list[str]) -> list[list[int]]:
    """Ids by mmsegmentation's independent pure-python tokenizer."""
    from ris.mmseg_compat import import_models

    import_models()
    from mmseg.utils.tokenizer import SimpleTokenizer

    reference = SimpleTokenizer()
    start, end = 49406, 49407  # CLIP's begin and end tokens
    return [[start, *reference.encode(sentence), end] for sentence in sentences]


def test_ids_equal_a_second_implementation():
    assert clip_tokenizer()([clean(s) for s in SENTENCES])["input_ids"] == reference_ids(SENTENCES)


def test_ids_on_real_sentences(shared):
    with gzip.open(shared / "data" / "refcoco_eval" / "refcoco_testB.json.gz") as file:
        sentences = [record["sents"] for record in json.load(file)][:1500]
    found = clip_tokenizer()([clean(s) for s in sentences])["input_ids"]
    assert found == reference_ids(sentences)


def test_padding_and_truncation():
    tokenizer = clip_tokenizer()
    ids = tokenize(tokenizer, ["a red ball", "one two three four five six seven"], 6)
    assert ids.shape == (2, 6)
    assert ids[0, 0] == 49406
    assert ids[0, 4:].tolist() == [49407, 49407]  # the end token, and padding with the same
    assert ids[1, -1] == 49407  # what is cut still ends
    assert token_counts(tokenizer, ["a red ball"]) == [5]


@pytest.mark.parametrize("sentence", ["", "   ", None])
def test_empty_sentences_are_refused(sentence):
    with pytest.raises(TextError, match="sentence 0 of 1"):
        tokenize(clip_tokenizer(), [sentence], 8)


def test_encoding_is_the_last_hidden_state_and_bounded():
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    ).eval()
    found = encode(encoder, clip_tokenizer(), ["a red ball"], 7)
    ids = tokenize(clip_tokenizer(), ["a red ball"], 7)
    with torch.no_grad():
        expected = encoder(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        expected = encoder.final_layer_norm(expected)
    assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="78 is outside 3 to 77"):
        encode(encoder, clip_tokenizer(), ["a"], 78)


def test_the_adapter_starts_near_the_identity():
    adapter, text = TextAdapter(16), torch.randn(2, 5, 16)
    assert torch.allclose(adapter(text), text, atol=1e-3)
    assert torch.equal(adapter.gamma, torch.full((16,), 1e-4))  # VPD, section 3.2
    adapter.gamma.data.fill_(1.0)
    expected = text + adapter.fc[2](torch.nn.functional.gelu(adapter.fc[0](text)))
    assert torch.allclose(adapter(text), expected)


def test_no_sentences_have_no_tokens():
    assert token_counts(clip_tokenizer(), []) == []
