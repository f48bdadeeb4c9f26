"""From the model's grid to the picture's own: half-pixel centres, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ris.ground_inference import _decide
from ris.grounding import GroundAnswer, GroundRefer
from ris.inference import segment
from ris.models import VPDRefer
from vpd import DiffusionBackbone

# Two cells over four pixels: the centres lie at a quarter and three quarters of a cell.
CELLS, PIXELS = [0.0, 4.0], [0.0, 1.0, 3.0, 4.0]


def test_phrases_masks_are_resized_by_half_pixel_centres():
    found = GroundRefer.resized(torch.tensor([[CELLS]]), (1, 4))
    assert found.tolist() == [[PIXELS]]


def test_phrases_masks_are_given_at_the_pictures_size_by_half_pixel_centres():
    answer = GroundAnswer(None, torch.tensor([CELLS]) / 4)
    found = _decide([answer], (1, 4))
    assert found.probabilities.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]
    assert found.masks.tolist() == [[[False, False, True, True]]]


def test_boxes_are_cut_at_the_pictures_edges():
    answers = [GroundAnswer(torch.tensor([x, 0.5, 0.5, 1.5]), None) for x in (0.0, 0.5, 1.0)]
    found = _decide(answers, (40, 80))
    assert found.boxes.tolist() == [[0, 0, 20, 40], [20, 0, 60, 40], [60, 0, 80, 40]]


def test_phrases_of_a_caption_that_was_cut_are_told_of(monkeypatch):
    head = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}
    model = GroundRefer(DiffusionBackbone.from_name("tiny", "random", token_length=8), head).eval()
    monkeypatch.setattr(
        model,
        "ground",
        lambda latent, captions, owners, spans, *rest: [
            GroundAnswer(torch.rand(4), None) for _ in spans
        ],
    )
    asked = [["[a dog] and [a cat]", "a dog beside a very long red [bench]"], ["the [sky]"]]
    one, two = segment(model, torch.zeros(2, 8, 8, 8), [(4, 4), (3, 5)], asked, (64, 64),
                       torch.float32, attention=False)  # fmt: skip
    assert one.expressions == ["a dog", "a cat", "bench"]
    assert one.truncated == [False, False, True]
    assert (two.expressions, two.truncated) == (["sky"], [False])


@pytest.mark.parametrize(("batch", "latents"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [2])])
def test_the_unet_is_given_the_pictures_that_a_batch_asks_of(monkeypatch, batch, latents):
    """And no others, which would cost their time in every batch."""
    model = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8), sentence_batch=batch
    ).eval()
    seen, asked = [], []

    def logits(given, texts, size, index):
        seen.append(len(given))
        asked.extend(zip(texts, given[index, 0, 0, 0].tolist(), strict=True))
        return torch.zeros(len(texts), 2, 8, 8)

    monkeypatch.setattr(model, "logits", logits)
    pictures = torch.arange(2.0)[:, None, None, None].expand(2, 8, 8, 8)
    segment(model, pictures, [(4, 4), (3, 5)], [["a"], ["b", "c"]], (64, 64), torch.float32,
            attention=False)  # fmt: skip
    assert seen == latents
    assert asked == [("a", 0.0), ("b", 1.0), ("c", 1.0)]


@pytest.mark.parametrize("batch", [1, 8])
def test_logits_are_resized_by_half_pixel_centres_before_the_softmax(monkeypatch, batch):
    """Two pictures of other sizes, of which the second is asked twice."""
    model = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8), sentence_batch=batch
    ).eval()
    low = torch.zeros(3, 2, 1, 2)
    low[:, 1, 0] = torch.tensor([CELLS, CELLS[::-1], [2.0, -2.0]])
    asked = ["a", "b", "c"]

    def logits(latents, texts, *rest):
        return torch.stack([low[asked.index(text)] for text in texts])

    monkeypatch.setattr(model, "logits", logits)
    found = segment(model, torch.zeros(2, 8, 8, 8), [(1, 4), (3, 5)], [["a"], ["b", "c"]],
                    (64, 64), torch.float32, attention=False)  # fmt: skip
    by_hand = 1 / (1 + np.exp(-np.array(PIXELS)))
    np.testing.assert_allclose(found[0].probabilities, by_hand[None, None], rtol=1e-5)
    second = F.interpolate(low[1:], size=(3, 5), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found[1].probabilities, second.softmax(dim=1)[:, 1], rtol=1e-5)
    assert (found[1].masks == (found[1].probabilities > 0.5)).all()
