"""Heads from outside the repository: registered, built, saved, loaded, and refused by name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from ris import VPDRefer, checkpoints, plugins
from ris.cli import main
from ris.errors import CheckpointError, OptionError
from ris.heads import HEADS, build_head, register_head
from vpd import DiffusionBackbone

MODULE = """
from torch import nn
from ris.heads import register_head

@register_head
class Elsewhere(nn.Module):
    def __init__(self, in_channels, hidden=4):
        super().__init__()
        self.layer = nn.Conv2d(in_channels[0], 2, 1)

    def forward(self, pyramid):
        return self.layer(pyramid[0])
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = dict(HEADS)
    yield
    HEADS.clear()
    HEADS.update(known)
    sys.modules.pop("elsewhere", None)


def test_a_head_of_another_folder_is_trained_saved_and_loaded(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    with pytest.raises(OptionError, match=r"'Elsewhere' is unknown.*RIS_PLUGINS"):
        VPDRefer(backbone, {"type": "Elsewhere"})
    monkeypatch.setenv(plugins.VARIABLE, " elsewhere ,")
    assert plugins.load() == ["elsewhere"]
    model = VPDRefer(backbone, {"type": "Elsewhere", "hidden": 3}).eval()
    image, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.uint8)
    model(image, ["a dog"], mask, mode="loss")["loss"].backward()
    assert model.head.layer.weight.grad is not None
    checkpoints.save(model, tmp_path / "model")
    again = checkpoints.load(tmp_path / "model")
    assert torch.equal(again(image, ["a dog"]), model(image, ["a dog"]))
    del HEADS["Elsewhere"]
    with pytest.raises(CheckpointError, match="RIS_PLUGINS"):
        checkpoints.load(tmp_path / "model")


def test_entries_of_a_registered_head_are_its_own_matter():
    @register_head
    class Wide(nn.Module):
        def __init__(self, in_channels, hidden_layers):
            super().__init__()
            self.layer = nn.Conv2d(in_channels[0], hidden_layers[0], 1)

    found = build_head({"type": "Wide", "hidden_layers": [256, 128]}, [8, 8, 8, 8])
    assert found.layer.out_channels == 256
    with pytest.raises(OptionError, match="64 at most"):
        build_head({"type": "WordDecoder", "layers": 256}, [8, 8, 8, 8], 8)


def test_a_name_is_taken_once():
    @register_head
    class Once(nn.Module):
        pass

    assert register_head(Once) is Once
    with pytest.raises(OptionError, match="there is a head VPDDecoder already"):
        register_head(type("VPDDecoder", (nn.Module,), {}))


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    for name, reason in (("elsewhere", "ZeroDivisionError"), ("nowhere", "ModuleNotFoundError")):
        monkeypatch.setenv(plugins.VARIABLE, name)
        assert main(["zoo"]) == 2
        assert f"names '{name}', which cannot be imported: {reason}" in capsys.readouterr().err
