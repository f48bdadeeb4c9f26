"""Refs as JSON: the same refs, read by the same API, where no pickle lies."""

from __future__ import annotations

import json
import pickle

import pytest

from refer import REFER
from refer.errors import DataFileError, MissingDataError, UnknownNameError
from refer.readers.convert import refs_to_json
from refer.readers.pickles import load_refs


def test_json_is_read_where_no_pickle_lies(write_refer):
    root = write_refer()
    before = REFER(root)
    target = refs_to_json(before.refs_path)
    assert REFER(root).refs_path.suffix == ".p"
    before.refs_path.unlink()
    after = REFER(root)
    assert after.refs_path == target
    assert after.data["refs"] == before.data["refs"]
    assert after.Sents == before.Sents


def test_accents_and_unknown_entries_are_kept(tmp_path, records):
    ref = records.ref(0, "7_1", 1, "testAB")
    ref["sentences"][0]["sent"] = "café ☕"
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([ref], protocol=2))
    assert load_refs(refs_to_json(path)) == [ref]


def test_twice_is_once_and_other_refs_are_not_overwritten(write_refer, records):
    path = write_refer() / "refcoco" / "refs(unc).p"
    target = refs_to_json(path)
    written = target.stat().st_mtime_ns
    assert refs_to_json(path).stat().st_mtime_ns == written
    target.write_text(json.dumps([records.ref(9, 100, 1, "train")]))
    with pytest.raises(DataFileError, match="other refs"):
        refs_to_json(path)


def test_what_json_cannot_keep_is_refused(tmp_path, records):
    ref = {**records.ref(0, 100, 1, "train"), "box": (1, 2)}
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([ref], protocol=2))
    with pytest.raises(DataFileError, match="does not keep"):
        refs_to_json(path)
    assert [file.name for file in tmp_path.iterdir()] == ["refs(unc).p"]


def test_damaged_json_is_named(write_refer):
    root = write_refer()
    path = root / "refcoco" / "refs(unc).p"
    path.with_suffix(".json").write_text('[{"ref_id": 1')
    path.unlink()
    with pytest.raises(DataFileError, match=r"refs\(unc\)\.json: not JSON"):
        REFER(root)
    with pytest.raises(UnknownNameError, match="splitBy there: unc"):
        REFER(root, splitBy="umd")
    with pytest.raises(MissingDataError):
        load_refs(root / "nothing.json")
