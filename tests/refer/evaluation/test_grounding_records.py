"""Boxes on disk: scored again without a model, and refused where they are damaged."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from refer.errors import DataFileError, MissingDataError
from refer.evaluation.grounding import GroundingEvaluator
from refer.evaluation.grounding_records import load_predictions, save_predictions
from refer.evaluation.grounding_scores import GROUNDING_PROTOCOLS, GroundingProtocol
from refer.evaluation.protocol import EvaluationError

REFTR, ANY = GROUNDING_PROTOCOLS["reftr"], GROUNDING_PROTOCOLS["mdetr_any"]
A, B = [0, 0, 10, 10], [20, 0, 30, 10]
HALF = [0, 0, 10, 5]  # IoU with A is 1/2 exactly


def filled(protocol: GroundingProtocol = REFTR) -> GroundingEvaluator:
    evaluator = GroundingEvaluator(protocol)
    evaluator.update("pic1/left man", [A, B], [A], types=["people"])
    evaluator.update("pic1/right man", [HALF], [A])
    evaluator.update("pic2/both", [A], [A, B], phrase=3)
    return evaluator


def test_scores_again_without_a_model(tmp_path):
    path = tmp_path / "out" / "boxes.jsonl"
    save_predictions(path, filled(), {"dataset": "made up", "split": "val"})
    assert os.listdir(path.parent) == [path.name]
    again, header = load_predictions(path)
    assert again.compute() == filled().compute()
    assert again.protocol == REFTR
    assert (header["dataset"], header["n_items"]) == ("made up", 3)
    other, _ = load_predictions(path, ANY)
    assert other.compute() == filled(ANY).compute() == filled().under(ANY).compute()
    assert other.compute()["Acc@0.5"] == 100.0


def test_repeated_items_are_still_told_of(tmp_path):
    save_predictions(tmp_path / "p", filled().merge(filled()), {})
    again, header = load_predictions(tmp_path / "p")
    assert again.compute()["n_duplicates"] == header["n_duplicates"] == 3
    assert len(again) == 3


def test_any_float_survives_the_file(tmp_path):
    evaluator = GroundingEvaluator()
    evaluator.update("x", np.array([[0.1, 1 / 3, 1e-17 + 1, np.pi]], np.float32), [A])
    save_predictions(tmp_path / "p", evaluator, {})
    assert load_predictions(tmp_path / "p")[0].items == evaluator.items


def test_a_failed_save_leaves_what_was_there(tmp_path):
    save_predictions(tmp_path / "p", filled(), {})
    before = (tmp_path / "p").read_bytes()
    with pytest.raises(EvaluationError, match="n_items"):
        save_predictions(tmp_path / "p", filled(), {"n_items": 4})
    with pytest.raises(TypeError):
        save_predictions(tmp_path / "p", filled(), {"model": object()})
    assert (tmp_path / "p").read_bytes() == before
    assert os.listdir(tmp_path) == ["p"]


LINE = {"id": "x", "phrase": 0, "types": [], "boxes": [A], "truth": [A]}


@pytest.mark.parametrize(
    ("number", "content", "message"),
    [
        (1, b"", "truncated"),
        (1, b"[]", "line 1: Expected `object`"),
        (1, b'{"format": "res-records", "version": 1}', "the header must say"),
        (1, b'{"format": "grounding-predictions", "version": 2}', "'version': 2"),
        (2, b"nonsense", "line 2: JSON is malformed"),
        (2, json.dumps({**LINE, "boxes": [[1, 2, 3]]}).encode(), "of length 4"),
        (2, json.dumps({**LINE, "boxes": [[5, 0, 1, 1]]}).encode(), ".*x1 <= x2"),
        (2, json.dumps({**LINE, "boxes": [[float("nan"), 0, 1, 1]]}).encode(), "malformed"),
        (2, json.dumps({**LINE, "truth": []}).encode(), "no true box"),
        (2, json.dumps({**LINE, "more": 1}).encode(), "unknown field `more`"),
        (3, json.dumps({**LINE, "id": "pic1/left man"}).encode(), "line 3: .*evaluated twice"),
        (4, b"DROP", "ends after 2 of 3"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, number, content, message):
    path = tmp_path / "p"
    save_predictions(path, filled(), {})
    lines = path.read_bytes().splitlines()
    lines[number - 1] = content
    path.write_bytes(b"\n".join(line for line in lines if line != b"DROP"))
    with pytest.raises(DataFileError, match=rf"p, line \d: .*{message}|p, {message}"):
        load_predictions(path)


def test_a_phrase_twice_in_a_file(tmp_path):
    save_predictions(tmp_path / "p", filled(), {})
    lines = (tmp_path / "p").read_bytes().splitlines()
    (tmp_path / "p").write_bytes(b"\n".join([*lines, lines[-1]]))
    with pytest.raises(DataFileError, match=r"line 5: .*a second time"):
        load_predictions(tmp_path / "p")


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match="no predictions"):
        load_predictions(tmp_path / "none")


def test_a_protocol_is_whole_or_is_refused(tmp_path):
    """Without its threshold a file was scored at the default one, and nobody knew."""
    path = tmp_path / "p"
    save_predictions(path, filled(), {})
    first, *lines = path.read_text().splitlines()
    for name in ("threshold", "truth", "name"):
        header = json.loads(first)
        del header["protocol"][name]
        path.write_text("\n".join([json.dumps(header), *lines]))
        with pytest.raises(DataFileError, match="p, line 1: a grounding protocol has"):
            load_predictions(path)
    for name, value in (("name", []), ("threshold", "0.5"), ("ranks", [1.5])):
        header = json.loads(first)
        header["protocol"][name] = value
        path.write_text("\n".join([json.dumps(header), *lines]))
        with pytest.raises(DataFileError, match=f"p, line 1: no grounding protocol: .*{name}"):
            load_predictions(path)
    path.write_text('{"protocol": ' + "[" * 200_000)
    with pytest.raises(DataFileError, match="p, line 1"):
        load_predictions(path)
