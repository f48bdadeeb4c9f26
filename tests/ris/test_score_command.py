"""`ris score` names a file that is none it can score, and ends."""

from __future__ import annotations

import os

import pytest

from ris.cli import main


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_is_no_file_of_scores(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text('{"format": ' + "[" * 200_000)
    assert main(["score", str(path)]) == 2
    assert name in capsys.readouterr().err
    path.write_text('{"format": "grounding-predictions", "version": 1, "x": ' + "[" * 200_000)
    assert main(["score", str(path)]) == 2
    assert name in capsys.readouterr().err
    path.unlink()
    os.mkfifo(path)  # opening it would wait for somebody to write
    assert main(["score", str(path)]) == 2
    assert "it is a pipe or a device" in capsys.readouterr().err
    assert main(["score", str(tmp_path / f"\0{name}")]) == 2
    assert "cannot be read" in capsys.readouterr().err
