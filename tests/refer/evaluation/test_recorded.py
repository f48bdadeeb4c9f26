"""Which data records were made on: what headers say, also those of earlier versions."""

from __future__ import annotations

import pytest

from refer import REFER
from refer.errors import MissingDataError
from refer.evaluation import EvaluationError, RecordFile, ResProtocol, save_records, score_file
from refer.evaluation.recorded import chosen_data, named_data, open_recorded


def file(**header: object) -> RecordFile:
    return RecordFile(header, ResProtocol(), [])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"dataset": "refcocog", "split_by": "umd"}, ("refcocog", "umd")),
        ({"dataset": "refcoco+", "split_by": None}, ("refcoco+", None)),
        # Once the whole mixture was written where its first part was scored.
        ({"dataset": "refcocog+refcoco+", "task": "res"}, ("refcocog", None)),
        ({"dataset": "flickr30k+refcoco", "task": "phrase"}, ("flickr30k+refcoco", None)),
        ({"dataset": "my own"}, ("my own", None)),
        ({"dataset": 3}, (3, None)),
        ({}, (None, None)),
    ],
)
def test_what_a_header_says(header, expected):
    assert named_data(header) == expected


def test_what_is_given_fills_gaps_and_contradicts_nothing():
    records = file(dataset="refcocog", split_by="umd")
    assert chosen_data("r.jsonl", records) == ("refcocog", "umd")
    assert chosen_data("r.jsonl", records, "refcocog", "umd") == ("refcocog", "umd")
    assert chosen_data("r.jsonl", file(dataset="refcocog"), None, "google")[1] == "google"
    message = r"r\.jsonl was made on {} {!r}, not {!r}; leave --{} out"
    for given, wrong in (
        (("refcoco", None), ("dataset", "refcocog", "refcoco", "dataset")),
        ((None, "google"), ("splitBy", "umd", "google", "splitBy")),
    ):
        with pytest.raises(EvaluationError, match=message.format(*wrong)):
            chosen_data("r.jsonl", records, *given)


def test_the_data_is_opened_as_the_header_says(write_refer, records):
    root = write_refer("refcocog", "umd", [records.ref(0, 100, 1, "val")])
    write_refer("refcocog", "google", [records.ref(0, 100, 1, "val")])
    opened = open_recorded("r.jsonl", file(dataset="refcocog", split_by="google"), root)
    assert (opened.dataset, opened.splitBy) == ("refcocog", "google")
    assert open_recorded("r.jsonl", file(dataset="refcocog"), root).splitBy == "umd"
    assert open_recorded("r.jsonl", file(), root, "refcocog").splitBy == "umd"
    with pytest.raises(EvaluationError, match="give --dataset"):
        open_recorded("r.jsonl", file(), root)
    with pytest.raises(EvaluationError, match=r"task rec.*leave --refer_data_root out"):
        open_recorded("r.jsonl", file(dataset="refcocog", task="rec"), root)
    with pytest.raises(MissingDataError):
        open_recorded("r.jsonl", file(dataset="refcoco"), root)
    with pytest.raises(EvaluationError, match=r"split_by '\[\]'; want a string"):
        open_recorded("r.jsonl", file(dataset="refcocog", split_by=[]), root)


def test_old_records_of_a_mixture_are_scored_with_the_data_of_its_first_part(write_refer, tmp_path):
    root = write_refer()
    path = tmp_path / "records_val.jsonl"
    save_records(path, [], {"dataset": "refcoco+refcocog", "split_by": None}, ResProtocol())
    with pytest.raises(EvaluationError, match="0 items"):  # it is the records that are missing
        score_file(path, "vpd", REFER(root, "refcoco"))
