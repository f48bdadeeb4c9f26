"""RefTR's lists as phrases: every kind, hostile and damaged ones."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.readers.reftr_lists import load_list, picture_sizes, reftr_phrases

SENTENCE = "A man in a hat rides"
LISTS: dict[str, list[Any]] = {
    "flickr_multi": [("1.jpg", [0, 9], [[1, 2, 30, 30], [3.7, 4, 9, 9]], ["a man", "a hat"], None,
                      SENTENCE)],
    "flickr": [("1.jpg", [1, 2, 30, 30], "a man")],
    "refcoco": [("COCO_train2014_000000000077.jpg", None, [1.9, 2, 10.9, 30], "a man", [])],
    "referit": [("1.jpg", None, np.array([1, 2, 30, 30]), "a man", [])],
    "vg": [("1.jpg", [1, 2, 10, 30], "a man")],
    "refcoco_mask": [("1.jpg", "1.npy", torch.tensor([1, 2, 30, 30]), "a man")],
}  # fmt: skip


def sizes(name: str) -> tuple[int, int]:
    return 60, 40


@pytest.mark.parametrize("kind", LISTS)
def test_every_kind_of_list(tmp_path, kind):
    torch.save(LISTS[kind], tmp_path / "list_val.pth")
    (record,) = reftr_phrases(tmp_path / "list_val.pth", kind, "val", sizes)
    assert (record.id, record.split, record.width) == ("list_val/0", "val", 60)
    expected = {"refcoco": (1.9, 2, 1.9 + 10.9, 32), "vg": (1, 2, 11, 32)}.get(kind, (1, 2, 30, 30))
    assert record.phrases[0].boxes == (expected,)
    assert record.text(record.phrases[0]).lower() == "a man"
    assert record.image_id == (77 if kind == "refcoco" else "1")
    if kind == "flickr_multi":
        assert record.caption == SENTENCE
        assert record.text(record.phrases[1]) == "a hat"


def test_whole_numbers_as_reftr_takes_them(tmp_path):
    for kind, box in (("refcoco", (1, 2, 11, 32)), ("flickr_multi", (1, 2, 30, 30))):
        torch.save(LISTS[kind], tmp_path / "l.pth")
        (record,) = reftr_phrases(tmp_path / "l.pth", kind, "val", sizes, "int")
        assert record.phrases[0].boxes == (box,)
        assert record.phrases[-1].boxes[0][0] in (1, 3)  # 3.7 became 3


@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_numbers_in_lists(tmp_path, legacy):
    box = [np.float64(1), np.int64(2), np.float32(30), np.int32(30)]
    entries = [("1.jpg", box, "a man"), ("1.jpg", np.array([1, 2, 30, 30.0]), "b")]
    torch.save(entries, tmp_path / "l.pth", _use_new_zipfile_serialization=not legacy)
    found = list(reftr_phrases(tmp_path / "l.pth", "flickr", "val", sizes))
    assert [record.phrases[0].boxes for record in found] == [((1, 2, 30, 30),)] * 2


class Runs:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_hostile_lists_run_nothing(tmp_path):
    made = tmp_path / "made"
    torch.save([("1.jpg", Runs(made), "a man")], tmp_path / "l.pth")
    with pytest.raises(DataFileError, match=r"l\.pth: refused"):
        load_list(tmp_path / "l.pth")
    objects = np.empty(1, object)
    objects[0] = Runs(made)
    torch.save([("1.jpg", objects, "a man")], tmp_path / "l.pth")
    with pytest.raises(DataFileError, match=r"l\.pth: (refused|damaged)"):
        load_list(tmp_path / "l.pth")
    assert not made.exists()


def test_damaged_lists(tmp_path):
    path = tmp_path / "l.pth"
    with pytest.raises(MissingDataError, match="no list"):
        load_list(path)
    torch.save(LISTS["vg"], path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataFileError, match=r"l\.pth"):
            load_list(path)
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with suppress(DataFileError):  # some bytes are of no consequence
            load_list(path)
    torch.save({"a": 1}, path)
    with pytest.raises(DataFileError, match="holds a dict, want a list"):
        load_list(path)


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("vg", LISTS["refcoco"][0], "5 values, want 3; is the list of kind 'vg'"),
        ("referit", ("1.jpg", None, [1, 2, 3], "a", []), r"the box \[1, 2, 3\]"),
        ("vg", ("1.jpg", [1, 2, float("nan"), 4], "a"), "four numbers"),
        ("vg", ("1.jpg", [1, 2, 3, 4], 5), "5 where words are expected"),
        ("vg", 5, "a int, want a tuple"),
        ("flickr_multi", ("1.jpg", [1], [[1, 2, 3, 4]], ["a man"], 0, SENTENCE),
         "'a man' is not at character 1"),
        ("flickr_multi", ("1.jpg", [0], [], ["a man"], 0, SENTENCE), "1 positions, 0 boxes"),
        ("vg", ("1.jpg", torch.ones(4, requires_grad=True), "a"), "requires grad"),
        ("flickr_multi", ("1.jpg", [[]], [[1, 2, 3, 4]], ["a man"], 0, SENTENCE), "out of range"),
        ("flickr_multi", ("1.jpg", [None], [[1, 2, 3, 4]], ["a man"], 0, SENTENCE), "NoneType"),
    ],
)  # fmt: skip
def test_bad_entries_are_named(tmp_path, kind, entry, message):
    torch.save([LISTS[kind][0], entry], tmp_path / "l.pth")
    with pytest.raises(DataFileError, match=rf"l\.pth: entry 1: .*{message}"):
        list(reftr_phrases(tmp_path / "l.pth", kind, "val", sizes))


def test_sizes_come_from_the_pictures(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    size_of = picture_sizes(tmp_path)
    assert size_of("a.png") == (60, 40)
    (tmp_path / "a.png").unlink()
    assert size_of("a.png") == (60, 40)  # asked once
    with pytest.raises(MissingDataError, match=r"picture .*c\.png does not exist"):
        size_of("c.png")
    with pytest.raises(PictureError, match="cannot be read"):
        size_of("b.png")
    with pytest.raises(UnknownNameError, match="want one of flickr_multi, flickr, refcoco"):
        list(reftr_phrases(tmp_path / "l.pth", "unc", "val", size_of))  # type: ignore[arg-type]


def test_a_list_that_asks_for_all_memory(tmp_path, monkeypatch):
    (tmp_path / "l.pth").touch()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("Unable to allocate 16.0 GiB")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(DataFileError, match=r"l\.pth: damaged \(MemoryError: Unable"):
        load_list(tmp_path / "l.pth")
