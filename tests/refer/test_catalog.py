"""The table of data sets, the split rule, and where files and pictures are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from refer import REFER
from refer.catalog import (
    DATASETS,
    default_token_length,
    find_dataset,
    parts_of,
    split_matches,
)
from refer.errors import DataFileError, MissingDataError, UnknownNameError


def test_published_split_by():
    published = {name: sorted(row.splits) for name, row in DATASETS.items()}
    assert published == {
        "refclef": ["berkeley", "unc"],
        "refcoco": ["google", "unc"],
        "refcoco+": ["unc"],
        "refcocog": ["google", "umd"],
        "grefcoco": ["unc"],
        "grefshapes": ["unc"],
        "refshapes": ["unc"],
        "own": ["own"],
        "phraseshapes": [""],
        "flickr30k": [""],
        "referit": [""],
        "vg": [""],
    }


@pytest.mark.parametrize(
    ("name", "default", "tokens"),
    [
        ("refclef", "unc", 40),
        ("refcoco", "unc", 40),
        ("refcoco+", "unc", 40),
        ("refcocog", "umd", 77),
        ("refshapes", "unc", 16),
    ],
)
def test_defaults(name, default, tokens):
    assert find_dataset(name).default_split_by == default
    assert default_token_length(name) == tokens


@pytest.mark.parametrize("name", ["refcocoplus", "", None, ["refcoco"]])
def test_unknown_data_set_lists_the_known(name):
    with pytest.raises(
        UnknownNameError,
        match=r"refclef, refcoco, refcoco\+, refcocog, grefcoco, grefshapes, refshapes",
    ):
        find_dataset(name)


LABELS = ("train", "val", "testA", "testB", "testC", "testAB", "testBC", "testAC", "test")


@pytest.mark.parametrize(
    ("split", "labels"),
    [
        ("train", {"train"}),
        ("val", {"val"}),
        ("testA", {"testA", "testAB", "testAC"}),
        ("testB", {"testB", "testAB", "testBC"}),
        ("testC", {"testC", "testBC", "testAC"}),
        ("testAB", {"testAB"}),
        ("testBC", {"testBC"}),
        ("testAC", {"testAC"}),
        ("test", set(LABELS) - {"train", "val"}),
        ("tes", set()),
        ("minival", set()),
    ],
)
def test_split_rule(split, labels):
    assert {label for label in LABELS if split_matches(split, label)} == labels


# Ref files.


def test_none_takes_the_default(write_refer):
    assert REFER(write_refer("refcocog", "umd"), "refcocog", None).splitBy == "umd"
    assert REFER(write_refer("refcoco", "unc"), "refcoco", None).splitBy == "unc"


def test_any_split_by_on_disk(write_refer):
    assert REFER(write_refer(split_by="mine"), "refcoco", "mine").getRefIds(split="train") == [0, 1]


def test_unknown_split_by_lists_those_on_disk(write_refer):
    write_refer(split_by="mine")
    root = write_refer(split_by="unc")
    with pytest.raises(UnknownNameError, match=r"'umd'.*there: mine, unc.*published: unc, google"):
        REFER(root, "refcoco", "umd")


def test_published_split_by_that_is_missing_says_where_it_goes(write_refer):
    root = write_refer(split_by="unc")
    with pytest.raises(
        MissingDataError, match=r"refs\(google\)\.p.*there: unc.*unpack refcoco\.zip"
    ):
        REFER(root, "refcoco", "google")


@pytest.mark.parametrize(
    ("dataset", "cure"), [("refcoco+", r"unpack refcoco\+\.zip"), ("refshapes", "-m refer.shapes")]
)
def test_missing_folder_says_what_goes_there(tmp_path, dataset, cure):
    with pytest.raises(FileNotFoundError, match=cure):
        REFER(tmp_path, dataset)


def test_missing_instances(write_refer):
    root = write_refer()
    (root / "refcoco" / "instances.json").unlink()
    with pytest.raises(MissingDataError, match=r"refcoco.instances\.json"):
        REFER(root)


# Pictures.

NAME_2014, NAME_2017 = "COCO_train2014_000000000001.jpg", "000000000001.jpg"


def put(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"picture")
    return folder / name


@pytest.mark.parametrize("name", [NAME_2014, NAME_2017])
@pytest.mark.parametrize("folder", DATASETS["refcoco"].image_folders)
def test_every_coco_layout(write_refer, folder, name):
    root = write_refer()
    path = put(root / folder, name)
    refer = REFER(root)
    assert refer.image_path(1) == path
    assert Path(refer.IMAGE_DIR) == path.parent


def test_layouts_of_the_peers_are_there():
    assert {
        "images/mscoco/images/train2014",
        "images/train2014",
        "train2014",
        "refcoco/images/train2014",
        "train2017",
    } <= set(DATASETS["refcocog"].image_folders)
    assert {"images/saiapr_tc-12", "images/saiaprtc12"} <= set(DATASETS["refclef"].image_folders)


def test_2014_records_do_not_lend_their_names_to_refclef(write_refer):
    root = write_refer("refclef")
    put(root / "images" / "saiaprtc12", NAME_2017)
    with pytest.raises(MissingDataError):
        REFER(root, "refclef").image_path(1)
    path = put(root / "images" / "saiaprtc12", NAME_2014)
    assert REFER(root, "refclef").image_path(1) == path


def test_a_folder_without_the_picture_does_not_hide_another(write_refer):
    root = write_refer()
    put(root / "images" / "mscoco" / "images" / "train2014", "other.jpg")
    path = put(root / "train2014", NAME_2014)
    assert REFER(root).image_path(1) == path


@pytest.mark.parametrize("folder", [".", "train2014", "images/train2014", "train2017"])
def test_image_root_is_the_folder_or_holds_it(write_refer, tmp_path, folder):
    path = put(tmp_path / "elsewhere" / folder, NAME_2014)
    refer = REFER(write_refer(), image_root=tmp_path / "elsewhere")
    assert refer.image_path(1).samefile(path)


def test_image_root_wins_over_the_data_root(write_refer, tmp_path):
    root = write_refer()
    put(root / "train2014", NAME_2014)
    (tmp_path / "elsewhere").mkdir()
    refer = REFER(root, image_root=tmp_path / "elsewhere")
    with pytest.raises(MissingDataError, match="elsewhere"):
        refer.image_path(1)


def test_image_root_that_is_no_folder(write_refer, tmp_path):
    with pytest.raises(MissingDataError, match=r"image_root is .*nowhere"):
        REFER(write_refer(), image_root=tmp_path / "nowhere")


def test_missing_picture_lists_every_folder(write_refer):
    root = write_refer()
    with pytest.raises(MissingDataError) as caught:
        REFER(root).image_path(2)
    message = str(caught.value)
    assert "COCO_train2014_000000000002.jpg" in message
    assert "image_root" in message
    assert all(str(root / folder) in message for folder in DATASETS["refcoco"].image_folders)


def test_opening_needs_no_pictures(write_refer):
    root = write_refer()
    assert Path(REFER(root).IMAGE_DIR) == root / "images" / "mscoco" / "images" / "train2014"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_file_names_stay_in_their_folder(write_refer, name):
    root = write_refer()
    put(root / "train2014", NAME_2014)
    put(root, "secret.jpg")
    instances = root / "refcoco" / "instances.json"
    instances.write_text(instances.read_text().replace(NAME_2014, name))
    with pytest.raises(DataFileError, match="image 1 has the file name"):
        REFER(root).image_path(1)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("refcoco+", ["refcoco+"]),
        ("grefcoco+refcoco", ["grefcoco", "refcoco"]),
        ("grefcoco+refcoco+", ["grefcoco", "refcoco+"]),
        ("refcoco++refcocog", ["refcoco+", "refcocog"]),
    ],
)
def test_mixtures_are_told_from_names_with_a_plus(name, parts):
    assert parts_of(name) == parts


def test_a_mixture_takes_the_longest_of_its_token_lengths():
    assert default_token_length("grefcoco+refcocog") == 77
    with pytest.raises(UnknownNameError, match="unknown data set"):
        parts_of("grefcoco+photos")
