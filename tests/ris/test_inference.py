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
