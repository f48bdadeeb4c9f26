"""`ris tokens` on data whose counts are odd."""

from __future__ import annotations

from types import SimpleNamespace

from ris.commands import tokens


def test_a_split_without_sentences_is_said_to_have_none():
    some = {"split": "train", "sentences": [{"sent": "a red ball"}]}
    none = {"split": "val", "sentences": []}
    counts = tokens.count(SimpleNamespace(Refs={1: some, 2: none}), "sent")
    text = tokens.report(counts)
    assert "train: 1 sentences, longest 5 tokens" in text
    assert "val: no sentences" in text
    assert "recommended: --token_length 16" in text
