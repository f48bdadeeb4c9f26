"""What the check of the data finds: against hand-made flaws and the published table's own sums."""

from __future__ import annotations

import gzip
import json
import os
import pickle

import pytest
from PIL import Image

from refer import UnknownNameError
from refer.audit import audit, overlaps_between
from refer.audit_report import table
from refer.official import OFFICIAL, Counts

PICTURES = "images/mscoco/images/train2014"


@pytest.fixture
def whole(write_refer, monkeypatch):
    """The hand-made data set with its pictures, and a published table that fits it."""
    root = write_refer()
    folder = root / PICTURES
    folder.mkdir(parents=True)
    for image_id in (1, 2, 3):
        Image.new("RGB", (12, 10)).save(folder / f"COCO_train2014_{image_id:012d}.jpg")
    fitting = {"train": Counts(1, 2, 4), "testA": Counts(1, 1, 2), "testB": Counts(1, 1, 2)}
    monkeypatch.setitem(OFFICIAL, ("refcoco", "unc"), fitting)
    return root


def first(root, **options):
    return audit(root, "refcoco", **options)[0]


def test_a_whole_data_set_is_well(whole):
    report, google = audit(whole, "refcoco", open_pictures=True)
    assert report.problems == []
    assert [split.found for split in report.splits] == list(OFFICIAL["refcoco", "unc"].values())
    assert (report.pictures_wanted, report.pictures_missing) == (3, 0)
    assert google.problems == []
    assert "github.com/lichengunc/refer" in google.notes[0]


def test_missing_pictures_are_counted_and_named(whole):
    for image_id in (2, 3):
        (whole / PICTURES / f"COCO_train2014_{image_id:012d}.jpg").unlink()
    report = first(whole)
    assert report.missing_sample == [f"COCO_train2014_{i:012d}.jpg" for i in (2, 3)]
    (problem,) = report.problems
    assert problem.startswith("2 of 3 pictures missing (COCO_train2014_000000000002.jpg")
    assert "cocodataset.org" in problem


def test_damaged_pictures(whole):
    path = whole / PICTURES / "COCO_train2014_000000000001.jpg"
    Image.new("RGB", (7, 7)).save(path)
    assert first(whole).problems == []
    assert "7 x 7" in first(whole, open_pictures=True).problems[0]
    path.write_bytes(b"")
    assert "0 bytes" in first(whole).problems[0]


def test_sentences_that_are_blank_are_named(whole, records, monkeypatch):
    monkeypatch.delitem(OFFICIAL, ("refcoco", "unc"))
    refs = [records.ref(i, 100, 1, "train") for i in range(8)]
    for ref in refs[1:]:
        ref["sentences"][1]["sent"] = " \t"
    refs[0]["sentences"] = []
    (whole / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    blank, silent = first(whole).problems
    named = [f"ref {ref['ref_id']}, sentence {ref['sentences'][1]['sent_id']}" for ref in refs[1:]]
    assert blank.startswith(f"7 sentences are blank ({'; '.join(named[:5])}; ...)")
    assert silent.startswith("1 refs have no sentence (ref 0)")
    assert "--set data.on_empty=skip" in blank


def test_sentences_without_raw_text_are_noted(whole, records, monkeypatch):
    """No problem: it is read only where data.text_field says so."""
    monkeypatch.delitem(OFFICIAL, ("refcoco", "unc"))
    refs = [records.ref(i, 100, 1, "train") for i in range(3)]
    refs[1]["sentences"][0]["raw"] = "  "
    del refs[2]["sentences"][1]["raw"]
    (whole / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    found = first(whole)
    assert not found.problems
    (note,) = [note for note in found.notes if "raw" in note]
    named = [f"ref {i}, sentence {refs[i]['sentences'][i - 1]['sent_id']}" for i in (1, 2)]
    assert note.startswith(f"2 sentences have no raw text ({'; '.join(named)})")


FLAWS = {
    "has no segmentation": None,
    "nothing to draw": [[1.0, 2.0, 3.0]],
    "a corner at": [[1.0, 2.0, 1e9, 4.0, 5.0, 6.0]],
    "do not add up": {"size": [10, 12], "counts": [0, 5]},
    "the picture is": {"size": [3, 3], "counts": [0, 9]},
    "want polygons or RLE": [],
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_outlines_that_cannot_be_drawn_are_named(whole, flaw):
    path = whole / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        if annotation["id"] in (100, 999):
            annotation["segmentation"] = FLAWS[flaw]
            if FLAWS[flaw] is None:
                del annotation["segmentation"]
    path.write_text(json.dumps(content))
    (problem,) = first(whole).problems  # annotation 999 is nobody's
    assert problem.startswith("1 of 4 referred outlines cannot be drawn (annotation 100")
    assert flaw in problem


def test_counts_that_differ(whole, monkeypatch):
    other = {**OFFICIAL["refcoco", "unc"], "testA": Counts(1, 1, 3), "val": Counts(5)}
    monkeypatch.setitem(OFFICIAL, ("refcoco", "unc"), other)
    report = first(whole)
    assert "counts of testA differ" in report.problems[0]
    assert "split val is published" in report.problems[1]
    assert "2 (not 3)" in table([report])


def rewritten(root, records, dataset="refcoco", split_by="unc", **splits):
    """The same refs with other splits and annotations."""
    path = root / dataset / f"refs({split_by}).p"
    refs = [records.ref(i, *where) for i, where in enumerate(splits["refs"])]
    path.write_bytes(pickle.dumps(refs, protocol=2))


def test_a_picture_and_an_object_in_two_splits(whole, records, monkeypatch):
    monkeypatch.delitem(OFFICIAL, ("refcoco", "unc"))
    rewritten(whole, records, refs=[(100, 1, "train"), (101, 1, "val"), (101, 1, "testA")])
    problems = first(whole).problems
    assert any("1 pictures in both train and val (ids 1)" in p for p in problems)
    assert any("1 objects in both val and testA (ids 101)" in p for p in problems)


def test_the_google_split_shares_pictures_by_design(write_refer, records, monkeypatch):
    refs = [records.ref(0, 100, 1, "train"), records.ref(1, 101, 1, "val")]
    root = write_refer("refcocog", "google", refs)
    monkeypatch.delitem(OFFICIAL, ("refcocog", "google"))
    report = next(r for r in audit(root, "refcocog") if r.split_by == "google")
    assert any("by object" in note for note in report.notes)
    assert not any("leak" in problem for problem in report.problems)
    rewritten(root, records, "refcocog", "google", refs=[(100, 1, "train"), (100, 1, "val")])
    report = next(r for r in audit(root, "refcocog") if r.split_by == "google")
    assert any("leak: 1 objects" in problem for problem in report.problems)


def test_train_of_one_file_on_evaluation_of_another(write_refer, records):
    root = write_refer("refcocog", "google", [records.ref(0, 100, 1, "train")])
    write_refer("refcocog", "umd", [records.ref(0, 100, 1, "val"), records.ref(1, 101, 2, "test")])
    write_refer("refcocog", "google", [records.ref(0, 100, 1, "train"),
                                       records.ref(1, 101, 2, "val")])  # fmt: skip
    (line,) = overlaps_between(audit(root, "refcocog"))
    assert line == "refcocog(google) train holds 1 of the 1 pictures of refcocog(umd) val"


def test_missing_and_hostile_files_are_problems(whole):
    class Runs:
        def __reduce__(self):
            return os.system, ("true",)

    (whole / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Runs()]))
    assert "refused" in first(whole).problems[0]
    (whole / "refcoco" / "refs(unc).p").unlink()
    assert "no ref file" in first(whole).problems[0]
    with pytest.raises(UnknownNameError):
        audit(whole, "refcoc")


def test_the_published_table_adds_up():
    def total(dataset, split_by, column):
        return sum(counts[column] for counts in OFFICIAL[dataset, split_by].values())

    assert [total("refcoco", "unc", i) for i in range(3)] == [19_994, 50_000, 142_210]
    assert [total("refcoco+", "unc", i) for i in range(3)] == [19_992, 49_856, 141_564]
    assert [total("refcocog", "umd", i) for i in range(3)] == [25_799, 49_822, 95_010]
    assert [total("refcocog", "google", i) for i in (1, 2)] == [49_822, 95_010]
    assert total("refcoco", "google", 1) == 50_000


def test_the_published_table_against_the_official_sentences(shared):
    for path in sorted((shared / "data" / "refcoco_eval").glob("*.json.gz")):
        dataset, split = path.name[: -len(".json.gz")].split("_")
        sentences = json.loads(gzip.decompress(path.read_bytes()))
        split_by = "umd" if dataset == "refcocog" else "unc"
        published = OFFICIAL[dataset, split_by][split]
        assert len(sentences) == published.sentences, path.name
        assert len({one["img_id"].split("_")[2] for one in sentences}) == published.pictures


def test_a_real_subset_is_told_from_the_release(shared):
    report = audit(shared / "data" / "refer_mini", "refcoco")[0]
    assert report.pictures_missing == 0
    assert "counts of testB, val, testA differ" in report.problems[0]
    assert not any("leak" in problem for problem in report.problems)


def test_pictures_that_were_never_published_are_excused(write_refer, records):
    root = write_refer("refclef", "berkeley", [records.ref(0, "1_1", 1, "train")])
    path = root / "refclef" / "instances.json"
    path.write_text(path.read_text().replace("COCO_train2014_000000000001.jpg", "19579.jpg"))
    (root / "images" / "saiapr_tc-12").mkdir(parents=True)
    report = next(r for r in audit(root, "refclef") if r.split_by == "berkeley")
    assert (report.pictures_wanted, report.pictures_missing, report.problems) == (0, 0, [])
    assert "19579.jpg" in report.notes[-1]


def test_refclef_letters_may_meet_and_its_train_may_not(write_refer, records):
    where = [("1_1", 1, "testA"), ("1_2", 1, "testAB"), ("1_3", 1, "train")]
    root = write_refer("refclef", "unc", [records.ref(i, *w) for i, w in enumerate(where)])
    notes = [note for note in audit(root, "refclef")[0].notes if "leak" in note]
    assert ["both train" in note or "and train" in note for note in notes] == [True, True]


def test_a_general_data_set_that_is_not_there(tmp_path):
    (report,) = audit(tmp_path, "grefcoco")
    assert "gRefCOCO" in report.problems[0]


def test_sentence_ids_that_occur_twice_and_outlines_of_other_pictures(whole, records, write_refer):
    refs = [records.ref(0, 100, 1, "train"), records.ref(1, 101, 1, "train")]
    refs[1]["sentences"][0]["sent_id"] = 0
    write_refer(refs=refs)
    report = first(whole)
    assert any("1 sentence ids occur in several refs (0)" in note for note in report.notes)
    assert not any("could not be scored" in problem for problem in report.problems)
    refs[1]["sentences"][1]["sent_id"] = 0
    write_refer(refs=refs)
    (problem,) = (one for one in first(whole).problems if "could not be scored" in one)
    assert "1 sentences have the id of another one of their ref (ref 1, sentence 0)" in problem
    write_refer(refs=refs, annotations=[records.ann(100, 2), records.ann(101, 1)])
    assert "annotation 100" in first(whole).problems[0]
