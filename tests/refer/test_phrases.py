"""The common phrase format: round trips, and every way to be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refer.errors import DataFileError, MissingDataError
from refer.readers.phrases import (
    Phrase,
    PhraseRecord,
    fit_boxes,
    load_phrases,
    problem_of,
    save_phrases,
)

DOGS = Phrase(0, 8, ((1.0, 2.0, 30.5, 40.0), (40.0, 2.0, 60.0, 40.0)), ("animals",), "11")
BALL = Phrase(17, 21, ())
RECORD = PhraseRecord(
    "made/1/0", "made", "val", 1, "a/1.jpg", 60, 40, "Two dogs chase a ball .", (DOGS, BALL)
)
OTHER = msgspec.structs.replace(RECORD, id="made/2/0", image_id="two", split="train")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_phrases(tmp_path / "p.jsonl", [RECORD, OTHER], {"source": "made"})
    return tmp_path / "p.jsonl"


def test_round_trip(saved):
    found = load_phrases(saved)
    assert found.records == [RECORD, OTHER]
    assert found.header == {"format": "phrases", "version": 1, "n_records": 2, "source": "made"}
    assert len(found.data_hash) == 64
    assert os.listdir(saved.parent) == [saved.name]


def test_the_documented_example(tmp_path):
    """The line in the reader's docstring, without its remarks."""
    line = {
        "id": "flickr30k/1234/0", "source": "flickr30k", "split": "val", "image_id": "1234",
        "file_name": "1234.jpg", "width": 500, "height": 375,
        "caption": "Two dogs chase a ball .",
        "phrases": [{"start": 0, "end": 8, "boxes": [[1, 2, 3, 4]], "types": ["animals"],
                     "chain": "11"}],
    }  # fmt: skip
    header = {"format": "phrases", "version": 1, "n_records": 1}
    (tmp_path / "p").write_text(f"{json.dumps(header)}\n{json.dumps(line)}\n")
    (record,) = load_phrases(tmp_path / "p").records
    assert record.text(record.phrases[0]) == "Two dogs"
    assert record.phrases[0].boxes == ((1.0, 2.0, 3.0, 4.0),)


def test_phrases_without_boxes_have_no_key():
    assert RECORD.text(BALL) == "ball"
    assert RECORD.scored() == [("made/1/0", 0)]


@given(st.text(min_size=1).filter(str.strip))
def test_spans_count_characters_of_any_script(tmp_path_factory, words):
    caption = f"\U0001d49c é {words} ."
    record = msgspec.structs.replace(
        RECORD, caption=caption, phrases=(Phrase(4, 4 + len(words), ()),)
    )
    try:
        words.encode()
    except UnicodeEncodeError:  # half of a surrogate pair is no text, and JSON cannot hold it
        return
    path = tmp_path_factory.mktemp("p") / "p"
    save_phrases(path, [record], {})
    (found,) = load_phrases(path).records
    assert found.text(found.phrases[0]) == words


def changed(**values: Any) -> dict[str, Any]:
    return {**msgspec.to_builtins(RECORD), **values}


def spanned(start: Any, end: Any, *boxes: Any) -> dict[str, Any]:
    return changed(phrases=[{"start": start, "end": end, "boxes": list(boxes)}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (changed(file_name="../../etc/passwd"), "want a name below the picture folder"),
        (changed(file_name="/etc/passwd"), "want a name below"),
        (changed(file_name="a\\..\\b.jpg"), "want a name below"),
        (changed(file_name=""), "want a name below"),
        (changed(width=0), r"the picture is 0 x 40"),
        (changed(width=60.5), "Expected `int`"),
        (changed(image_id=None), r"\$.image_id"),
        (changed(more=1), "unknown field `more`"),
        (spanned(5, 5), r"phrase 0 \[5, 5\) is no span of the caption's 23 characters"),
        (spanned(-1, 5), "no span"),
        (spanned(0, 24), "count code points, not bytes"),
        (spanned(3, 4), "has no words"),
        (spanned(0, 7, [1, 2, 3]), r"of length 4 - at `\$.phrases\[0\].boxes"),
        (spanned(0, 7, [10, 2, 3, 4]), r"box \[10.0, 2.0, 3.0, 4.0\] in a picture of 60 x 40"),
        (spanned(0, 7, [1, 2, 1, 4]), "want x1 < x2"),
        (spanned(0, 7, [-1, 2, 3, 4]), "cuts boxes at the edges"),
        (spanned(0, 7, [1, 2, 60.01, 4]), "inside of it"),
        (spanned(0, 7, [1, 2, 3, float("nan")]), "malformed"),
        (spanned(0, 7, [1, 2, 3, 1e999]), "malformed|out of range"),
        (spanned(0, 7, ["1", 2, 3, 4]), "Expected `float`"),
        (changed(id="made/1/0", phrases=[{"start": 0, "end": 7}]), "field `boxes`"),
        ([], "Expected `object`"),
    ],
)
def test_bad_records_are_named_with_their_line(saved, line, message):
    lines = saved.read_text().splitlines()
    lines[1] = json.dumps(line)
    saved.write_text("\n".join(lines))
    with pytest.raises(DataFileError, match=rf"p\.jsonl, line 2 .*({message})"):
        load_phrases(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines, lines[1]], "line 4 .*'made/1/0': comes a second time"),
        (lambda lines: lines[:2], "line 2 .*ends after 1 of 2 records"),
        (lambda lines: [*lines[:2], lines[2][:50]], "line 3 .*truncated"),
        (lambda lines: lines[1:], "line 1 .*must say 'phrases', version 1"),
        (lambda lines: ["<html>", *lines[1:]], "line 1 .*malformed"),
        (lambda lines: [], r"line 1 \(b''...\)"),
        (lambda lines: [lines[0], "[" * 100_000], "line 2 "),
    ],
)
def test_damaged_files(saved, edit, message):
    saved.write_text("\n".join(edit(saved.read_text().splitlines())))
    with pytest.raises(DataFileError, match=message):
        load_phrases(saved)


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match=r"no phrases at .*phrases_convert\.py"):
        load_phrases(tmp_path / "none")


def test_what_the_reader_refuses_is_not_written(saved):
    before = saved.read_bytes()
    outside = msgspec.structs.replace(OTHER, phrases=(Phrase(0, 3, ((0.0, 0.0, 61.0, 40.0),)),))
    for records, header, message in (
        ([RECORD, outside], {}, "not written: record 'made/2/0': .*61.0"),
        ([RECORD, RECORD], {}, "'made/1/0': its id comes a second time"),
        ([RECORD], {"version": 2}, "header entries version"),
    ):
        with pytest.raises(DataFileError, match=message):
            save_phrases(saved, records, header)
    infinite = Phrase(0, 3, ((0.0, 0.0, float("inf"), 1.0),))
    assert "finite" in str(problem_of(msgspec.structs.replace(OTHER, phrases=(infinite,))))
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_header_that_grows_while_records_come(tmp_path):
    header = {"notes": {}}

    def records():
        yield RECORD
        header["notes"]["what was seen on the way"] = "x" * 5000
        yield OTHER

    save_phrases(tmp_path / "p", records(), header)
    found = load_phrases(tmp_path / "p")
    assert found.records == [RECORD, OTHER]
    assert len(found.header["notes"]["what was seen on the way"]) == 5000


def test_boxes_are_cut_at_the_edges_and_empty_ones_dropped():
    nan = float("nan")
    given_boxes = [
        [1, 2, 3, 4],
        [-2, -2, 3, 4],
        [50, 30, 99, 99],
        [5, 5, 5, 9],  # no width
        [9, 5, 5, 9],  # negative width
        [60, 0, 70, 10],  # outside, touching
        [-9, 0, -1, 10],
        [nan, 0, 1, 1],
        [0, 0, 1, nan],
    ]
    fitted = fit_boxes(given_boxes, 60, 40)
    assert fitted.boxes == ((1, 2, 3, 4), (0, 0, 3, 4), (50, 30, 60, 40))
    assert (fitted.clipped, fitted.dropped) == (2, 6)


@given(st.lists(st.lists(st.floats(), min_size=4, max_size=4)))
def test_whatever_was_fitted_the_reader_takes(boxes):
    fitted = fit_boxes(boxes, 60, 40)
    assert len(fitted.boxes) + fitted.dropped == len(boxes)
    record = msgspec.structs.replace(RECORD, phrases=(Phrase(0, 3, fitted.boxes),))
    assert problem_of(record) is None
