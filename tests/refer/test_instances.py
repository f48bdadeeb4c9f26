"""Annotations that parse themselves late must be told from plain dicts by nobody."""

from __future__ import annotations

import copy
import gc
import json
import operator
import pickle

import pytest

from refer.errors import DataFileError, MissingDataError
from refer.readers import paused_gc
from refer.readers.instances import Annotation, checked_box, load_instances

PLAIN = {
    "segmentation": [[1.5, 2, 3, 4, 5, 6]],
    "area": 12,
    "iscrowd": 0,
    "image_id": 7,
    "bbox": [1.5, 2, 3, 4],
    "category_id": 3,
    "id": 5,
    "mask_name": "kept/too.mat",
}


@pytest.fixture
def load_one(tmp_path):
    """Reads one annotation afresh, unparsed."""

    def load(**changes) -> Annotation:
        content = {
            "info": {"year": 2014},
            "images": [{"id": 7, "file_name": "7.jpg", "height": 4, "width": 5, "license": 3}],
            "annotations": [{**PLAIN, **changes}],
            "categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}],
        }
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return load_instances(tmp_path / "instances.json").annotations[0]

    return load


def parsed(annotation: Annotation) -> bool:
    return annotation._json is None


@pytest.mark.parametrize("key", PLAIN)
def test_every_key(load_one, key):
    annotation = load_one()
    assert annotation[key] == PLAIN[key]
    assert annotation.get(key) == PLAIN[key]
    assert parsed(annotation)


def test_ids_do_not_parse(load_one):
    annotation = load_one(id="38_2")
    assert (annotation["id"], annotation["image_id"], annotation["category_id"]) == ("38_2", 7, 3)
    assert not parsed(annotation)


QUESTIONS = {
    "len": len,
    "keys": lambda a: set(a.keys()),
    "iter": set,
    "values": lambda a: len(list(a.values())),
    "items": lambda a: dict(a.items()),
    "dict": dict,
    "stars": lambda a: {**a},
    "keywords": lambda a: dict(**a),
    "copy method": lambda a: a.copy(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda a: pickle.loads(pickle.dumps(a)),
    "json": lambda a: json.loads(json.dumps(a)),
    "indented json": lambda a: json.loads(json.dumps(a, indent=1)),
    "contains": lambda a: "segmentation" in a,
    "contains not": lambda a: "nothing" in a,
    "get": lambda a: a.get("bbox"),
    "get default": lambda a: a.get("nothing", 3),
    "equal": lambda a: a == PLAIN,
    "equal, other side": lambda a: operator.eq(PLAIN, a),
    "unequal": lambda a: a != {**PLAIN, "area": 1},
    "or": lambda a: a | {"area": 1},
    "or, other side": lambda a: {"area": 1} | a,
    "update from": lambda a: (d := {}, d.update(a))[0],
    "pop": lambda a: (a.pop("area"), "area" in a, len(a)),
    "setdefault": lambda a: (a.setdefault("area", 5), a.setdefault("new", 6), len(a)),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_as_a_dict(load_one, name):
    assert QUESTIONS[name](load_one()) == QUESTIONS[name](dict(PLAIN))


def test_is_a_dict(load_one):
    assert isinstance(load_one(), dict)
    assert eval(repr(load_one())) == PLAIN
    with pytest.raises(KeyError, match="nothing"):
        load_one()["nothing"]


def test_two_unparsed_ones_compare_by_content(load_one):
    assert load_one() == load_one()
    assert load_one() != load_one(area=1)


def test_changes_stay(load_one):
    annotation = load_one()
    annotation["area"] = 1
    annotation["segmentation"].append([0] * 6)
    del annotation["iscrowd"]
    assert annotation["area"] == annotation.peek("area") == 1
    assert len(annotation["segmentation"]) == 2
    assert "iscrowd" not in pickle.loads(pickle.dumps(annotation))


def test_pickling_keeps_it_unparsed(load_one):
    annotation = pickle.loads(pickle.dumps(load_one()))
    assert isinstance(annotation, Annotation)
    assert not parsed(annotation)
    assert annotation == PLAIN


def test_peek_keeps_nothing(load_one):
    annotation = load_one()
    assert annotation.peek("segmentation") == PLAIN["segmentation"]
    assert not parsed(annotation)
    with pytest.raises(KeyError):
        annotation.peek("nothing")


def test_other_records_are_plain_and_whole(load_one, tmp_path):
    load_one()
    instances = load_instances(tmp_path / "instances.json")
    assert instances.images[0]["license"] == 3
    assert instances.categories == [{"id": 3, "name": "car", "supercategory": "vehicle"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a COCO-style"),
        ('{"images": [', "truncated"),
        ("[]", "Expected `object`"),
        ('{"images": [], "annotations": []}', "categories"),
        (
            '{"images": [], "categories": [], "annotations": [{"id": 1, "category_id": 1}]}',
            r"`image_id` - at `\$\.annotations\[0\]`",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": -5, "width": 4}], '
            '"categories": [], "annotations": []}',
            r">= 1 - at `\$\.images\[0\]\.height`",
        ),
        (
            '{"images": [], "categories": [], "annotations": [{"id": 1, "image_id": 1, '
            '"category_id": 1, "segmentation": ' + "[" * 200_000,
            "recursion",
        ),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\]"),
    ],
)
def test_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataFileError, match=rf"instances\.json: .*{message}"):
        load_instances(tmp_path / "instances.json")


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match=r"instances\.json"):
        load_instances(tmp_path / "instances.json")


def test_collector_is_restored_after_an_error():
    assert gc.isenabled()
    inside = []

    def fail() -> None:
        with paused_gc():
            inside.append(gc.isenabled())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside == [False]
    assert gc.isenabled()


def test_collector_stays_off_when_it_was_off():
    gc.disable()
    try:
        with paused_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_picture_of_too_many_pixels_is_refused(tmp_path):
    path = tmp_path / "instances.json"
    image = {"id": 8, "file_name": "a", "height": 100_000, "width": 2684}  # each side is allowed
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    assert len(load_instances(path).images) == 1
    image["width"] += 1
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    with pytest.raises(DataFileError, match=r"instances\.json: image 8 is 100000 x 2685"):
        load_instances(path)


def test_a_picture_that_is_there_twice_is_said(tmp_path, caplog):
    path = tmp_path / "instances.json"
    images = [{"id": i, "file_name": "a", "height": 4, "width": 5} for i in (8, 9)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    load_instances(path)
    assert not caplog.records
    path.write_text(json.dumps({"images": images[:1] * 2, "annotations": [], "categories": []}))
    load_instances(path)
    assert "some image ids occur twice" in caplog.text


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, 3, 4, 5], [None] * 4, ["1", "2", "3", "4"], 7, [1, 2, 3, True],
            [float("nan")] * 4, [10**400, 1, 1, 1], {"x": 1}],
)  # fmt: skip
def test_what_is_no_box(box):
    with pytest.raises(DataFileError, match=r"annotation 7 has the bbox .*; want \[x, y, width"):
        checked_box(box, "annotation 7")


def test_a_box_stays_as_it_is():
    assert list(map(type, checked_box([1, 2.5, 3, 4], ""))) == [int, float, int, int]
