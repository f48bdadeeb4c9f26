"""Trades: off by default, each against a plain second implementation, bad values named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from vpd import ConfigError, DiffusionBackbone, WeightsError, trades
from vpd.int8 import Int8Linear
from vpd.merging import merging
from vpd.weights import random_components
from vpd.zoo import ZOO


def build(layout: str = "tiny", **options) -> DiffusionBackbone:
    """The tiny widths with the attention layout of a backbone."""
    zoo = ZOO["tiny"]
    types = {name: ZOO[layout].unet[name] for name in ("down_block_types", "up_block_types")}
    parts = random_components(replace(zoo, unet={**zoo.unet, **types}), seed=0)
    torch.manual_seed(0)
    return DiffusionBackbone(parts, token_length=8, **options).eval()


def run(backbone: DiffusionBackbone) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    latent, text = torch.randn(2, 8, 8, 16), torch.randn(3, 8, 64)
    with torch.no_grad():
        return backbone(latent, text, torch.tensor([0, 1, 0])).joined()


def plain_merge(tokens, cells, ratio):
    """One token after the other, with loops: (merged tokens, the row each token became)."""
    h, w = cells
    kept = [y * w + x for y in range(0, h, 2) for x in range(0, w, 2)]
    rest = [n for n in range(h * w) if n not in kept]
    best = {}
    for n in rest:
        like = [torch.cosine_similarity(tokens[n], tokens[k], dim=0).item() for k in kept]
        best[n] = (max(like), like.index(max(like)))
    order = sorted(rest, key=lambda n: -best[n][0])
    away = order[: int(ratio * h * w)]
    alone = [n for n in rest if n not in away]
    rows = [tokens[n] for n in alone]
    became = {n: row for row, n in enumerate(alone)}
    for number, k in enumerate(kept):
        joined = [k, *(n for n in away if best[n][1] == number)]
        became |= {n: len(rows) for n in joined}
        rows.append(torch.stack([tokens[n] for n in joined]).mean(0))
    return torch.stack(rows), [became[n] for n in range(h * w)]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_merging_equals_the_loops(ratio):
    torch.manual_seed(0)
    tokens = torch.randn(2, 24, 5)
    merge, unmerge = merging(tokens, (4, 6), ratio)
    merged = merge(tokens)
    assert merged.shape == (2, 24 - int(24 * ratio), 5)
    for row in range(2):
        expected, became = plain_merge(tokens[row], (4, 6), ratio)
        assert torch.allclose(merged[row], expected, atol=1e-6)
        assert torch.allclose(unmerge(merged)[row], expected[became], atol=1e-6)


def test_tokens_that_are_alike_lose_nothing():
    """Four equal tokens in each window: attention over one of each gives what all would."""
    torch.manual_seed(0)
    windows = torch.randn(1, 4, 1, 6, 1, 8)
    tokens = windows.expand(1, 4, 2, 6, 2, 8).reshape(1, 96, 8)
    merge, unmerge = merging(tokens, (8, 12), 0.75)
    attend = nn.functional.scaled_dot_product_attention
    small = merge(tokens)
    assert small.shape[1] == 24
    assert torch.allclose(
        unmerge(attend(small, small, small)), attend(tokens, tokens, tokens), atol=1e-5
    )


@pytest.mark.parametrize(("layout", "level"), [("sd15", 0), ("tiny", 1)])
def test_merged_attention_sees_fewer_tokens_at_the_finest_level_only(layout, level):
    exact, merged = build(layout), build(layout, trades={"merge_tokens": 0.5})
    seen: dict[str, set[int]] = {}
    for name, backbone in (("exact", exact), ("merged", merged)):
        for block in backbone.unet.modules():
            if type(block).__name__ == "BasicTransformerBlock":
                block.attn1.to_q.register_forward_hook(
                    lambda m, i, o, name=name: seen.setdefault(name, set()).add(o.shape[1])
                )
    one, two = run(exact), run(merged)
    finest = 128 // 4**level
    assert max(seen["exact"]) == finest
    assert seen["merged"] == (seen["exact"] - {finest}) | {finest // 2}
    assert not torch.equal(one[0], two[0])
    for again, before in zip(run(merged), two, strict=True):
        assert torch.equal(again, before)
    assert merged.trade_names == ["merge_tokens=0.5"]


@pytest.mark.parametrize(("layout", "cells"), [("sd15", (8, 16)), ("tiny", (4, 8))])
def test_merging_is_told_of_rows_and_columns_in_their_order(layout, cells, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "vpd.merging.merging",
        lambda tokens, own, ratio: seen.append(own) or merging(tokens, own, ratio),
    )
    run(build(layout, trades={"merge_tokens": 0.5}))
    assert set(seen) == {cells}


def test_int8_equals_rounding_by_hand():
    torch.manual_seed(0)
    linear, x = nn.Linear(16, 8), torch.randn(2, 3, 16)
    with torch.no_grad():
        found = Int8Linear(linear)(x)
        step_w = linear.weight.abs().amax(1, keepdim=True) / 127
        step_x = x.abs().amax(-1, keepdim=True) / 127
        weight, rows = (linear.weight / step_w).round(), (x / step_x).round()
        expected = (rows * step_x) @ (weight * step_w).T + linear.bias
        exact = linear(x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert 0 < (found - exact).abs().max() < 0.05
    assert torch.equal(Int8Linear(linear)(torch.zeros(1, 16)), linear.bias[None])
    with pytest.raises(ConfigError, match="passes no gradient"):
        Int8Linear(linear)(x.requires_grad_())


def test_int8_takes_the_transformers_and_a_quarter_of_their_memory():
    exact, small = build(), build(trades={"int8": True})
    linears = [m for m in small.unet.modules() if isinstance(m, Int8Linear)]
    before = [n for n, m in exact.unet.named_modules()
              if type(m) is nn.Linear and ".attentions." in n]  # fmt: skip
    assert len(linears) == len(before) > 0
    assert all(m.weight.dtype == torch.int8 for m in linears)
    assert small.trade_names == ["int8"]
    for one, two in zip(run(exact), run(small), strict=True):
        assert 0 < (one - two).norm() / one.norm() < 0.1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linears[0](torch.randn(2, linears[0].in_features)).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """A tiny autoencoder of 8 channels at stride 8, as the embedded backbone's latents are."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("taesd")
    widths = (8, 8, 8, 8)
    AutoencoderTiny(
        latent_channels=8, encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_tiny_latents_are_on_the_scale_of_the_mode(taesd, tmp_path):
    exact, tiny = build(), build()
    exact.vae.register_to_config(scaling_factor=0.18215)
    tiny.vae.register_to_config(scaling_factor=0.18215)
    tiny.trade({"tiny_vae": str(taesd)})
    picture = torch.rand(1, 3, 64, 128) * 2 - 1
    whole = AutoencoderTiny.from_pretrained(taesd)
    with torch.no_grad():
        expected = whole.encode(picture).latents / 0.18215
    assert torch.allclose(tiny.encode_image(picture), expected, rtol=1e-5)
    assert tiny.state_dict().keys() == exact.state_dict().keys()
    assert tiny.trade_names == [f"tiny_vae={taesd}"]
    folders = {b.latent_cache(tmp_path, (64, 128)).folder for b in (exact, tiny)}
    assert len(folders) == 2  # kept latents of one are never read as the other's
    whole.register_to_config(scaling_factor=0.5)
    whole.save_pretrained(tmp_path / "scaled")
    scaled = build()
    scaled.vae.register_to_config(scaling_factor=0.18215)
    scaled.trade({"tiny_vae": str(tmp_path / "scaled")})
    assert torch.allclose(scaled.encode_image(picture), expected * 0.5, rtol=1e-5)
    tiny.to(torch.float64)
    assert tiny.encode_image(picture.double()).dtype == torch.float64


def test_bad_trades_are_named(taesd, tmp_path):
    for wanted, message in (
        ({"int4": True}, "'int4' is unknown; choose tiny_vae, merge_tokens"),
        ({"merge_tokens": 0.9}, "0 to 0.75, got 0.9"),
        ({"merge_tokens": 0.5, "merge_levels": 4}, "got 4"),
        ({"merge_tokens": 0.5, "merge_levels": 3}, r"levels \[1, 2\]"),
        ({"int8": 1}, "True or False, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(trades=wanted)
    with pytest.raises(ConfigError, match="unet_mode='frozen'"):
        build(unet_mode="finetune", trades={"int8": True})
    with pytest.raises(WeightsError, match="madebyollin/taesd"):
        build(trades={"tiny_vae": str(tmp_path)})
    four = tmp_path / "four"
    AutoencoderTiny(latent_channels=4, num_encoder_blocks=(1, 1, 1, 1)).save_pretrained(four)
    with pytest.raises(ConfigError, match=r"4 channels at stride 8.*have 8"):
        build(trades={"tiny_vae": str(four)})
    twice = build(trades={"merge_tokens": 0.5})
    with pytest.raises(ConfigError, match=r"once; there are merge_tokens=0\.5"):
        twice.trade({"merge_tokens": 0.25})
    assert trades.names(trades.checked({})) == build().trade_names == []


def test_channels_last_is_the_same_network_and_off_by_default():
    plain, last = build(), build(channels_last=True)
    weight = last.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.unet.conv_in.weight.is_contiguous()
    for one, two in zip(run(plain), run(last), strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4)


DISTILLED = {
    "one layer a level, no middle": {"layers_per_block": 1, "mid_block_type": None},
    "two layers, no middle": {"layers_per_block": 2, "mid_block_type": None},
    "a middle without words": {"mid_block_type": "UNetMidBlock2D"},
    "uneven layers": {"layers_per_block": (1, 2, 1, 1)},
}


@pytest.mark.parametrize("layout", ["tiny", "sd15"])
@pytest.mark.parametrize("shape", DISTILLED.values(), ids=DISTILLED)
def test_distilled_unets_give_the_features_of_diffusers_own_forward(layout, shape):
    zoo = ZOO["tiny"]
    types = {name: ZOO[layout].unet[name] for name in ("down_block_types", "up_block_types")}
    parts = random_components(replace(zoo, unet={**zoo.unet, **types, **shape}), seed=2)
    backbone = DiffusionBackbone(parts, token_length=8).eval()
    unet, last = backbone.unet, {}
    for position, block in enumerate(unet.up_blocks):
        # What leaves a level: its last layer but one, and at the finest level its last.
        leave = len(block.resnets) - (1 if position == 3 else 2)
        modules = getattr(block, "attentions", None) or block.resnets
        modules[leave].register_forward_hook(
            lambda m, i, o, level=3 - position: last.__setitem__(
                level, o[0] if isinstance(o, tuple) else o
            )
        )
    latent, text = torch.randn(2, 8, 16, 16), torch.randn(2, 8, 64)
    with torch.no_grad():
        unet(latent, 1, backbone.adapter(text))
        expected = dict(last)
        found = backbone(latent, text)
        shared = backbone(latent, text[[0, 1, 1]], torch.tensor([0, 1, 1]))
    for level, feature in enumerate(found.features):
        assert torch.allclose(feature, expected[level], atol=1e-4), level
        assert torch.allclose(shared.features[level][:2], feature, atol=1e-4)
    for level in (1, 2):
        sums = found.maps[level].sum(1)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)


def test_a_unet_of_three_levels_is_refused():
    three = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (64, 96, 96),
        "mid_block_type": None,
    }
    zoo = replace(ZOO["tiny"], unet={**ZOO["tiny"].unet, **three})
    with pytest.raises(ConfigError, match="3 levels; 4 needed"):
        DiffusionBackbone(random_components(zoo, 0), token_length=8)
