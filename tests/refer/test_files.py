"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from refer.files import draft_of, write_json, written_beside


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
