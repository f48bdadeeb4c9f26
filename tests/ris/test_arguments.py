"""Misspelt options are answered, right ones are not called misspelt."""

from __future__ import annotations

import sys

import pytest

from ris.cli import main
from ris.lettering import lines


def said(arguments: list[str] | None, capsys) -> str:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_the_console_command_is_answered_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ris", "--verison"])
    assert "--verison: did you mean --version?" in said(None, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--epo", "3"],  # short for --epochs
        ["predict", "p.jpg", "--", "--outside the house"],
        ["predict", "p.jpg", "a dog", "--img_size", "-1x"],
    ],
)
def test_what_is_right_is_not_called_misspelt(arguments, capsys):
    assert "did you mean" not in said(arguments, capsys)


def test_lines_end_where_they_must():
    assert lines("a dog", 12, 400) == ["a dog"]
    assert lines("", 12, 400) == [""]
    (word,) = lines("x" * 100, 12, 100, most=1)
    assert word.startswith("xxxxx")
    assert word.endswith("…")
    cut = lines("word " * 100, 12, 200)
    assert len(cut) == 3
    assert cut[-1].endswith("…")
