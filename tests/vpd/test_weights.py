"""Every source of weights ends as the same backbone; broken ones are named."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from vpd import DiffusionBackbone, WeightsError, files, keys, weights
from vpd.zoo import ZOO, Zoo

TINY = Zoo(
    "test",
    None,
    unet={**ZOO["tiny"].unet, "attention_head_dim": 8, "layers_per_block": 2},
    vae={**ZOO["tiny"].vae, "norm_num_groups": 32, "block_out_channels": (32, 32, 64, 64)},
    text={**ZOO["tiny"].text, "num_attention_heads": 1},
)


@pytest.fixture(scope="module")
def parts():
    return weights.random_components(TINY, seed=3)


@pytest.fixture(scope="module")
def ldm_state(parts):
    """The same parts under CompVis names, with a decoder and an EMA entry to be left out."""
    state = {}
    for prefix, module, table in (
        ("model.diffusion_model.", parts.unet, weights.unet_key_map(parts.unet)),
        ("first_stage_model.", parts.vae, weights.vae_key_map(parts.vae)),
    ):
        own = module.state_dict()
        for name, released in keys.renamed(own, keys.reverse(table)).items():
            state[prefix + released] = own[name].clone()
    for name, value in parts.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name}"] = value.clone()
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)
    state["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    state["betas"] = torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    """A diffusers folder as a Stable Diffusion repository has it."""
    from diffusers import AutoencoderKL

    path = tmp_path_factory.mktemp("sd")
    parts.unet.save_pretrained(path / "unet")
    torch.manual_seed(0)
    whole = AutoencoderKL(**TINY.vae)
    whole.load_state_dict(parts.vae.state_dict(), strict=False)
    whole.save_pretrained(path / "vae")
    parts.text_encoder.save_pretrained(path / "text_encoder")
    parts.tokenizer.save_pretrained(path / "tokenizer")
    return path


def outputs(components):
    torch.manual_seed(0)
    backbone = DiffusionBackbone(components, token_length=8).eval()
    picture = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        latent = backbone.encode_image(picture)
        return backbone(latent, backbone.encode_text(["a red ball"])).joined()


def assert_same(one, other):
    for a, b in zip(outputs(one), outputs(other), strict=True):
        # Mapped weights lie at other addresses, and a kernel's path may depend on that.
        assert torch.allclose(a, b, rtol=1e-5, atol=3e-5)


def test_diffusers_folder(parts, folder):
    assert_same(parts, weights.load_components(folder, TINY))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_ldm_files(parts, ldm_state, tmp_path, suffix):
    path = tmp_path / f"v1-5{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": ldm_state, "global_step": 1}, path)
    else:
        save_file(ldm_state, path)
    assert_same(parts, weights.load_components(path, TINY))


def test_key_maps_agree_with_diffusers_converters(parts, ldm_state):
    """Our table and diffusers' private converters, on the whole of a real layout."""
    unet = convert_ldm_unet_checkpoint(dict(ldm_state), dict(parts.unet.config))
    own = parts.unet.state_dict()
    assert set(unet) == set(own)
    assert all(torch.equal(unet[name], own[name]) for name in own)
    vae = convert_ldm_vae_checkpoint(dict(ldm_state), dict(parts.vae.config))
    for name, value in parts.vae.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(vae[name].reshape(value.shape), value), name


def test_a_lightning_checkpoint_is_read_without_its_callbacks(parts, ldm_state, tmp_path):
    """Old Stable Diffusion files pickle a callback class; it is replaced by an empty stand-in."""
    import sys
    import types

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        pass

    ModelCheckpoint.__module__ = module.__name__
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__)
    for name in names:
        sys.modules[name] = module if name == module.__name__ else types.ModuleType(name)
    try:
        torch.save(
            {"state_dict": ldm_state, "callbacks": {ModelCheckpoint: {"best": 1.0}}},
            tmp_path / "old.ckpt",
        )
    finally:
        for name in names:
            del sys.modules[name]
    assert_same(parts, weights.load_components(tmp_path / "old.ckpt", TINY))


def test_a_folder_without_a_part_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "vae")
    with pytest.raises(WeightsError, match="vae/ is missing"):
        weights.load_components(tmp_path / "sd", TINY)
    with pytest.raises(WeightsError, match="neither a folder"):
        weights.load_components(tmp_path / "nowhere", TINY)


def test_a_truncated_folder_file_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sd")
    file = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="download is complete"):
        weights.load_components(tmp_path / "sd", TINY)


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("text_encoder", "encoder.layers.0.self_attn.v_proj.weight"),
        ("unet", "down_blocks.1.attentions.0.norm.bias"),
        ("vae", "encoder.conv_in.weight"),
        ("vae", "decoder.conv_in.weight"),
    ],
)
def test_a_folder_that_lacks_one_weight_is_named(parts, folder, tmp_path, part, lost):
    """The loaders would draw it at random, or leave it without a value. No decoder is needed."""
    shutil.copytree(folder, tmp_path / "sd")
    (file,) = (tmp_path / "sd" / part).glob("*.safetensors")
    state = load_file(file)
    del state[lost]
    save_file(state, file, {"format": "pt"})
    if lost.startswith("decoder."):
        assert_same(parts, weights.load_components(tmp_path / "sd", TINY))
        return
    with pytest.raises(WeightsError, match=rf"{part}/ lacks weights .*: {re.escape(lost)};"):
        weights.load_components(tmp_path / "sd", TINY)
    if part == "text_encoder":
        for source in (tmp_path / "sd", tmp_path / "sd" / part):
            with pytest.raises(WeightsError, match=f"lacks weights .*: {re.escape(lost)};"):
                weights.load_text(source)


def test_the_names_of_the_first_repositories_lack_nothing(parts, folder, tmp_path):
    """Stable Diffusion 1.5's VAE calls its attention's layers query, key, value and proj_attn."""
    shutil.copytree(folder, tmp_path / "sd")
    file = tmp_path / "sd" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(file).items():
        for new, first in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{first}.")
        state[name] = value
    assert any(".proj_attn." in name for name in state)
    save_file(state, file, {"format": "pt"})
    assert_same(parts, weights.load_components(tmp_path / "sd", TINY))


def test_clip_as_its_authors_keep_it_lacks_nothing(parts, tmp_path):
    """Both halves in one file, the text half under a prefix and with its old position ids."""
    text = {**TINY.text, "projection_dim": 8}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 1, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    clip.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    own = parts.text_encoder.state_dict()
    state |= {f"text_model.{name}": value.clone() for name, value in own.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    found, _ = weights.load_text(tmp_path)
    assert all(torch.equal(value, own[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("part", "entry"),
    [("unet", "transformer_layers_per_block"), ("text_encoder", "num_hidden_layers")],
)
def test_a_folder_that_asks_for_endless_layers_is_refused(folder, tmp_path, part, entry):
    shutil.copytree(folder, tmp_path / "sd")
    file = tmp_path / "sd" / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {entry: 2**62}))
    with pytest.raises(WeightsError, match=f"{part}/config.json: {entry} is 4.6.*64 at most"):
        weights.load_components(tmp_path / "sd", TINY)


def test_a_file_of_other_shapes_or_names_is_named(ldm_state, tmp_path):
    """A VAE of 16 channels has too few for its 32 groups; a list is no state."""
    key = "first_stage_model.encoder.down.0.block.0.conv1.weight"
    torch.save(ldm_state | {key: ldm_state[key][:16].clone()}, tmp_path / "narrow.ckpt")
    with pytest.raises(WeightsError, match=r"narrow.ckpt: no VAE can be built: .*num_groups"):
        weights.load_components(tmp_path / "narrow.ckpt", TINY)
    torch.save({0: torch.zeros(1), "a": torch.zeros(1)}, tmp_path / "list.ckpt")
    for load in (lambda path: weights.load_components(path, TINY), weights.load_text):
        with pytest.raises(WeightsError, match=r"list.ckpt keeps a tensor under 0"):
            load(tmp_path / "list.ckpt")


def test_offline_hub_id_tells_the_cure():
    with pytest.raises(WeightsError, match="no such folder exists here"):
        weights.load_components(None, ZOO["sd15"])


@pytest.mark.parametrize("keep", [0, 40, 5000])
def test_truncated_safetensors(ldm_state, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_file(ldm_state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        files.load(path)


def test_an_incomplete_ldm_file_names_its_keys(ldm_state, tmp_path):
    key = "model.diffusion_model.input_blocks.4.1.norm.bias"
    state = {name: value for name, value in ldm_state.items() if name != key}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"missing keys: input_blocks\.4\.1\.norm\.bias"):
        weights.load_components(tmp_path / "part.safetensors", TINY)


def test_random_weights_follow_the_seed_and_leave_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = weights.random_components(ZOO["tiny"], 1)
    assert torch.equal(torch.rand(1), expected)
    again, other = (weights.random_components(ZOO["tiny"], seed) for seed in (1, 2))
    assert torch.equal(one.unet.conv_in.weight, again.unet.conv_in.weight)
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        ([], None),
    ],
)
def test_half_precision_is_read_only_where_there_is_nothing_else(tmp_path, names, found):
    (tmp_path / "unet").mkdir()
    for name in names:
        (tmp_path / "unet" / f"diffusion_pytorch_{name}").touch()
    assert weights._variant(tmp_path) == found
