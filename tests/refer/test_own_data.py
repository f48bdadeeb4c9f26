"""Own pictures and masks as a data set: what comes back, and what is refused without a trace."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refer import REFER
from refer.datasets import PictureDataset
from refer.errors import DataFileError, MissingDataError, PictureError, ReferError
from refer.own_data import import_own

MASK = np.zeros((30, 40), np.uint8)
MASK[5:15, 10:30] = 7  # of any value but 0
LINES: list[dict[str, Any]] = [
    {"picture": "sub/a.jpg", "mask": "m.png", "sentences": ["left dog", " a dog "],
     "split": "train"},
    {"picture": "sub/a.jpg", "polygons": [[0, 0, 8, 0, 8, 6, 0, 6]], "sentences": ["the door"],
     "split": "train"},
    {"picture": "b.png", "mask": "m.png", "sentences": ["a cat"], "split": "val"},
]  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "sub" / "a.jpg")
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "b.png")
    Image.fromarray(MASK).save(tmp_path / "m.png")
    return write(tmp_path, LINES)


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_masks_words_and_splits_come_back(source, tmp_path):
    found = import_own(source, tmp_path / "data")
    assert found == {
        "train": {"pictures": 1, "refs": 2, "sentences": 3},
        "val": {"pictures": 1, "refs": 1, "sentences": 1},
    }
    refer = REFER(tmp_path / "data", "own", "own", image_root=tmp_path)
    (item,) = PictureDataset(refer, "train", (30, 40))
    assert item["texts"] == ["left dog", "a dog", "the door"]
    door = np.zeros((30, 40), bool)
    door[:6, :8] = True
    assert item["masks"].numpy().astype(bool).tolist() == [(MASK > 0).tolist(), door.tolist()]
    assert int(item["image"][0].float().mean()) > 250  # red
    boxes = [refer.getRefBox(ref_id) for ref_id in refer.getRefIds(split="train")]
    assert boxes == [[10, 5, 20, 10], [0, 0, 8, 6]]
    assert [refer.Anns[number]["area"] for number in (1, 2, 3)] == [200, 48, 200]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"mask": None}, DataFileError, "want either mask or polygons"),
        ({"polygons": [[0, 0, 8, 0, 8, 6]]}, DataFileError, "want either mask or polygons"),
        ({"sentences": []}, DataFileError, "one or more, none blank"),
        ({"sentences": ["a", " "]}, DataFileError, "one or more, none blank"),
        ({"split": "dev"}, DataFileError, "Invalid enum value 'dev'"),
        ({"split": "val", "picture": "sub/a.jpg"}, DataFileError, "in split val, and before in tr"),
        ({"picture": "absent.jpg"}, MissingDataError, r"absent\.jpg does not exist"),
        ({"picture": "mine.jsonl"}, PictureError, r"mine\.jsonl"),
        ({"mask": "absent.png"}, MissingDataError, r"absent\.png does not exist"),
        ({"mask": "small.png"}, DataFileError, "has 4 x 3 pixels, b.png 40 x 30"),
        ({"mask": "black.png"}, DataFileError, "the mask is empty"),
        ({"picture": "lying.jpg"}, PictureError, "save it upright"),
        ({"picture": "upside_down.jpg"}, PictureError, "save it upright"),
        ({"maks": "m.png"}, DataFileError, "unknown field `maks`"),
    ],
)
def test_a_line_that_is_not_sound_is_named_and_nothing_written(
    source, tmp_path, change, error, said
):
    Image.new("L", (4, 3), 255).save(tmp_path / "small.png")
    Image.new("L", (40, 30)).save(tmp_path / "black.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "lying.jpg", exif=exif)
    exif[0x0112] = 3
    Image.new("RGB", (40, 30)).save(tmp_path / "upside_down.jpg", exif=exif)
    write(tmp_path, [*LINES[:2], {**LINES[2], **change}])
    with pytest.raises(error, match=rf"mine\.jsonl, line 3: .*{said}"):
        import_own(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def cut_out() -> Image.Image:
    """White all over, and transparent around the object."""
    layers = np.full((30, 40, 4), 255, np.uint8)
    layers[..., 3] = MASK
    return Image.fromarray(layers)


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(MASK.astype(np.uint16)),
        Image.fromarray(MASK > 0),
        Image.fromarray(np.stack([MASK, MASK * 0, MASK * 0], axis=2)),
        Image.fromarray(MASK).convert("P"),
        cut_out(),
    ],
    ids=["16 bits", "1 bit", "colour", "palette", "transparent"],
)
def test_masks_of_any_kind_mean_the_same(source, tmp_path, mask):
    mask.save(tmp_path / "m.png")
    import_own(source, tmp_path / "data")
    refer = REFER(tmp_path / "data", "own", "own", image_root=tmp_path)
    assert refer.getMask(refer.Refs[1])["mask"].tolist() == (MASK > 0).tolist()


def test_windows_editors_mark_their_files(source, tmp_path):
    source.write_bytes(codecs.BOM_UTF8 + source.read_bytes())
    assert import_own(source, tmp_path / "data")["val"]["refs"] == 1


def test_what_is_there_is_kept_unless_told_otherwise(source, tmp_path):
    import_own(source, tmp_path / "data")
    written = (tmp_path / "data" / "own" / "refs(own).json").read_bytes()
    write(tmp_path, LINES[1:])
    with pytest.raises(DataFileError, match="--overwrite replaces them"):
        import_own(source, tmp_path / "data")
    assert (tmp_path / "data" / "own" / "refs(own).json").read_bytes() == written
    assert import_own(source, tmp_path / "data", overwrite=True)["train"]["refs"] == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{"])
def test_what_is_no_file_of_lines_is_named(tmp_path, content):
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(ReferError, match=r"mine\.jsonl"):
        import_own(tmp_path / "mine.jsonl", tmp_path / "data")
    with pytest.raises(MissingDataError, match="nowhere"):
        import_own(tmp_path / "nowhere", tmp_path / "data")
