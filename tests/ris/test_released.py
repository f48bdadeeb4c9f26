"""The released checkpoints: parity with the published code, round trips, and clear refusals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ris import Predictor, checkpoints
from ris.engine.optim import parameter_groups
from ris.errors import CheckpointError
from ris.models import VPDRefer
from ris.released import load_released, released_names, released_state, save_released, unsaid
from vpd import DiffusionBackbone, WeightsError, files
from vpd.text import clip_tokenizer
from vpd.weights import Components, encoder_only
from vpd.zoo import ZOO

HEADS = {"num_heads": 4}


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def forward_all(model: VPDRefer, golden: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    image, text = golden["image"].to(dtype), golden["text"].to(dtype)
    with torch.no_grad():
        latent = model.backbone.encode_image(image)
        pyramid = model.pyramid(latent, text)
        joined = pyramid.joined()
        low = model.head(joined)
        return {
            "latents": latent,
            "context": model.backbone.adapter(text),
            "attn32": pyramid.maps[1],
            "attn16": pyramid.maps[2],
            **dict(zip(("feat64", "feat32", "feat16", "feat8"), joined, strict=True)),
            "logits_low": low,
            "logits": model(image, text),
        }


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_outputs_equal_the_published_code(released_file, golden, kernel):
    model = load_released(released_file, golden["config"], attention_kernel=kernel)
    for name, value in forward_all(model, golden, torch.float32).items():
        assert relative(value, golden[name]) < 1e-5, name


def test_outputs_in_float64(released_file, golden):
    model = load_released(released_file, HEADS).double()
    found = forward_all(model, golden, torch.float64)["logits"]
    # The golden was stored rounded to float32: rounding ours the same way must give its bits,
    # up to the few values that sit on a rounding boundary.
    expected = golden["float64_logits"]
    assert relative(found, expected.double()) < 6e-8
    assert (found.float() != expected).float().mean() < 1e-3


def test_the_shared_checkpoint_gives_the_same_tensors(shared, released_state):
    real = files.tensors(files.load(shared / "golden" / "tiny_t12_ckpt.pth"), "model")
    assert set(real) == set(released_state)
    for key, value in real.items():
        assert torch.equal(value, released_state[key]), key


def test_three_training_steps_equal_the_published_code(released_file, golden):
    model = load_released(released_file, HEADS, unet_mode="finetune").train()
    groups = parameter_groups(model, golden["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=golden["base_lr"])
    names = {own: released for released, own in released_names(model).items()}
    losses, norms, gradients = [], {}, {}
    for step in range(3):
        loss = model(golden["image"], golden["text"], golden["target"], mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            for own, parameter in model.named_parameters():
                if own in names:
                    gradients[names[own]] = parameter.grad
                    norms[names[own]] = None if parameter.grad is None else parameter.grad.norm()
        optimizer.step()
        rate = golden["base_lr"] * (1 - (step + 1) / golden["total_its"]) ** 0.9
        assert rate == pytest.approx(golden["lr"][step], rel=1e-12)
        for group in optimizer.param_groups:
            group["lr"] = rate
    assert losses == pytest.approx(golden["loss"], rel=1e-6)
    assert set(norms) == set(golden["grad_norm"])
    for name, expected in golden["grad_norm"].items():
        if expected is None:
            assert norms[name] is None, f"{name} must get no gradient"
        else:
            assert float(norms[name]) == pytest.approx(expected, rel=2e-3, abs=1e-7), name
    after = released_state(model)
    for name, expected in golden.items():
        if name.startswith("grad/"):
            assert relative(gradients[name[5:]], expected) < 1e-4, name
        if name.startswith("after/"):
            assert relative(after[name[6:]].double(), expected.double()) < 1e-5, name
    for name, expected in golden["param_after3_l2"].items():
        assert after[name].double().norm().item() == pytest.approx(expected, rel=2e-5), name


def test_attached_maps_are_another_recipe(released_file, golden):
    """The option exists, and shows which of the two loss curves is the published one."""
    model = load_released(released_file, HEADS, unet_mode="finetune", map_gradient=True).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2), lr=golden["base_lr"])
    for step in range(3):
        loss = model(golden["image"], golden["text"], golden["target"], mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = golden["base_lr"] * (1 - (step + 1) / golden["total_its"]) ** 0.9
    attached, published = golden["loss_if_maps_attached"][2], golden["loss"][2]
    assert abs(loss.item() - attached) < abs(loss.item() - published)


def test_every_released_key_maps_to_a_parameter_and_back(released_keys):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    sd = ZOO["sd15"]
    with torch.device("meta"):
        components = Components(
            UNet2DConditionModel(**sd.unet), encoder_only(AutoencoderKL(**sd.vae)), None, None, "x"
        )
        model = VPDRefer(DiffusionBackbone(components, token_length=40))
    state = released_state(model)
    assert {name: tuple(value.shape) for name, value in state.items()} == released_keys
    own = released_names(model)
    assert len(set(own.values())) == len(released_keys) == 839
    assert set(own.values()) == set(model.state_dict())


@pytest.mark.parametrize(("width", "length", "heads"), [(32, 9, 2), (64, 20, 8), (32, 77, 1)])
def test_other_widths_and_token_lengths(tmp_path, width, length, heads):
    sd = ZOO["tiny"]
    unet = {
        **sd.unet,
        "block_out_channels": (width, width, 2 * width, 2 * width),
        "layers_per_block": 2,
        "attention_head_dim": heads,
        "cross_attention_dim": 48,
    }
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae = {**sd.vae, "block_out_channels": (32, 32, 64, 64), "norm_num_groups": 32}
    torch.manual_seed(1)
    components = Components(
        UNet2DConditionModel(**unet), encoder_only(AutoencoderKL(**vae)), None, None, "random"
    )
    model = VPDRefer(DiffusionBackbone(components, token_length=length)).eval()
    save_released(model, tmp_path / "model.pth")
    again = load_released(tmp_path / "model.pth", {"num_heads": heads}, token_length=length)
    image, text = torch.randn(1, 3, 64, 128), torch.randn(1, length, 48)
    assert torch.equal(model(image, text), again(image, text))


def test_round_trip_keeps_every_bit(released_file, released_state, tmp_path):
    save_released(load_released(released_file, HEADS), tmp_path / "again.pth")
    again = files.tensors(files.load(tmp_path / "again.pth"), "model")
    assert set(again) == set(released_state)
    assert all(torch.equal(again[key], value) for key, value in released_state.items())
    assert [path.name for path in tmp_path.iterdir()] == ["again.pth"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 50}, "implies timestep=1; this model has timestep=50"),
        ({"latent_scale": 0.18215}, "implies latent_scale=1.0; this model has"),
        ({"attention_maps": False}, "implies attention_maps=True; this model has"),
        (
            {"timestep": 9, "attention_maps": False},
            "timestep=1, attention_maps=True; .* timestep=9, attention_maps=False; save a folder",
        ),
    ],
)
def test_settings_without_a_place_are_not_lost(tmp_path, options, message):
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8, **options)
    with pytest.raises(CheckpointError, match=message):
        save_released(VPDRefer(backbone), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_a_model_that_reads_no_sentence_is_not_written(tmp_path):
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    with pytest.raises(CheckpointError, match=r"ignore_sentence=False.*=True; save a folder"):
        save_released(VPDRefer(backbone, ignore_sentence=True), tmp_path / "model.pth")
    save_released(VPDRefer(backbone), tmp_path / "model.pth")


@pytest.mark.parametrize(
    "head",
    [
        {"type": "VPDDecoder", "input_norm": True},
        {"type": "VPDDecoder", "subpixel": 2},
        {"type": "WordDecoder", "subpixel": 1, "input_norm": False},
    ],
)
def test_other_decoders_are_not_written(tmp_path, head):
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    with pytest.raises(CheckpointError, match=r"published decoder only, .*; save a folder"):
        save_released(VPDRefer(backbone, head), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_heads_that_differ_by_level_have_no_place():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    sd = ZOO["sd21"]
    with torch.device("meta"):
        components = Components(
            UNet2DConditionModel(**sd.unet), encoder_only(AutoencoderKL(**sd.vae)), None, None, "x"
        )
        model = VPDRefer(DiffusionBackbone(components, token_length=40))
    with pytest.raises(CheckpointError, match=r"this UNet has 5, 10, 20; save a folder"):
        released_state(model)


def test_what_the_file_does_not_say_is_said(released_file):
    model = load_released(released_file, HEADS)
    heads, size = unsaid(model, 128)
    assert "--num_heads 4 (Python: config={'num_heads': 4})" in heads
    assert "ris test --img_size 128; " in size
    assert "--set data.image_size=[64,128]; " in unsaid(model, (64, 128))[1]
    assert len(unsaid(model, 512)) == len(unsaid(model, (512, 512))) == 1
    eight = load_released(released_file, {"num_heads": 8})
    assert unsaid(eight, 512) == []


def test_wrong_token_length_names_both(released_file):
    with pytest.raises(CheckpointError, match=r"token_length 12, but 40 was asked"):
        load_released(released_file, HEADS, token_length=40)


def test_wrong_heads_and_contradicting_config(released_file, golden):
    with pytest.raises(WeightsError, match="num_heads=5"):
        load_released(released_file, {"num_heads": 5})
    with pytest.raises(CheckpointError, match=r"vae_ch=128.*tensors say 32"):
        load_released(released_file, {**golden["config"], "vae_ch": 128})
    with pytest.raises(CheckpointError, match="num_head are unknown"):
        load_released(released_file, {"num_head": 4})


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("classifier.bn1_3.weight", "missing keys: classifier.bn1_3.weight"),
        ("unet.unet.diffusion_model.out.0.bias", "missing keys: out.0.bias"),
        ("encoder_vq.quant_conv.bias", "missing keys: quant_conv.bias"),
        ("gamma", "gamma"),
    ],
)
def test_missing_keys_are_named(released_state, tmp_path, key, match):
    state = {name: value for name, value in released_state.items() if name != key}
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises((CheckpointError, WeightsError), match=match):
        load_released(tmp_path / "part.pth", HEADS)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("classifier.conv1_4.weight", lambda old: old * torch.nan, "conv1_4.weight has values"),
        ("gamma", lambda old: old.to(torch.int32), "gamma is int32"),
        ("gamma", lambda old: old[:3].clone(), r"the key gamma is \(3,\), expected \(32,\)"),
        ("classifier.conv1_1.weight", lambda old: torch.zeros(()), "too few sides"),
        (7, lambda old: torch.zeros(1), "keeps a tensor under 7"),
        (
            "unet.unet.diffusion_model.middle_block.1.transformer_blocks.99999999.x",
            lambda old: torch.zeros(1),
            r"odd.pth: no Stable Diffusion.*has number 1e\+08",
        ),
    ],
)
def test_what_no_model_can_use_is_named(released_state, tmp_path, key, value, match):
    """NaN and whole numbers would be taken without a word."""
    torch.save(
        {"model": {**released_state, key: value(released_state.get(key))}}, tmp_path / "odd.pth"
    )
    with pytest.raises((CheckpointError, WeightsError), match=match):
        load_released(tmp_path / "odd.pth", HEADS)


@pytest.mark.parametrize("heads", [0, -1, "x", None])
def test_a_number_of_heads_that_is_none_is_named(released_file, heads):
    with pytest.raises(CheckpointError, match=r"num_heads=.*want a whole number, 1 or more"):
        load_released(released_file, {"num_heads": heads})


def test_unexpected_and_misshapen_keys_are_named(released_state, tmp_path):
    state = dict(released_state)
    state["classifier.conv9_9.weight"] = torch.zeros(1)
    state["text_adapter.fc.0.bias"] = torch.zeros(31)
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"classifier\.conv9_9\.weight") as caught:
        load_released(tmp_path / "odd.pth", HEADS)
    assert "text_adapter.fc.0.bias is (31,), expected (32,)" in str(caught.value)


def test_damaged_and_hostile_files(released_file, tmp_path):
    whole = released_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>quota exceeded</html>")
    for name in ("cut.pth", "empty.pth", "page.pth", "absent.pth"):
        with pytest.raises(WeightsError, match=name):
            load_released(tmp_path / name, HEADS)

    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"model": {}, "args": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth was refused"):
        load_released(tmp_path / "evil.pth", HEADS)
    assert not ran.exists()


def test_a_file_of_another_kind_is_named(tmp_path):
    torch.save({"state_dict": {"backbone.conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"not the layout.*backbone\.conv\.weight|first keys"):
        load_released(tmp_path / "other.pth")
    torch.save(argparse.Namespace(a=1), tmp_path / "namespace.pth")
    with pytest.raises(WeightsError, match="holds a Namespace"):
        load_released(tmp_path / "namespace.pth")


def test_what_came_from_a_released_file_is_saved_whole(released_file, tmp_path):
    """That file has no text encoder, so nobody could find the frozen weights there again."""
    text = tmp_path / "clip"
    width = load_released(released_file, HEADS).backbone.text_channels
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=width, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPTextModel(config).save_pretrained(text)
    clip_tokenizer().save_pretrained(text)
    model = load_released(released_file, HEADS, text=text)
    Predictor(model, 64, "cpu").save_pretrained(tmp_path / "mine")
    again = checkpoints.load(tmp_path / "mine")
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(picture, ["a cat"]), model(picture, ["a cat"]))
