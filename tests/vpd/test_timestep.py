"""The folded time embedding: the bits of the computed one, and never those of other weights."""

from __future__ import annotations

import pytest
import torch

from vpd import DiffusionBackbone


def build(**options) -> DiffusionBackbone:
    return DiffusionBackbone.from_name("tiny", "random", token_length=8, **options).eval()


def computed(backbone: DiffusionBackbone, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The embedding as diffusers' own forward makes it."""
    unet = backbone.unet
    time = torch.tensor([backbone.features.timestep])
    return unet.time_embedding(unet.time_proj(time).to(dtype))


@pytest.fixture
def calls():
    return []


def watched(backbone: DiffusionBackbone, calls: list[int]) -> DiffusionBackbone:
    backbone.unet.time_embedding.register_forward_hook(lambda m, i, o: calls.append(1))
    return backbone


def test_it_is_computed_once_and_is_the_same_bits(calls):
    backbone = watched(build(), calls)
    latent, text = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 64)
    with torch.no_grad():
        first, again = (backbone(latent, text).features for _ in range(2))
        assert len(calls) == 1
        backbone.features.time.forget()
        fresh = backbone(latent, text).features
    assert len(calls) == 2
    for one, two, three in zip(first, again, fresh, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert torch.equal(backbone.features.time(latent), computed(backbone))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.unet.time_embedding.linear_1.weight.mul_(2),
        lambda b: b.load_state_dict({k: 1.5 * v for k, v in b.state_dict().items()}),
        lambda b: b.unet.load_state_dict(
            {k: 1.5 * v for k, v in b.unet.state_dict().items()}, assign=True
        ),
        lambda b: b.to(torch.bfloat16).float(),
        lambda b: b.unet.to(torch.bfloat16).float(),
    ],
    ids=["in place", "load", "load, assigned", "cast", "cast of the part"],
)
def test_it_follows_its_weights(change):
    backbone = build()
    like = torch.zeros(1)
    with torch.no_grad():
        before = backbone.features.time(like).clone()
        change(backbone)
        backbone.unet.requires_grad_(False)  # an assigned load makes new parameters
        after = backbone.features.time(like)
        assert torch.equal(after, computed(backbone))
    assert not torch.equal(before, after)


def test_it_follows_dtype_and_autocast(calls):
    backbone = watched(build(), calls)
    like = torch.zeros(1)
    with torch.no_grad():
        backbone.features.time(like)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone.features.time(like)
            assert torch.equal(half, computed(backbone))
        assert half.dtype == torch.bfloat16
        assert backbone.features.time(like).dtype == torch.float32
        backbone.to(torch.bfloat16)
        assert torch.equal(
            backbone.features.time(like.bfloat16()), computed(backbone, torch.bfloat16)
        )


def test_trained_weights_are_never_folded(calls):
    backbone = watched(build(unet_mode="finetune"), calls)
    weight = backbone.unet.time_embedding.linear_1.weight
    for step in range(2):
        found = backbone.features.time(torch.zeros(1))
        found.square().sum().backward()
        assert weight.grad.abs().sum() > 0
        weight.data.sub_(weight.grad)  # goes round the version counter, as some optimizers do
        weight.grad = None
        assert len(calls) == step + 1


def test_what_inference_mode_kept_serves_training():
    backbone = build()
    with torch.inference_mode():
        backbone.features.time(torch.zeros(1))
    assert not backbone.features.time(torch.zeros(1)).is_inference()
    backbone.train()
    latent, text = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 64)
    sum(f.square().mean() for f in backbone(latent, text).joined()).backward()
    assert backbone.adapter.gamma.grad.abs().sum() > 0
