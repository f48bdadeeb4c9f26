"""Untrained tiny weights keep what a head needs: the picture and the words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vpd import DiffusionBackbone
from vpd.weights import random_components
from vpd.zoo import ZOO


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """float32 [60, 3, 128, 128] in [-1, 1]: RefShapes scenes."""
    import numpy as np
    from PIL import Image

    from refer.shapes import generate

    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=60, val=1, test_a=1, test_b=1, size=128, workers=1, progress=False)
    files = sorted((root / "images" / "refshapes").glob("*.jpg"))[:60]
    arrays = [np.asarray(Image.open(file)) for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def explained(latent: torch.Tensor, target: torch.Tensor) -> float:
    """R2 of a linear reading of `target` from each latent cell and its neighbours, held out."""
    x = F.unfold(latent, 3, padding=1).transpose(1, 2).flatten(0, 1)
    x = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-6), torch.ones(len(x), 1)], dim=1)
    y = target.permute(0, 2, 3, 1).flatten(0, 2)
    half = len(x) // 2
    weights = torch.linalg.lstsq(x[:half], y[:half]).solution
    residual = (x[half:] @ weights - y[half:]).square().mean(0)
    return (1 - residual / y[half:].var(0)).mean().item()


def test_latents_keep_the_colours(pictures):
    colours = F.avg_pool2d(pictures, 8)
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    kept = explained(backbone.encode_image(pictures), colours)
    # What diffusers' own initial values keep, with the same architecture.
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    usual = AutoencoderKL(**ZOO["tiny"].vae).eval()
    with torch.no_grad():
        lost = explained(usual.encode(pictures).latent_dist.mode(), colours)
    assert kept > 0.6
    assert kept > lost + 0.2


def test_a_word_is_recognised_wherever_it_stands():
    """The text feature nearest to a word's is the same word's at another place."""
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    words = ["red", "blue", "star", "circle", "left", "big"]
    first = backbone.encode_text([f"{word} one" for word in words])[:, 1]
    later = backbone.encode_text([f"the one {word}" for word in words])[:, 3]
    nearest = torch.cdist(first, later).argmin(dim=1)
    assert nearest.tolist() == list(range(len(words)))


def test_loaded_weights_are_left_alone(tmp_path):
    """The adjustment belongs to random weights: a folder gives back what it holds."""
    parts = random_components(ZOO["tiny"], 0)
    before = parts.unet.state_dict()
    parts.unet.save_pretrained(tmp_path)
    from diffusers import UNet2DConditionModel

    again = UNet2DConditionModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items())
