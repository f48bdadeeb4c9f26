"""A checkpoint folder from a stranger: whatever is wrong with it is one error that names it."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from ris import Predictor, cards, checkpoints, stages
from ris.errors import CheckpointError
from ris.models import VPDRefer
from vpd import DiffusionBackbone


def system(**head: object) -> VPDRefer:
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    return VPDRefer(backbone, {"type": "VPDDecoder", "channels": 8, **head})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "model"
    checkpoints.save(system(), path, image_size=64)
    return path


@pytest.fixture
def changed(folder):
    """`changed("a.b", value)`: the folder with that entry of its card so, or dropped."""
    file = folder / "config.json"
    whole = file.read_text()

    def change(entry: str, value: object, drop: bool = False):
        card = copy.deepcopy(json.loads(whole))
        *way, last = entry.split(".")
        part = card
        for name in way:
            part = part[name]
        part[last] = value
        if drop:
            del part[last]
        file.write_text(json.dumps(card))
        return folder

    yield change
    file.write_text(whole)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("backbone", 3, "backbone: Expected `object`"),
        ("backbone.options", [-1], "backbone.options: Expected `object`"),
        ("backbone.options.timestep", {}, "backbone.options.timestep: Expected `int`"),
        ("backbone.options.token_length", -5, "does not fit its config.json; wrong shapes"),
        ("backbone.source", 1.5, "backbone.source: Expected `str`"),
        ("frozen", 1.5, "frozen: Expected"),
        ("frozen", {"source": "x"}, "frozen: Object missing required field `fingerprint`"),
        ("frozen", {"source": "x", "fingerprint": 1.5}, "frozen.fingerprint: Expected `str`"),
        ("system", [], "system: Expected `str`"),
        ("system", "Other", "names system 'Other'; there are VPDRefer"),
        ("head.type", {}, "head type {} is unknown"),
        ("head.channels", -1, "head or class_weight: head VPDDecoder cannot be built"),
        ("head", {"type": "WordDecoder", "channels": 6, "layers": 1}, "WordDecoder cannot be"),
        ("head.channels", 1.5, "head VPDDecoder cannot be built with channels=1.5"),
        ("head.channels", 2**64, "head VPDDecoder cannot be built"),
        ("head", {"type": "WordDecoder", "word_channels": -1}, "head WordDecoder cannot be"),
        ("head", {"type": "WordDecoder", "layers": 2**64}, "layers is 1.84467e+19; want 64"),
        ("class_weight", 0, "class_weight: Expected `array`"),
        ("class_weight", [1.0], "class_weight: Expected `array` of length"),
        ("info", 0, "info is 0; want an object"),
        ("backbone.unet", [], "backbone.unet: Expected `object`"),
        ("backbone.unet.block_out_channels", 0, "backbone: unet: no UNet can be built"),
        ("backbone.unet.norm_num_groups", 0, "unet: no UNet can be built"),
        ("backbone.unet.transformer_layers_per_block", 2**62, "unet: transformer_layers_per_block"),
        ("backbone.vae.down_block_types", ["x"], "vae: no VAE can be built"),
        ("backbone.text.num_attention_heads", 0, "text: no text encoder can be built"),
        ("backbone.text.hidden_size", "x", "text: no text encoder can be built"),
    ],
)
def test_an_entry_of_another_kind_is_named(changed, entry, value, said):
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        checkpoints.load(changed(entry, value))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{}, "x", 0, 100, [64], 2**64])
def test_a_size_that_no_model_takes_is_named(changed, value):
    with pytest.raises(CheckpointError, match=r"config\.json: info\.image_size: image size"):
        Predictor.from_pretrained(changed("info.image_size", value), device="cpu")


def test_cards_of_earlier_versions_are_read(changed):
    """What was not kept then, or written as a config had it."""
    for entry, value, drop in (
        ("frozen", None, True),
        ("backbone.pad_token", None, True),
        ("backbone.options.channels_last", None, True),
        ("backbone.options.map_gradient", 0, False),
        ("backbone.options.latent_scale", 1, False),
        ("backbone.options.checkpointing", "light", False),
        ("class_weight", [1, 1], False),
        ("ignore_sentence", 0, False),
        ("info", {}, False),
        ("later", {"added": 1}, False),
    ):
        found = checkpoints.load(changed(entry, value, drop))
        assert found.backbone.tokenizer.pad_token == "<|endoftext|>"
        assert found.backbone.options["map_gradient"] is False


def test_a_card_that_is_no_json_file_is_named(tmp_path, folder):
    for name, make in (
        ("deep", lambda file: file.write_text("[" * 100_000)),
        ("bytes", lambda file: file.write_bytes(b'{"format": "\xff"}')),
        ("list", lambda file: file.write_text("[]")),
        ("folder", lambda file: file.mkdir()),
        ("loop", lambda file: file.symlink_to(file)),
        ("pipe", lambda file: os.mkfifo(file)),
    ):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "config.json")
        with pytest.raises(CheckpointError, match=rf"{name}/config\.json is damaged"):
            cards.read_config(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda old: old.to(torch.int32), "is int32"),
        (lambda old: torch.full_like(old, torch.nan), "NaN or infinite"),
        (lambda old: old.index_fill(0, torch.tensor([1]), -torch.inf), "NaN or infinite"),
        (lambda old: old.index_fill(0, torch.tensor([1]), torch.inf).bfloat16(), "NaN or"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(folder, value, said):
    """They would give an empty mask without a word."""
    file, name = folder / "model.safetensors", "head.conv1_4.weight"
    whole = file.read_bytes()
    state = load_file(file)
    state[name] = value(state[name])
    try:
        save_file(state, file)
        with pytest.raises(CheckpointError, match=f"model.safetensors.*{name} .*{said}"):
            checkpoints.load(folder)
        with pytest.raises(CheckpointError, match=f"model.safetensors.*{name} .*{said}"):
            stages.start_from(system(), folder)
    finally:
        file.write_bytes(whole)


def test_great_weights_in_half_precision_are_no_fault(folder, tmp_path):
    """Their sum is beyond the type's range."""
    model = system()
    with torch.no_grad():
        model.head.conv1_1.weight.fill_(60_000.0)
    checkpoints.save(model, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: value.half() if "head.conv" in name else value for name, value in state.items()},
        tmp_path / "model" / "model.safetensors",
    )
    checkpoints.load(tmp_path / "model")


@pytest.mark.parametrize("place", ["/proc/x", "file/x", "a\0b"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(system(), place)
    assert place.replace("\0", r"\x00") in str(caught.value)
    assert ".part" not in str(caught.value)
