"""The predictor: pictures from anywhere, boxes, attention, batches, precision, the Hub."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refer.errors import MissingDataError, PictureError
from ris import Predictor, download
from ris.errors import CheckpointError, OptionError
from ris.models import VPDRefer
from ris.prediction import tight_boxes
from vpd import DiffusionBackbone
from vpd.errors import TextError

PICTURES = [
    np.random.default_rng(n).integers(0, 255, (40 + 8 * n, 60, 3), np.uint8) for n in (0, 1)
]


def system(**options: Any) -> VPDRefer:
    torch.manual_seed(0)
    return VPDRefer(
        DiffusionBackbone.from_name("tiny", token_length=8), sentence_batch=2, **options
    )


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(system(), 64, "cpu")


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/drip":
            self.drip()
            return
        content = {"/a%20b.png": png(), "/big": b"x" * 5000, "/text": b"<html>"}.get(self.path)
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write(content or b"")

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client goes away
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_picture_from_an_address_is_the_picture(predictor, server):
    predictor.set_image(f"{server}/a b.png")
    assert np.array_equal(np.asarray(predictor.picture), PICTURES[0])


def test_addresses_that_give_no_picture_say_why(predictor, server):
    for path, error, message in (
        ("/absent.png", MissingDataError, "404"),
        ("/text", PictureError, "no picture"),
    ):
        with pytest.raises(error, match=message) as caught:
            predictor.set_image(server + path)
        assert server + path in str(caught.value)
    with pytest.raises(PictureError, match="larger than"):
        download.fetch_picture(f"{server}/big", limit=1000)
    with pytest.raises(MissingDataError, match=r"^http[^ ]+ took longer"):
        download.fetch_picture(f"{server}/drip", whole=0.3)
    with pytest.raises(MissingDataError, match="check the address"):
        download.fetch_picture("http://127.0.0.1:9/a.png", timeout=1)
    with pytest.raises(MissingDataError, match="no server"):
        download.fetch_picture("https://")


def test_boxes_are_tight_and_empty_masks_have_none():
    masks = np.zeros((2, 10, 20), bool)
    masks[0, 2:5, 7:9] = True
    masks[0, 4, 19] = True
    boxes = tight_boxes(masks)
    assert boxes.dtype == np.float32
    assert boxes[0].tolist() == [7, 2, 20, 5]
    assert np.isnan(boxes[1]).all()


def test_what_a_prediction_holds(predictor):
    predictor.set_image(PICTURES[0])
    found = predictor.predict(["the red circle", "a tree", "dog"])
    assert found.masks.shape == found.probabilities.shape == (3, 40, 60)
    assert found.probabilities.dtype == found.scores.dtype == np.float32
    assert np.array_equal(found.boxes, tight_boxes(found.masks), equal_nan=True)
    assert found.attention is None
    assert found.words(0) == []
    with pytest.raises(OptionError, match="no expression"):
        predictor.predict([])
    with pytest.raises(TextError):
        predictor.predict(["dog", " "])


def test_attention_is_a_distribution_over_tokens(predictor):
    predictor.set_image(PICTURES[0])
    found = predictor.predict(["red circle", "unfathomably"], attention=True)
    assert found.attention.shape == (2, 8, 4, 4)
    assert found.attention.dtype == np.float32
    assert np.allclose(found.attention.sum(axis=1), 1, atol=1e-5)
    assert found.tokens[0][:4] == ["<|startoftext|>", "red</w>", "circle</w>", "<|endoftext|>"]
    words = found.words(0)
    assert [word for word, _ in words] == ["red", "circle"]
    assert np.array_equal(words[0][1], found.attention[0, 1])
    ((word, looked),) = found.words(1)
    pieces = found.tokens[1].index("<|endoftext|>")
    assert word == "unfathomably"
    assert pieces > 2
    assert np.allclose(looked, found.attention[1, 1:pieces].mean(axis=0))
    # Asking for maps changes nothing else, and leaves nothing behind.
    assert np.array_equal(found.masks, predictor.predict(found.expressions).masks)
    assert not predictor.model.backbone._forward_hooks


def test_the_maps_are_the_backbones(predictor):
    predictor.set_image(PICTURES[0])
    found = predictor.predict("red circle", attention=True)
    with torch.inference_mode():
        maps = predictor.model.pyramid(predictor._latent, ["red circle"]).maps
    coarse = torch.nn.functional.interpolate(maps[2], size=(4, 4), mode="bilinear")
    assert np.allclose(found.attention, (maps[1] + coarse) / 2, atol=1e-6)


def test_a_model_without_maps_says_so():
    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name("tiny", token_length=8, attention_maps=False)
    one = Predictor(VPDRefer(backbone), 64, "cpu")
    one.set_image(PICTURES[0])
    with pytest.raises(OptionError, match="attention_maps=False"):
        one.predict("dog", attention=True)


def test_fast_convolutions_can_be_left_out(monkeypatch):
    # The tiny backbone's layers are too narrow to gain by them: what counts is who asks for them.
    asked = []
    monkeypatch.setattr(VPDRefer, "fast_convolutions", lambda self: asked.append(self))
    Predictor(system(), 64, "cpu", fast_convolutions=False)
    usual = Predictor(system(), 64, "cpu")
    assert asked == [usual.model]


def test_many_pictures_at_once_are_each_alone(predictor):
    lists = [["red circle", "a tree", "dog"], ["the left one"]]
    together = predictor.predict_many(PICTURES, lists, attention=True)
    for picture, expressions, found in zip(PICTURES, lists, together, strict=True):
        predictor.set_image(picture)
        alone = predictor.predict(expressions, attention=True)
        assert found.expressions == expressions
        assert found.probabilities.shape == (len(expressions), *picture.shape[:2])
        assert np.allclose(found.probabilities, alone.probabilities, atol=1e-5)
        assert np.allclose(found.attention, alone.attention, atol=1e-5)
        assert found.tokens == alone.tokens
    # One expression for all; what was set stays set.
    assert [one.masks.shape[0] for one in predictor.predict_many(PICTURES, "dog")] == [1, 1]
    assert predictor.predict("dog").masks.shape == (1, *PICTURES[1].shape[:2])
    with pytest.raises(OptionError, match="2 pictures and 1 lists"):
        predictor.predict_many(PICTURES, [["dog"]])
    with pytest.raises(OptionError, match="0 pictures"):
        predictor.predict_many([], "dog")


def test_a_model_that_ignores_the_sentence_does_so_here_too():
    blind = Predictor(system(ignore_sentence=True), 64, "cpu")
    blind.set_image(PICTURES[0])
    found = blind.predict(["red circle", "a tree"], attention=True)
    assert np.allclose(found.probabilities[0], found.probabilities[1], atol=1e-6)
    assert [word for word, _ in found.words(1)] == ["object"]


def test_precision_and_device_are_chosen_and_checked(predictor):
    assert predictor.dtype == torch.float32
    half = Predictor(predictor.model, 64, "cpu", "bfloat16")
    for one in (predictor, half):
        one.set_image(PICTURES[0])
    exact, near = predictor.predict("dog"), half.predict("dog", attention=True)
    assert near.probabilities.dtype == near.attention.dtype == np.float32
    assert not np.array_equal(exact.probabilities, near.probabilities)
    assert np.allclose(exact.probabilities, near.probabilities, atol=0.05)
    for options, message in (
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"device": "gpu"}, "auto, cpu, cuda"),
        ({"device": "cuda:99"}, "not here"),
    ):
        with pytest.raises(OptionError, match=message):
            Predictor(predictor.model, 64, **options)


def test_saved_whole_or_by_name_it_answers_the_same(predictor, tmp_path):
    predictor.info["data_set"] = "none"
    for whole, name in ((False, "named"), (True, "whole")):
        predictor.save_pretrained(tmp_path / name, whole=whole)
        back = Predictor.from_pretrained(tmp_path / name, device="cpu")
        assert (back.image_size, back.info["data_set"]) == (64, "none")
        for one in (predictor, back):
            one.set_image(PICTURES[1])
        one, two = (p.predict("dog").probabilities for p in (predictor, back))
        assert np.array_equal(one, two)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("named", "whole")]
    assert sizes[0] < sizes[1]
    assert predictor.model.backbone.source == "embedded:tiny-t2i"


def test_to_the_hub_and_back(predictor, tmp_path, monkeypatch):
    """The Hub is a folder here: what is sent there is what comes back."""
    calls: list[Any] = []

    class Api:
        def __init__(self, token: str | None = None) -> None:
            calls.append(token)

        def create_repo(self, repo_id: str, **options: Any) -> str:
            calls.append((repo_id, options))
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            Path(folder_path).rename(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    address = predictor.push_to_hub("me/segmenter", private=True, token="secret")
    assert address == "https://hub/me/segmenter"
    assert calls == ["secret", ("me/segmenter", {"private": True, "exist_ok": True})]
    assert "me/segmenter" in (tmp_path / "hub" / "README.md").read_text()
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["frozen"]["source"] == "embedded:tiny-t2i"

    def fetch(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options["revision"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    back = Predictor.from_pretrained("me/segmenter", revision="v1", device="cpu")
    assert calls[-1] == ("me/segmenter", "v1")
    for one in (predictor, back):
        one.set_image(PICTURES[0])
    assert np.array_equal(predictor.predict("dog").masks, back.predict("dog").masks)
    (tmp_path / "hub" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        Predictor.from_pretrained("me/segmenter", device="cpu")


def test_frozen_weights_that_lie_only_here_are_sent_along(tmp_path, monkeypatch):
    from ris.checkpoints import load
    from vpd.zoo import EMBEDDED_FOLDER

    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name("tiny", EMBEDDED_FOLDER, token_length=8)

    class Api:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, *args: Any, **options: Any) -> str:
            return ""

        def upload_folder(self, *, folder_path: Path, **options: Any) -> None:
            Path(folder_path).rename(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    Predictor(VPDRefer(backbone), 64, "cpu").push_to_hub("me/segmenter")
    text = (tmp_path / "hub" / "config.json").read_text()
    assert json.loads(text)["frozen"] is None
    assert str(EMBEDDED_FOLDER.parent) not in text
    assert load(tmp_path / "hub").backbone.source.startswith("random (all weights inside")


def test_offline_the_hubs_errors_name_the_cure(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="hf auth login") as caught:
        Predictor.from_pretrained("nobody/nothing")
    assert "nobody/nothing is no folder here" in str(caught.value)
    with pytest.raises(CheckpointError, match="save_pretrained"):
        predictor.push_to_hub("nobody/nothing")
    predictor.save_pretrained(tmp_path / "here")
    with pytest.raises(OptionError, match="revision"):
        Predictor.from_pretrained(tmp_path / "here", revision="v1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 64, 64), r"a Tensor is no picture.*permute\(1, 2, 0\)"),
        (None, "a NoneType is no picture"),
        (np.zeros((64, 64), np.uint8), r"uint8 \[H, W, 3\]; got uint8 \(64, 64\)"),
    ],
)
def test_what_is_no_picture_is_named(predictor, given, said):
    with pytest.raises(OptionError, match=said):
        predictor.set_image(given)
