"""RefShapes on disk: layout, exact masks, split rules, determinism, and all-or-nothing writing."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refer.shapes import VOCABULARY, batches, generate, sheet
from refer.shapes.__main__ import main
from refer.shapes.records import make_page
from refer.shapes.vocabulary import CATEGORY_IDS, COLOURS, HELD_OUT, KINDS, MAX_WORDS, SHAPES

SMALL = {"train": 40, "val": 5, "test_a": 5, "test_b": 5, "size": 96, "progress": False}


class Data:
    """A generated set, read without the package's own readers."""

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self.root, self.info = root, info
        self.instances = json.loads((root / "refshapes/instances.json").read_text())
        self.refs = pickle.loads((root / "refshapes/refs(unc).p").read_bytes())
        self.images = {image["id"]: image for image in self.instances["images"]}
        self.annotations = {a["id"]: a for a in self.instances["annotations"]}
        self.names = {c["id"]: c["name"] for c in self.instances["categories"]}
        self.split_of = {ref["image_id"]: ref["split"] for ref in self.refs}
        self.by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.instances["annotations"]:
            self.by_image.setdefault(annotation["image_id"], []).append(annotation)

    def pair(self, annotation: dict[str, Any]) -> tuple[str, str]:
        return annotation["attributes"]["colour"], self.names[annotation["category_id"]]

    def picture(self, image_id: int) -> np.ndarray:
        path = self.root / "images/refshapes" / self.images[image_id]["file_name"]
        with Image.open(path) as opened:
            assert opened.mode == "RGB"
            return np.array(opened)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("refshapes")
    info = generate(root, train=120, val=60, test_a=60, test_b=60, seed=3, progress=False)
    return Data(root, info)


def test_layout_and_types(data: Data) -> None:
    assert set(data.instances) == {"info", "licenses", "images", "annotations", "categories"}
    assert data.names == dict(enumerate(SHAPES, start=1))
    files = {path.name for path in (data.root / "images/refshapes").iterdir()}
    assert files == {image["file_name"] for image in data.images.values()}
    keys = {"ref_id", "ann_id", "category_id", "image_id", "file_name", "split", "sent_ids"}
    for ref in data.refs:
        assert set(ref) == keys | {"sentences"}
        annotation = data.annotations[ref["ann_id"]]
        assert annotation["image_id"] == ref["image_id"]
        assert annotation["category_id"] == ref["category_id"]
        stem = ref["file_name"].rsplit("_", 1)[0]
        assert stem + ".jpg" == data.images[ref["image_id"]]["file_name"]
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        assert 1 <= len(ref["sentences"]) <= 3
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split()
            assert sentence["raw"].rstrip(".").lower() == sentence["sent"]
            assert sentence["kind"] in KINDS
            assert len(sentence["tokens"]) <= MAX_WORDS
            assert set(sentence["tokens"]) <= set(VOCABULARY)
    for ids in ([r["ref_id"] for r in data.refs], [s for r in data.refs for s in r["sent_ids"]]):
        assert len(set(ids)) == len(ids)
        assert max(ids) < 2**31
    per_picture = [sum(r["image_id"] == i for r in data.refs) for i in data.images]
    assert set(per_picture) == {2, 3}


def test_pickle_holds_builtin_types_only(data: Data) -> None:
    content = (data.root / "refshapes/refs(unc).p").read_bytes()
    opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(content)]
    names = {name for name, _ in opcodes}
    assert ("PROTO", 2) in opcodes
    assert not names & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"}


def test_masks_boxes_and_areas_agree(data: Data) -> None:
    for image_id, things in data.by_image.items():
        image = data.images[image_id]
        total = np.zeros((image["height"], image["width"]), int)
        for annotation in things:
            (rle,) = annotation["segmentation"]
            assert isinstance(rle["counts"], str)
            assert annotation["area"] == int(coco_mask.area(rle))
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
            assert annotation["iscrowd"] == 0
            total += coco_mask.decode(rle)
        assert total.max() == 1  # visible parts exclude each other


def test_masks_lie_on_what_the_picture_shows(data: Data) -> None:
    """A plain thing's pixels have its colour inside the mask, and mostly another one around it."""
    for image_id, things in list(data.by_image.items())[:80]:
        picture = data.picture(image_id).astype(int)
        for annotation in things:
            if annotation["attributes"]["texture"] != "plain":
                continue
            mask = coco_mask.decode(annotation["segmentation"][0])
            core = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
            rim = (cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0) & (
                cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0
            )
            colour = np.array(COLOURS[annotation["attributes"]["colour"]])
            off = np.abs(picture - colour).max(axis=-1)
            assert (off[core] <= 32).mean() > 0.98
            fill = np.median(picture[core], axis=0)
            assert (np.abs(picture[rim] - fill).max(axis=-1) > 20).mean() > 0.6


def test_every_thing_is_big_enough_and_mostly_visible() -> None:
    for index in range(40):
        scene = make_page(5, "train", index, 256, 256).scene
        assert 2 <= len(scene.things) <= 6
        for thing, area, (cover, _, _) in zip(scene.things, scene.areas, scene.covers, strict=True):
            assert area >= 0.7 * (cover >= 0.5).sum()
            assert 60 <= 2 * thing.radius <= 144


def test_held_out_pairs_are_in_test_b_only(data: Data) -> None:
    for image_id, things in data.by_image.items():
        if data.split_of[image_id] != "testB":
            assert not {data.pair(annotation) for annotation in things} & HELD_OUT
    for ref in data.refs:
        if ref["split"] == "testB":
            assert data.pair(data.annotations[ref["ann_id"]]) in HELD_OUT
            continue
        for sentence in ref["sentences"]:
            for colour, shape in HELD_OUT:
                assert not re.search(rf"{colour} (\w+ed |plain )?{shape}", sentence["sent"])
                assert not re.search(rf"{colour}.* not a {shape}", sentence["sent"])
                assert not re.search(rf"{shape}.* not {colour}", sentence["sent"])
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS)
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    targets = {data.pair(data.annotations[r["ann_id"]]) for r in data.refs if r["split"] == "testB"}
    assert targets == HELD_OUT


def test_test_a_targets_are_circles(data: Data) -> None:
    refs = [ref for ref in data.refs if ref["split"] == "testA"]
    assert refs
    assert {ref["category_id"] for ref in refs} == {CATEGORY_IDS["circle"]}


@pytest.mark.parametrize("split", ["train", "val", "testA", "testB"])
def test_most_targets_have_a_look_alike(data: Data, split: str) -> None:
    refs = [ref for ref in data.refs if ref["split"] == split]
    alike = 0
    for ref in refs:
        target = data.annotations[ref["ann_id"]]
        colour, shape = data.pair(target)
        others = [data.pair(a) for a in data.by_image[ref["image_id"]] if a is not target]
        alike += any(colour == c or shape == s for c, s in others)
    assert alike / len(refs) > 0.6


def test_predicting_without_the_sentence_scores_low(data: Data) -> None:
    """The largest thing and all things together are far from the target: words are needed."""
    for choose in (lambda areas: max(areas), lambda areas: sum(areas)):
        intersection = union = 0
        for ref in data.refs:
            things = data.by_image[ref["image_id"]]
            areas = [a["area"] for a in things]
            target = data.annotations[ref["ann_id"]]["area"]
            chosen = choose(areas)
            hit = target if chosen != max(areas) or target == chosen else 0
            intersection += hit
            union += chosen + target - hit
        assert intersection / union < 0.4


def test_same_data_from_any_number_of_processes(tmp_path: Path) -> None:
    for workers in (1, 3):
        generate(tmp_path / str(workers), **SMALL, seed=1, workers=workers, extras=True)
    first, second = ({p.relative_to(r): p.read_bytes() for p in sorted(r.rglob("*")) if p.is_file()}
                     for r in (tmp_path / "1", tmp_path / "3"))  # fmt: skip
    assert len(first) > 2 * 55
    assert first == second


def test_seed_and_prefix(tmp_path: Path) -> None:
    """Another seed gives other data; a shorter split is the beginning of a longer one."""
    one = Data(tmp_path / "a", generate(tmp_path / "a", **SMALL, seed=1))
    two = Data(tmp_path / "b", generate(tmp_path / "b", **SMALL, seed=2))
    short = Data(tmp_path / "c", generate(tmp_path / "c", **{**SMALL, "train": 7}, seed=1))
    assert one.info["sha256"] != two.info["sha256"]
    assert short.refs == [ref for ref in one.refs if ref["image_id"] in short.images]


def test_words_are_those_of_this_version() -> None:
    """If this fails the generated data changed: raise writing.VERSION and renew the sentences."""
    said = [
        sentence["sent"]
        for index in range(3)
        for ref in make_page(0, "train", index, 256, 256).refs
        for sentence in ref["sentences"]
    ]
    assert said == SENTENCES


def test_cache_refusal_and_overwrite(tmp_path: Path) -> None:
    info = generate(tmp_path, **SMALL, seed=1, extras=True)
    picture = next((tmp_path / "images/refshapes").iterdir())
    before = picture.stat().st_mtime_ns
    assert generate(tmp_path, **SMALL, seed=1) == info  # extras that nobody asked for do no harm
    assert picture.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="overwrite"):
        generate(tmp_path, **SMALL, seed=2)
    other = generate(tmp_path, **SMALL, seed=2, overwrite=True)
    assert other["sha256"] != info["sha256"]
    assert not (tmp_path / "grefcoco").exists()  # the old one spoke of other pictures
    assert Data(tmp_path, other).info["options"]["seed"] == 2
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_genuine_grefcoco_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "grefcoco").mkdir()
    (tmp_path / "grefcoco/grefs(unc).json").write_text("[]")
    with pytest.raises(FileExistsError, match="grefcoco"):
        generate(tmp_path, **SMALL, extras=True, overwrite=True)
    assert (tmp_path / "grefcoco/grefs(unc).json").read_text() == "[]"
    generate(tmp_path, **{**SMALL, "train": 1})  # without extras nothing is in the way


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int, split: str, index: int, height: int, width: int) -> Any:
        if index == 3:
            raise OSError("disk full")
        return make_page(seed, split, index, height, width)

    monkeypatch.setattr(batches, "make_page", fail)
    with pytest.raises(OSError, match="disk full"):
        generate(tmp_path / "out", **SMALL, workers=1)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "refer.shapes", str(tmp_path), "--train", "5000", "--quiet"]
    repo = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=repo,
        start_new_session=True,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".refshapes-*/images/refshapes/*.jpg")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to parent and workers
        _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert b"nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 32}, "size is 32"),
        ({"size": (64, 640)}, "4 to 1"),
        ({"train": -1}, "train has -1"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_arguments(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


def test_command_line_native_size_and_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--train", "3", "--val", "4", "--test-a", "0", "--test-b", "1"]
    options = ["--size", "120x200", "--quiet", "--sheet", str(tmp_path / "sheet.png")]
    assert main([str(tmp_path / "out"), *counts, *options]) == 0
    printed = capsys.readouterr().out
    info = json.loads((tmp_path / "out/refshapes/info.json").read_text())
    assert info["sha256"] in printed
    assert "val: 4 pictures" in printed
    data = Data(tmp_path / "out", info)
    assert {data.picture(image_id).shape for image_id in data.images} == {(120, 200, 3)}
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.width > 4 * 256
    with pytest.raises(ValueError, match="testA"):
        sheet(tmp_path / "out", "testA", 3, tmp_path / "none.png")


SENTENCES = [
    "the heart",
    "highest plain one",
    "black thing to the left of the heart",
    "black object that is not a heart",
    "red triangle next to the plain red object",
    "left one",
    "the red triangle on the right side",
    "the smallest red triangle",
    "the red one in the bottom right corner",
    "checked cross",
    "the rightmost plain one",
    "the shape that is not a ring",
    "purple ring at the top left",
]
