"""On a device that is not the host's, nothing is left on the host and nothing is read from there.

torch's "meta" device stands for a GPU: it computes shapes only, refuses to meet tensors of the CPU
in one operation, and has no value that could be read. Matrix products and indexing let CPU tensors
pass, so this finds most of what a GPU would refuse, and not all.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest
import torch

from ris.engine import optim
from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from vpd import DiffusionBackbone

RECIPE = {"lr": 1e-3, "weight_decay": 0.0, "amsgrad": False, "precision": "fp32", "clip": 1.0}
WORDS = {"type": "WordDecoder", "channels": 16, "word_channels": 16, "layers": 2}
VPD: dict[str, Any] = {"type": "VPDDecoder", "channels": 16}
GRES = {"type": "GRESHead", "grid": 4, "width": 32, "heads": 4, "feedforward": 32}
REFTR = {"type": "RefTRHead", "width": 32, "heads": 4, "feedforward": 32, "encoder_layers": 1,
         "decoder_layers": 1}  # fmt: skip
PIXELS = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}
ONE = {"text": ["a dog", "left"]}
SOME = {**ONE, "n_targets": [0, 2]}
PHRASES = {
    "captions": ["a dog and a cat", "left"],
    "caption_of_phrase": torch.tensor([0, 0, 1]),
    "spans": torch.tensor([[0, 5], [10, 15], [0, 4]]),
}
SYSTEMS = {
    "words": (VPDRefer, WORDS, ONE),
    "vpd": (VPDRefer, VPD, ONE),
    "several": (GeneralRefer, {**GRES, "mask": WORDS}, SOME),
    "boxes": (GroundRefer, {**REFTR, "answers": "both"}, PHRASES),
    "pixels": (GroundRefer, {**PIXELS, "answers": "both"}, PHRASES),
}


@pytest.fixture
def elsewhere(monkeypatch):
    """What torch does not know for this device: autocast and fused optimizers."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    adam = sys.modules[torch.optim.Adam.__module__]  # torch.optim hides it
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *args, **options: None)


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_step_and_an_answer_stay_on_the_device(elsewhere, name, mode):
    kind, head, asked = SYSTEMS[name]
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=16, unet_mode=mode)
    model = kind(backbone, head).train()
    # Built before the move, too: whatever it holds must be found where it is then.
    wrapper = optim.build_optimizer(model, RECIPE, "cpu")
    model.to("meta")
    picture = {"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)}
    masks = torch.zeros(3 if "captions" in asked else 2, 64, 64, dtype=torch.uint8)
    truth = {"masks": masks, "boxes": torch.rand(3, 4)} if "captions" in asked else {"mask": masks}
    batch = model.data_preprocessor({**picture, **asked, **truth})
    for _ in range(2):
        losses = model(**batch, mode="loss")
        wrapper.update_params(sum(losses.values()))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.eval()
    index = {"picture_index": torch.tensor([1, 0])}
    found = model(**model.data_preprocessor({**picture, **asked, **index}), mode="predict")
    assert found is not None
