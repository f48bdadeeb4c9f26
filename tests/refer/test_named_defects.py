"""What a run stops at names the file as well as the ref: sentences, boxes, pictures that lie."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from refer import REFER, DataFileError, PictureError
from refer.datasets import RefDataset
from refer.pictures import open_picture


@pytest.fixture
def opened(write_refer, records) -> Any:
    """REFER of one ref, whose first sentence and annotation are changed."""

    def make(sentence: dict[str, Any] | None = None, **annotation: Any) -> REFER:
        ref = records.ref(0, 100, 1, "train")
        ref["sentences"][0].update(sentence or {})
        root = write_refer(refs=[ref], annotations=[records.ann(100, 1, **annotation)])
        folder = root / "images" / "train2014"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10)).save(folder / "COCO_train2014_000000000001.jpg")
        return REFER(root)

    return make


@pytest.mark.parametrize("value", [5, None, ["a"]])
def test_a_typed_sentence_that_is_no_string(opened, value):
    refer = opened({"raw": value})
    assert len(RefDataset(refer, "train", 8)) == 1
    with pytest.raises(DataFileError, match=r"refs\(unc\)\.p: ref 0, sentence 0 has raw .*string"):
        RefDataset(refer, "train", 8, text_field="raw")


def test_an_empty_sentence_is_named_with_its_file(opened):
    with pytest.raises(DataFileError, match=r"refs\(unc\)\.p: ref 0, sentence 0 is empty"):
        RefDataset(opened({"sent": " "}), "train", 8)


@pytest.mark.parametrize("box", [None, [1, 2], [None] * 4, ["1"] * 4])
def test_a_box_that_is_none_is_named_with_its_file(opened, box):
    data = RefDataset(opened(bbox=box), "train", 8)
    with pytest.raises(DataFileError, match=r"instances\.json: ref 0, annotation 100 has the bbox"):
        data.boxes(data.refs[0])


def test_a_picture_whose_length_lies(tmp_path, monkeypatch):
    """Pillow asks for as much memory as a chunk says it has."""
    path = tmp_path / "1.png"
    Image.new("RGB", (4, 4)).save(path)
    content = path.read_bytes()
    forged = struct.pack(">I", 0x7FFFFFFF) + b"IDAT"
    path.write_bytes(content[:33] + forged + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(PictureError, match=r"1\.png cannot be read"):
        open_picture(path)

    def fail(self: Any) -> None:
        raise MemoryError

    path.write_bytes(content)
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(PictureError, match=r"1\.png cannot be read whole: MemoryError"):
        open_picture(path)
