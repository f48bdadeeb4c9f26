"""Text features in memory and on disk: which are found, which give way, what the disk rounds."""

from __future__ import annotations

import pytest
import torch

from vpd import kept_texts
from vpd.cache import TensorCache
from vpd.kept_texts import KeptTexts

CPU = torch.device("cpu")


def feature(number: float) -> torch.Tensor:
    return torch.full((2, 3), float(number))


def test_the_longest_unused_give_way(monkeypatch):
    monkeypatch.setattr(kept_texts, "IN_MEMORY", 2 * feature(0).nbytes)
    texts = KeptTexts()
    texts.remember({"one": feature(1), "two": feature(2)})
    texts.remember(texts.find(["one"], CPU))  # used again: "two" is the older one now
    texts.remember({"three": feature(3)})
    found = texts.find(["one", "two", "three"], CPU)
    assert {s: float(f.mean()) for s, f in found.items()} == {"one": 1, "three": 3}
    texts.forget()
    assert texts.find(["one", "three"], CPU) == {}


def test_no_gradient_is_held():
    texts, grown = KeptTexts(), feature(1).requires_grad_()
    texts.remember({"one": grown * 2})
    assert texts.find(["one"], CPU)["one"].grad_fn is None


@pytest.mark.parametrize(("dtype", "exact"), [("float32", True), ("float16", False)])
def test_a_new_feature_is_what_the_disk_will_give(tmp_path, dtype, exact):
    def opened() -> KeptTexts:
        texts = KeptTexts()
        texts.on_disk = TensorCache(tmp_path, "texts", ["weights"], (2, 3), dtype)
        return texts

    made = feature(1 / 3)
    stored = opened().store("a dog", made)
    assert torch.equal(stored, made) == exact
    again = opened().find(["a dog", "a cat"], CPU)
    assert list(again) == ["a dog"]
    assert torch.equal(again["a dog"], stored)
