"""What is predicted with a trade says so, wherever it is saved; nothing does on the exact path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from refer.evaluation import load_records
from ris import Predictor, checkpoints
from ris.cli import main
from ris.engine import settings, train
from ris.errors import CheckpointError, OptionError
from ris.models import VPDRefer
from ris.released import save_released
from vpd import DiffusionBackbone
from vpd.int8 import Int8Linear


def build(**options) -> VPDRefer:
    torch.manual_seed(0)
    return VPDRefer(DiffusionBackbone.from_name("tiny", token_length=16, **options)).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    Predictor(build(), 64, "cpu").save_pretrained(folder)
    return folder


def score(weights: Path, root: Path, out: Path, *entries: str) -> dict:
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu", "--checkpoint",
        str(weights), "--refer_data_root", str(root), "--workers", "0", "--logdir", str(out),
    ]  # fmt: skip
    assert main([*arguments, *(["--set", *entries] if entries else [])]) == 0
    return json.loads((out / "metrics.json").read_text())


def test_scores_name_their_trades(weights, shapes_root, tmp_path, capsys):
    exact = score(weights, shapes_root, tmp_path / "exact")
    assert "trades" not in exact["protocol"]
    assert "trades" not in load_records(tmp_path / "exact/records_val.jsonl").header
    assert "not the exact path" not in capsys.readouterr().out
    entries = [f"model.backbone.{e}" for e in
               ("trades.int8=True", "trades.merge_tokens=0.5", "channels_last=True")]  # fmt: skip
    traded = score(weights, shapes_root, tmp_path / "traded", *entries)
    named = ["merge_tokens=0.5", "int8"]
    assert traded["protocol"] == {**exact["protocol"], "trades": named}
    assert load_records(tmp_path / "traded/records_val.jsonl").header["trades"] == named
    assert "not the exact path: trades merge_tokens=0.5, int8" in capsys.readouterr().out


def test_predictions_name_their_trades(weights, shapes_root, tmp_path, capsys):
    picture = str(next((shapes_root / "images/refshapes").glob("*.jpg")))
    arguments = ["predict", picture, "the star", "--weights", str(weights)]
    arguments += ["--json", str(tmp_path), "--out", str(tmp_path / "o.png")]
    answers = tmp_path / f"{Path(picture).stem}.json"
    assert main(arguments) == 0
    assert "trades" not in json.loads(answers.read_text())
    assert main([*arguments, "--trade", "merge_tokens=0.25"]) == 0
    assert json.loads(answers.read_text())["trades"] == ["merge_tokens=0.25"]
    assert main([*arguments, "--trade", "int4=True"]) == 2
    assert "'int4' is unknown; choose tiny_vae" in capsys.readouterr().err
    assert main([*arguments, "--trade", "int8"]) == 2
    assert "--trade wants NAME=VALUE, got 'int8'" in capsys.readouterr().err


def test_a_checkpoint_keeps_the_trades_it_was_trained_with(tmp_path):
    model = build(trades={"merge_tokens": 0.5})
    checkpoints.save(model, tmp_path / "merged")
    assert checkpoints.load(tmp_path / "merged").backbone.trade_names == ["merge_tokens=0.5"]
    assert checkpoints.load(tmp_path / "merged", trades=None).backbone.trade_names == []
    small = checkpoints.load(tmp_path / "merged", trades={"int8": True})  # fingerprint holds
    assert any(isinstance(m, Int8Linear) for m in small.modules())
    with pytest.raises(CheckpointError, match="cannot be saved; load the model without"):
        checkpoints.save(small, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    with pytest.raises(CheckpointError, match="no place for trades"):
        save_released(model, tmp_path / "merged.pth")


def test_nothing_is_trained_through_rounded_weights(repo):
    path = repo / "configs/res/refshapes_tiny_128.py"
    config = settings.load(path, {"model.backbone.trades.int8": True})
    with pytest.raises(OptionError, match="train without it, test with it"):
        train.build_model(config.to_dict())
