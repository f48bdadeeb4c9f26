"""Models that ignore the sentence: nothing of it reaches them, not even its length."""

from __future__ import annotations

import pytest
import torch

from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from vpd import DiffusionBackbone

SENTENCES = ["dog", "the second of two red squares"]
GRES = {"type": "GRESHead", "mask": {"type": "VPDDecoder", "channels": 16}, "grid": 4,
        "width": 32, "heads": 4, "feedforward": 32, "mask_channels": 8}  # fmt: skip
PIXELS = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}


@pytest.fixture(scope="module")
def backbone() -> DiffusionBackbone:
    return DiffusionBackbone.from_name("tiny", token_length=16)


@pytest.mark.parametrize("blind", [True, False])
def test_masks_and_nothing_here(backbone, blind):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1) * 2 - 1
    for build, head in ((VPDRefer, None), (GeneralRefer, GRES)):
        model = build(backbone, head, ignore_sentence=blind).eval()
        with torch.no_grad():
            found = model(image, SENTENCES)
        parts = [found] if isinstance(found, torch.Tensor) else found
        for part in parts:
            assert torch.allclose(part[0], part[1], atol=1e-6) == blind


@pytest.mark.parametrize("blind", [True, False])
def test_boxes_and_masks_of_phrases(backbone, blind):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1) * 2 - 1
    model = GroundRefer(backbone, PIXELS, ignore_sentence=blind).eval()
    spans = torch.tensor([(0, len(one)) for one in SENTENCES])
    with torch.no_grad():
        found = model(image, SENTENCES, torch.arange(2), spans)
    for part in (found.boxes[-1], found.mask):
        assert torch.allclose(part[0], part[1], atol=1e-6) == blind
