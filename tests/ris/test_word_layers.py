"""Layers that compare cells: in full precision whatever the rest runs in."""

from __future__ import annotations

import torch

from ris.heads.word_layers import WordLayers


def test_autocast_changes_nothing_but_what_it_is_given():
    torch.manual_seed(0)
    layers = WordLayers(16, 10, layers=2).eval()
    features, text = torch.randn(2, 16, 8, 8).bfloat16(), torch.randn(2, 6, 10).bfloat16()
    with torch.no_grad():
        plain = layers(features.float(), text.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = layers(features, text)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
