"""The model that ships with the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from vpd import DiffusionBackbone, WeightsError, weights
from vpd.zoo import EMBEDDED, EMBEDDED_FOLDER, named


def test_it_is_small_and_says_where_it_comes_from():
    files = [path for path in EMBEDDED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    card = (EMBEDDED_FOLDER / "README.md").read_text()
    assert len(re.findall(r"`[0-9a-f]{64}`", card)) == 2
    assert re.search(r"\| denoiser \| \d+ \| \d+ \| [\d.]+ \| [\d.]+ \|", card)


def test_plain_diffusers_draws_with_it():
    pipe = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        ["a red circle", "a blue square"], height=128, width=128, num_inference_steps=10,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    assert pictures.shape == (2, 3, 128, 128)
    red, blue = pictures[0].mean(dim=(1, 2)), pictures[1].mean(dim=(1, 2))
    assert red[0] - red[2] > blue[0] - blue[2]  # the first is redder, the second bluer


def test_it_is_the_default_of_tiny():
    backbone = DiffusionBackbone.from_name("tiny", token_length=16)
    assert backbone.source == EMBEDDED
    unet = backbone.unet.state_dict()
    shipped = weights.from_diffusers(EMBEDDED_FOLDER).unet.state_dict()
    assert all(torch.equal(unet[name], value) for name, value in shipped.items())


def test_its_shapes_are_the_zoos():
    """Random and pre-trained backbones are compared, so they must be alike but for the numbers."""
    shipped = weights.from_diffusers(EMBEDDED_FOLDER)
    random = weights.random_components(named("tiny"), 0)
    for part in ("unet", "vae", "text_encoder"):
        one, other = (getattr(parts, part).state_dict() for parts in (shipped, random))
        assert {n: v.shape for n, v in one.items()} == {n: v.shape for n, v in other.items()}


def test_a_missing_folder_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "EMBEDDED_FOLDER", Path(tmp_path / "gone"))
    with pytest.raises(WeightsError, match=r"gone.*pretrain_tiny.*--weights random"):
        weights.load_components(None, named("tiny"))
