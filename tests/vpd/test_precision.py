"""Weights kept rounded give autocast's own bits."""

import copy

import pytest
import torch
from torch import nn

from vpd import DiffusionBackbone
from vpd.precision import lower


def test_the_pyramid_and_the_latent_are_autocasts_own_bits(backbone_at_random):
    whole = backbone_at_random
    low = copy.deepcopy(whole)
    held = sum(p.nbytes for p in low.unet.parameters())
    saved = lower(low.unet, torch.bfloat16) + lower(low.vae, torch.bfloat16)
    assert 0.4 * held < saved
    picture = torch.randn(1, 3, 64, 64)
    text = torch.randn(2, whole.token_length, whole.text_channels)
    index = torch.zeros(2, dtype=torch.long)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = whole(whole.encode_image(picture), text, index).joined()
        found = low(low.encode_image(picture), text, index).joined()
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def backbone_at_random():
    torch.manual_seed(0)
    return DiffusionBackbone.from_name("tiny", "random", token_length=8).eval()


def test_layers_that_train_and_norms_keep_their_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model[1].requires_grad_(False)
    model[2].requires_grad_(False)
    assert lower(model, torch.bfloat16) == 2 * (16 + 4)
    assert [part.weight.dtype for part in model] == [torch.float32, torch.float32, torch.bfloat16]


def test_float32_changes_nothing():
    layer = nn.Linear(2, 2).requires_grad_(False)
    assert lower(layer, torch.float32) == 0
    assert layer.weight.dtype == torch.float32
