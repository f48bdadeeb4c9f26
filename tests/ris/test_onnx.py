"""Export to ONNX: the files give torch's masks, run without torch, or are not written at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refer.errors import MissingDataError
from ris import Predictor, onnx_export, onnx_graphs
from ris.cli import main
from ris.errors import CheckpointError, OptionError
from ris.general import GeneralRefer
from ris.heads.word_decoder import PixelWordAttention
from ris.models import VPDRefer
from ris.onnx_runtime import CARD, FORMAT, OnnxPredictor, read_card
from vpd import DiffusionBackbone, convolution
from vpd.errors import TextError

needs_extra = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="extra 'onnx' not there"
)
PICTURE = np.random.default_rng(3).integers(0, 255, (70, 90, 3), np.uint8)
ASKED = ["the left one", "a  Café &amp; bar", "red", "one two three four five six seven", "dog"]


def predictor(head: str, seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    backbone = DiffusionBackbone.from_name("tiny", token_length=8)
    config = {"type": head, **({"layers": 1} if head == "WordDecoder" else {})}
    return Predictor(VPDRefer(backbone, config, sentence_batch=2), 64, "cpu")


@pytest.fixture(scope="module")
def words() -> Predictor:
    return predictor("WordDecoder")


@pytest.fixture(scope="module")
def exported(words: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("onnx")
    words.save_pretrained(place / "model")
    assert main(["convert", str(place / "model"), str(place / "onnx"), "--to", "onnx"]) == 0
    return place / "onnx"


@needs_extra
@pytest.mark.slow
def test_another_picture_and_any_number_of_sentences(words, exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "picture.onnx", "text.onnx", "segment.onnx", "tokenizer.json", "model.json"
    }  # fmt: skip
    assert {path.name for path in exported.parent.iterdir()} == {"model", "onnx"}
    card = json.loads((exported / "model.json").read_text())
    assert (card["image_size"], card["token_length"]) == ([64, 64], 8)
    assert 0 < card["parity"]["difference"] < 1e-3
    assert card["parity"]["equal"] > 0.999
    other = OnnxPredictor(exported)
    words.set_image(PICTURE)
    other.set_image(PICTURE)
    for asked in (ASKED, ASKED[3]):
        own, found = words.predict(asked), other.predict(asked)
        assert found.masks.shape == own.masks.shape
        assert np.abs(found.probabilities - own.probabilities).max() < 1e-4
        assert (found.masks == own.masks).mean() > 0.999
        assert np.allclose(found.scores, own.scores, atol=1e-3)
        assert (found.expressions, found.truncated) == (own.expressions, own.truncated)
    assert found.truncated == [True]


@needs_extra
@pytest.mark.slow
def test_it_runs_where_there_is_no_torch(words, exported, tmp_path, repo):
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    program = (
        "import sys, numpy\n"
        "for name in ('torch', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        "from ris.onnx_runtime import OnnxPredictor\n"
        f"one = OnnxPredictor({str(exported)!r})\n"
        f"one.set_image({str(tmp_path / 'picture.png')!r})\n"
        f"numpy.save({str(tmp_path / 'found.npy')!r}, one.predict({ASKED!r}).probabilities)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=repo, check=True, timeout=200)
    words.set_image(PICTURE)
    own = words.predict(ASKED).probabilities
    assert np.abs(np.load(tmp_path / "found.npy") - own).max() < 1e-4


@needs_extra
@pytest.mark.slow
def test_files_that_differ_from_torch_are_refused(exported, tmp_path, monkeypatch):
    def older(asked: Predictor, folder: Path) -> None:
        for path in exported.iterdir():
            shutil.copy(path, folder)

    monkeypatch.setattr(onnx_export, "_write", older)
    other = predictor("WordDecoder", seed=1)
    with pytest.raises(CheckpointError, match="differ from torch: largest logit difference"):
        onnx_export.export(other, tmp_path / "new", PICTURE, ["red", "blue"])
    assert not list(tmp_path.iterdir())


@needs_extra
@pytest.mark.slow
def test_the_published_head_and_weights_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "INSIDE", 0)
    # The predictor's fast convolutions, which wide models get, cannot be traced.
    monkeypatch.setattr(convolution, "MIN_CHANNELS", 32)
    published = predictor("VPDDecoder")
    fast = list(convolution.installed(published.model))
    assert fast
    found = onnx_export.export(published, tmp_path / "new", PICTURE, ["red thing", "blue"])
    assert list(convolution.installed(published.model)) == fast
    assert found.sentences == 2
    assert (tmp_path / "new" / "segment.onnx.data").is_file()
    assert (tmp_path / "new" / "segment.onnx").stat().st_size < 2**22
    moved = (tmp_path / "new").rename(tmp_path / "moved")  # the graph finds its weights beside it
    OnnxPredictor(moved).set_image(PICTURE)


@needs_extra
def test_what_cannot_be_exported_leaves_nothing(words, tmp_path, monkeypatch):
    torch.manual_seed(0)
    general = GeneralRefer(DiffusionBackbone.from_name("tiny", token_length=8))
    with pytest.raises(OptionError, match="GeneralRefer"):
        onnx_export.export(Predictor(general, 64), tmp_path / "new", PICTURE, ["a", "b"])
    with pytest.raises(OptionError, match="exists"):
        onnx_export.export(words, tmp_path, PICTURE, ["a", "b"])

    with pytest.raises(MissingDataError, match="absent"):
        onnx_export.export(words, tmp_path / "new", tmp_path / "absent.png", ["a", "b"])
    with pytest.raises(TextError, match="sentence 1 of 2"):
        onnx_export.export(words, tmp_path / "new", PICTURE, ["a", ""])

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(OptionError, match=r"picture cannot be exported .*\(no such operator\)"):
        onnx_export.export(words, tmp_path / "new", PICTURE, ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_cure_is_named(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    words.save_pretrained(tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "new"), "--to", "onnx"]) == 2
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err


@needs_extra
@pytest.mark.slow
def test_bad_folders_and_questions(exported, tmp_path):
    with pytest.raises(CheckpointError, match="no exported model"):
        OnnxPredictor(tmp_path)
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "text.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        OnnxPredictor(broken)
    one = OnnxPredictor(exported)
    with pytest.raises(OptionError, match="set_image"):
        one.predict("a dog")
    one.set_image(Image.fromarray(PICTURE))
    with pytest.raises(TextError, match="sentence 1 of 2"):
        one.predict(["a dog", " "])
    with pytest.raises(OptionError, match="uint8"):
        one.set_image(PICTURE.astype(np.float32))


@needs_extra
def test_a_card_is_checked_as_a_whole(tmp_path):
    card = {"format": FORMAT, "image_size": [64, 64], "sentence_batch": 2, "ignore_sentence": False}
    file = tmp_path / CARD
    file.write_text(json.dumps(card))
    assert read_card(tmp_path) == card
    for entry, value in (
        ("image_size", None), ("image_size", [64]), ("image_size", ["x", 64]),
        ("image_size", [0, 64]), ("image_size", 2**70), ("sentence_batch", 0),
        ("sentence_batch", "x"), ("ignore_sentence", []), ("format", 3),
    ):  # fmt: skip
        file.write_text(json.dumps(card | {entry: value}))
        with pytest.raises(CheckpointError, match=f"model.json .*{entry}"):
            OnnxPredictor(tmp_path)
    for text in ("[" * 100_000, "[]", "{", json.dumps({"format": FORMAT})):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
            OnnxPredictor(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match="a folder or a pipe"):
        OnnxPredictor(tmp_path)


def test_written_out_word_attention_is_the_fused_kernel():
    torch.manual_seed(0)
    layer = PixelWordAttention(12, 20, 16)
    features, text = torch.randn(3, 12, 5, 4), torch.randn(3, 7, 20)
    fused = layer(features, text)
    layer.written_out = True
    assert torch.allclose(layer(features, text), fused, atol=1e-6)
