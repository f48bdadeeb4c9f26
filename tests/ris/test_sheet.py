"""`ris sheet`: truth beside prediction, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ris import Predictor
from ris.cli import main
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from vpd import DiffusionBackbone


@pytest.fixture
def arguments(shapes_root: Path, tmp_path: Path) -> list[str]:
    """`ris sheet` of an untrained model; its weights and the sheet are in the test's folder."""
    torch.manual_seed(0)
    model = VPDRefer(DiffusionBackbone.from_name("tiny", token_length=8))
    Predictor(model, 64, "cpu").save_pretrained(tmp_path / "model")
    data = ["--dataset", "refshapes", "--refer_data_root", str(shapes_root)]
    return ["sheet", str(tmp_path / "model"), *data, "--out", str(tmp_path / "sheet.png")]


def test_a_sheet_has_as_many_tiles_as_were_asked_for(arguments, tmp_path):
    assert main([*arguments, "--count", "1", "--columns", "1"]) == 0
    one = Image.open(tmp_path / "sheet.png").size
    assert main([*arguments, "--count", "2", "--columns", "1"]) == 0
    assert Image.open(tmp_path / "sheet.png").height > 1.8 * one[1]


def test_expressions_for_several_things_or_none_are_drawn(general_root, arguments, tmp_path):
    data = ["--dataset", "grefshapes", "--refer_data_root", str(general_root), "--device", "cpu"]
    assert main([*arguments, *data, "--count", "3", "--columns", "3"]) == 0
    assert Image.open(tmp_path / "sheet.png").width > 3 * 200


def test_a_set_of_phrases_has_no_refs_to_draw(general_root, arguments, capsys):
    data = ["--dataset", "phraseshapes", "--refer_data_root", str(general_root)]
    for command in (arguments[:2], ["tokens"]):
        name = [] if command[0] == "sheet" else ["phraseshapes"]
        options = data if command[0] == "sheet" else data[2:]
        assert main([*command, *name, *options]) == 2
        assert "captions with phrases; this command reads refs" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--count", "--columns"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_there_is_no_sheet_of_nothing(arguments, tmp_path, capsys, option, number):
    assert main([*arguments, option, number]) == 2
    assert f"{option} is {number}; want 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_boxes_alone_are_not_drawn_as_empty_masks(arguments, tmp_path, capsys):
    head = {
        "type": "RefTRHead", "answers": "boxes", "width": 32, "heads": 4, "feedforward": 32,
        "encoder_layers": 1, "decoder_layers": 1,
    }  # fmt: skip
    model = GroundRefer(DiffusionBackbone.from_name("tiny", token_length=8), head)
    Predictor(model, 64, "cpu").save_pretrained(tmp_path / "model")
    assert main(arguments) == 2
    assert "boxes and has no masks" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()
