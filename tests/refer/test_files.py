"""Files that are read whole, and files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refer.errors import DataFileError, MissingDataError, PictureError
from refer.evaluation import gres_records
from refer.evaluation.grounding_records import load_predictions
from refer.evaluation.records import load_records
from refer.files import draft_of, read_file, read_text, write_json, written_beside
from refer.pictures import open_picture, picture_size
from refer.readers.flickr30k import split_lists
from refer.readers.grefs import load_grefs
from refer.readers.instances import load_instances
from refer.readers.json_file import load_json
from refer.readers.phrases import load_phrases
from refer.readers.pickles import load_refs
from refer.readers.reftr_lists import load_list
from refer.readers.safe_xml import parse_xml

READERS = {
    "instances.json": load_instances,
    "refs.p": load_refs,
    "refs.json": load_refs,
    "grefs.p": load_grefs,
    "grefs.json": load_grefs,
    "any.json": lambda path: load_json(path, dict, "cure"),
    "phrases.jsonl": load_phrases,
    "1.xml": parse_xml,
    "val.txt": lambda path: split_lists(path.parent, ["val"]),
    "list.pth": load_list,
    "records.jsonl": load_records,
    "boxes.jsonl": load_predictions,
    "detailed_results.json": gres_records.load,
    "1.jpg": picture_size,
    "2.jpg": open_picture,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_plain_file_is_refused_by_every_reader(tmp_path, name):
    """A folder, a loop of links, and a pipe, of which opening would wait without end."""
    path, error = tmp_path / name, PictureError if name.endswith("jpg") else DataFileError
    with pytest.raises(MissingDataError, match=name):
        READERS[name](path)
    path.symlink_to(tmp_path / "absent")
    with pytest.raises(MissingDataError, match=name):
        READERS[name](path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(error, match=f"{name}.* cannot be read: .*symbolic links"):
        READERS[name](path)
    path.unlink()
    path.mkdir()
    with pytest.raises(error, match=f"{name} cannot be read: it is a folder, not a file"):
        READERS[name](path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(error, match=f"{name} cannot be read: it is a pipe or a device"):
        READERS[name](path)


def test_paths_that_cannot_be_and_what_cannot_be_read(tmp_path, monkeypatch):
    for name, said in (("a\0b", "null"), ("a" * 5000, "too long"), ("a/b", "[Nn]ot a dir")):
        (tmp_path / "a").touch()
        with pytest.raises(DataFileError, match=f"cannot be read: .*{said}"):
            read_file(tmp_path / name, "absent")
    (tmp_path / "a").write_bytes(b"\xff")
    assert read_file(tmp_path / "a", "absent") == b"\xff"
    with pytest.raises(DataFileError, match="a: not UTF-8"):
        read_text(tmp_path / "a", "absent")

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(Path, "read_bytes", lambda self: fail(OSError(5, "Input/output error")))
    with pytest.raises(DataFileError, match="a cannot be read: Input/output error"):
        read_file(tmp_path / "a", "absent")
    monkeypatch.setattr(Path, "read_bytes", lambda self: fail(MemoryError()))
    with pytest.raises(DataFileError, match="a has 1 bytes, more than the memory holds"):
        read_file(tmp_path / "a", "absent")


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with written_beside(path) as file:
            file.write("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with written_beside(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.json"
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_json(path, {})
    with pytest.raises(OSError, match="No space") as caught, draft_of(tmp_path / "b"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "b")


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, draft_of(tmp_path / "b"):
        Path(tmp_path / "source").read_text()
    assert caught.value.filename == str(tmp_path / "source")
    assert not list(tmp_path.iterdir())


def test_json_takes_what_it_can_hold_unless_told_otherwise(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": Path("b")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "a.json", {"a": Path("b")}, default=str)
    assert '"a": "b"' in (tmp_path / "a.json").read_text()
