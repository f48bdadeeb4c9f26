"""The web page: its answers without gradio, its parts with it, and the command's errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refer import PictureError
from ris.asking import MAX_EXPRESSIONS, MAX_SIDE, Asker, expressions_of
from ris.cli import main
from ris.commands.app import examples_for
from ris.errors import OptionError


@dataclass
class Stub:
    """A predictor whose masks are the left half; it keeps what it was asked."""

    no_target: np.ndarray | None = None
    empty: bool = False
    set_pictures: list[tuple[int, int]] = field(default_factory=list)

    def set_image(self, picture: Image.Image) -> None:
        self.set_pictures.append(picture.size)
        self.picture = picture

    def predict(self, expressions: list[str]) -> Any:
        width, height = self.picture.size
        masks = np.zeros((len(expressions), height, width), bool)
        if not self.empty:
            masks[:, :, : width // 2] = True
        return SimpleNamespace(
            expressions=expressions,
            masks=masks,
            scores=np.full(len(expressions), 0.75, np.float32),
            truncated=[len(text) > 20 for text in expressions],
            no_target=self.no_target,
            has_masks=True,
            has_boxes=False,
        )


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), "white").save(path)
    return path


def test_every_line_is_asked_and_drawn(picture):
    answer = Asker(Stub()).ask(picture, " the left half \n\nthe thing with a rather long name\n")
    assert answer.rows == [
        ["the left half", "50.0 % of the picture", "0.75"],
        ["the thing with a rather long name", "50.0 % of the picture, asked with its end cut off",
         "0.75"],
    ]  # fmt: skip
    drawn = np.asarray(answer.picture)
    assert (drawn[100, 50] != drawn[100, 250]).any()


def test_the_picture_is_encoded_once(picture, tmp_path):
    stub = Stub()
    asker = Asker(stub)
    asker.ask(picture, "one")
    asker.ask(picture, "two")
    assert len(stub.set_pictures) == 1
    other = tmp_path / "other.png"
    Image.new("RGB", (30, 20)).save(other)
    asker.ask(other, "one")
    asker.ask(picture, "one")
    assert stub.set_pictures == [(300, 200), (30, 20), (300, 200)]


def test_nothing_here_and_no_pixel(picture):
    general = Stub(no_target=np.array([0.9, 0.1]), empty=True)
    rows = Asker(general).ask(picture, "a unicorn\nthe wall").rows
    assert rows == [["a unicorn", "nothing here", "90 % sure"], ["the wall", "no pixel found", ""]]


def test_a_large_photo_is_scaled_down(tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (MAX_SIDE * 2, 100)).save(path)
    stub = Stub()
    Asker(stub).ask(path, "it")
    assert stub.set_pictures == [(MAX_SIDE, 50)]


def test_a_huge_picture_in_a_small_file_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("ris.asking.MAX_PIXELS", 5000)
    path = tmp_path / "large.png"
    Image.new("L", (100, 51)).save(path)
    with pytest.raises(PictureError, match=r"^large\.png has 100 x 51 pixels, more than"):
        Asker(Stub()).ask(path, "it")
    Image.new("L", (100, 50)).save(path)
    Asker(Stub()).ask(path, "it")


def test_what_cannot_be_asked_is_said(tmp_path, picture):
    asker = Asker(Stub())
    with pytest.raises(OptionError, match="no picture"):
        asker.ask(None, "it")
    with pytest.raises(OptionError, match="no expression"):
        asker.ask(picture, " \n")
    with pytest.raises(OptionError, match=f"at most {MAX_EXPRESSIONS}"):
        expressions_of("it\n" * (MAX_EXPRESSIONS + 1))
    with pytest.raises(OptionError, match="letters"):
        expressions_of("it" * 1000)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_broken_files_are_named_without_the_servers_folders(tmp_path, picture, content):
    path = tmp_path / "broken.png"
    path.write_bytes(picture.read_bytes()[:60] if content is None else content)
    with pytest.raises(PictureError) as caught:
        Asker(Stub()).ask(path, "it")
    assert str(caught.value).startswith("broken.png ")
    assert str(tmp_path) not in str(caught.value)


def test_after_a_failure_no_picture_is_thought_to_be_set(picture, monkeypatch):
    stub = Stub()
    asker = Asker(stub)
    monkeypatch.setattr(stub, "set_image", lambda picture: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asker.ask(picture, "it")
    monkeypatch.undo()
    assert asker.ask(picture, "it").rows


def test_examples_only_for_generated_data(tmp_path):
    assert examples_for(tmp_path, "refcoco") == []
    made = examples_for(tmp_path, "refshapes")
    assert len(made) == 3
    for path, text in made:
        assert Image.open(path).size == (256, 256)
        assert expressions_of(text)


@pytest.mark.skipif(find_spec("gradio") is not None, reason="gradio is there")
def test_without_gradio_the_extra_is_named(capsys):
    assert main(["app", "--weights", "nothing"]) == 2
    assert "pip install -e '.[app]'" in capsys.readouterr().err


def test_help_loads_neither_torch_nor_gradio():
    code = (
        "import sys; from ris.cli import parser; parser().format_help();"
        "assert not {'torch', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_page_is_built(picture, repo):
    gr = pytest.importorskip("gradio")
    from ris.app import build

    page = build(Asker(Stub()), [(str(picture), "the left half")])
    config = page.get_config_file()
    kinds = [component["type"] for component in config["components"]]
    assert {"image", "textbox", "button", "dataframe", "dataset"} <= set(kinds)
    assert page.analytics_enabled is False
    assert not list((repo / "ris").glob("*.pyi"))
    (answer,) = [f.fn for f in page.fns.values() if f.fn and f.fn.__name__ == "answer"]
    drawn, rows = answer(str(picture), "the left half")
    assert drawn.width == 300
    assert rows[0][0] == "the left half"
    with pytest.raises(gr.Error, match="no expression"):
        answer(str(picture), "")


def test_only_uploads_are_opened(picture):
    """A request may name any path of the server in place of an upload."""
    gr = pytest.importorskip("gradio")
    from gradio.data_classes import FileData

    from ris.app import build

    page = build(Asker(Stub()))
    (upload,) = [
        block for block in page.blocks.values() if getattr(block, "label", "") == "Picture"
    ]
    cache = Path(upload.GRADIO_CACHE)
    for path in ("/etc/passwd", str(picture), str(cache / ".." / "x.png"), "docs/demo.png"):
        with pytest.raises(gr.Error, match="no upload"):
            upload.preprocess(FileData(path=path))
    inside = str(cache.resolve() / "hash" / "photo.png")
    assert upload.preprocess(FileData(path=inside)) == inside
    assert upload.preprocess(None) is None


def test_served_at_this_machine_only(monkeypatch):
    gr = pytest.importorskip("gradio")
    from ris.app import build, serve
    from ris.commands import app

    asked: dict[str, Any] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: asked.update(options))
    import argparse

    parser = argparse.ArgumentParser()
    app.add_arguments(parser)
    given = parser.parse_args(["--weights", "x"])
    serve(
        build(Asker(Stub())),
        host=given.host,
        port=given.port,
        share=given.share,
        max_mb=given.max_mb,
    )
    assert (asked["server_name"], asked["share"]) == ("127.0.0.1", False)
    assert asked["max_file_size"] == 20 * 1024**2


def test_a_port_that_is_taken_is_said(monkeypatch):
    gr = pytest.importorskip("gradio")
    from ris.app import build, serve

    def taken(self: Any, **options: Any) -> None:
        raise OSError("address in use")

    monkeypatch.setattr(gr.Blocks, "launch", taken)
    with pytest.raises(OptionError, match=r"127\.0\.0\.1:7860.*--port"):
        serve(build(Asker(Stub())), host="127.0.0.1", port=7860, share=False, max_mb=1)


def test_a_real_generalized_predictor_is_asked(picture):
    from ris.general import GeneralRefer
    from ris.predictor import Predictor
    from vpd import DiffusionBackbone
    from vpd.weights import random_components
    from vpd.zoo import ZOO

    backbone = DiffusionBackbone(random_components(ZOO["tiny"], 0), token_length=8)
    model = GeneralRefer(backbone, {"type": "GRESHead", "grid": 4, "width": 32, "heads": 4,
                                    "feedforward": 32, "mask_channels": 8})  # fmt: skip
    answer = Asker(Predictor(model, 64, "cpu")).ask(
        picture, "a dog\na unicorn and so much more ..."
    )
    assert [row[0] for row in answer.rows] == ["a dog", "a unicorn and so much more ..."]
    assert "cut off" in answer.rows[1][1]
    assert answer.picture.width == 300
