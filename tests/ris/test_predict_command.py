"""`ris predict` as a user calls it: one picture, a folder, a glob, with broken ones among them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from ris import Predictor
from ris.cli import main
from ris.commands.listing import many_pictures, stems
from ris.models import VPDRefer
from ris.word_maps import word_sheet
from vpd import DiffusionBackbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    torch.manual_seed(0)
    model = VPDRefer(DiffusionBackbone.from_name("tiny", token_length=8))
    Predictor(model, 64, "cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("a.png", "a.jpg", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_another_size_than_that_of_the_training(weights, pictures, tmp_path, capsys):
    command = ["predict", str(pictures / "b.png"), "a tree", "--weights", str(weights)]
    for size in (64, 128):
        out = ["--out", str(tmp_path / f"{size}.png"), "--json", str(tmp_path / str(size))]
        assert main([*command, *out, "--img_size", str(size)]) == 0
        predictor = Predictor.from_pretrained(weights, image_size=size)
        predictor.set_image(pictures / "b.png")
        (mask,) = predictor.predict("a tree").masks
        (answer,) = json.loads((tmp_path / str(size) / "b.json").read_text())["answers"]
        assert np.array_equal(coco.decode(answer["segmentation"]), mask)
    assert main([*command, "--img_size", "100"]) == 2
    assert "100 must be a multiple of 64" in capsys.readouterr().err


def test_a_folder_gives_overlays_masks_and_run_lengths(weights, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["the circle", "a tree"]
    arguments = ["predict", str(pictures), *asked, "--weights", str(weights), "--out", str(out)]
    assert main([*arguments, "--attention"]) == 0
    assert "3 of 3 pictures" in capsys.readouterr().out
    predictor = Predictor.from_pretrained(weights)
    for name, stem in (("a.png", "a.png"), ("a.jpg", "a.jpg"), ("b.png", "b")):
        predictor.set_image(pictures / name)
        found = predictor.predict(asked)
        said = json.loads((out / f"{stem}.json").read_text())
        assert said["picture"].endswith(name)
        assert (said["height"], said["width"]) == found.masks.shape[1:]
        for index, answer in enumerate(said["answers"]):
            assert answer["expression"] == asked[index]
            assert np.array_equal(coco.decode(answer["segmentation"]), found.masks[index])
            png = np.asarray(Image.open(out / f"{stem}_{index}.png"))
            assert np.array_equal(png > 0, found.masks[index])
            assert answer["area"] == found.masks[index].sum()
            box = found.boxes[index]
            assert answer["box"] == (None if np.isnan(box).any() else box.tolist())
        assert Image.open(out / f"{stem}_overlay.png").width >= 256
        assert (out / f"{stem}_attention.png").is_file()
    assert not list(out.glob("*.part"))
    assert len(list(out.iterdir())) == 3 * 5


def test_a_broken_picture_is_named_and_the_others_are_done(weights, pictures, tmp_path, capsys):
    (pictures / "aa.jpg").write_bytes((pictures / "a.jpg").read_bytes()[:300])
    (pictures / "empty.png").touch()
    out = tmp_path / "out"
    arguments = ["predict", str(pictures / "*.[jp]*"), "the circle", "--weights", str(weights)]
    assert main([*arguments, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "2 of 5 pictures could not be read: aa.jpg, empty.png" in said.err
    assert str(pictures / "aa.jpg") in said.err
    assert "3 of 5 pictures" in said.out
    assert {p.stem for p in out.glob("*.json")} == {"a.png", "a.jpg", "b"}


def test_one_picture_writes_what_was_asked_and_no_more(weights, pictures, tmp_path):
    arguments = ["predict", str(pictures / "b.png"), "the circle", "--weights", str(weights)]
    out = tmp_path / "out" / "drawn.png"
    assert main([*arguments, "--out", str(out)]) == 0
    assert [p.name for p in out.parent.iterdir()] == ["drawn.png"]
    more = ["--attention", "--json", str(out.parent), "--masks", str(out.parent)]
    assert main([*arguments, "--out", str(out), *more, "--dtype", "bfloat16"]) == 0
    names = {p.name for p in out.parent.iterdir()}
    assert names == {"drawn.png", "drawn_attention.png", "b.json", "b_0.png"}


def test_places_that_cannot_be_used(weights, pictures, tmp_path, capsys, monkeypatch):
    def refused(place: Path, *extra: str) -> str:
        assert main(["predict", str(place), "dog", "--weights", str(weights), *extra]) == 2
        return capsys.readouterr().err

    (tmp_path / "none").mkdir()
    assert "no picture in folder" in refused(tmp_path / "none")
    assert "no file matches" in refused(tmp_path / "*.png")
    assert "does not exist" in refused(tmp_path / "absent.png")
    (tmp_path / "file").touch()
    assert "is a file" in refused(pictures, "--out", str(tmp_path / "file"))

    def loaded(*arguments: object, **options: object) -> None:
        raise AssertionError("the weights are read before the places are looked at")

    monkeypatch.setattr(Predictor, "from_pretrained", loaded)
    assert "is a folder; name a file" in refused(pictures / "b.png", "--out", str(tmp_path))
    for option in ("--masks", "--json"):
        for place in (pictures, pictures / "b.png"):
            assert f"{option} {tmp_path / 'file'} is a file" in refused(
                place, option, str(tmp_path / "file")
            )
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments = ["predict", str(pictures / "b.png"), "dog", "--weights", "nobody/nothing"]
    assert main(arguments) == 2
    assert "hf auth login" in capsys.readouterr().err


def test_a_name_with_a_globs_letters_is_a_file(tmp_path):
    (tmp_path / "a[1].png").touch()
    assert many_pictures(str(tmp_path / "a[1].png")) is None
    assert many_pictures(str(tmp_path / "absent.png")) is None


def test_names_of_results_never_meet():
    pictures = [Path("x/a.png"), Path("x/a.jpg"), Path("y/a.png"), Path("y/b.png")]
    assert stems(pictures) == ["x_a.png", "a.jpg", "y_a.png", "b"]


def test_the_sheet_has_a_tile_for_every_word(weights):
    predictor = Predictor.from_pretrained(weights)
    predictor.set_image(np.zeros((50, 100, 3), np.uint8))
    one = word_sheet(predictor.picture, predictor.predict("dog", attention=True))
    two = word_sheet(predictor.picture, predictor.predict("red dog", attention=True))
    both = predictor.predict(["dog", "red dog"], attention=True)
    assert two.width > 1.8 * one.width
    assert word_sheet(predictor.picture, both).size == (two.width, one.height + two.height)
