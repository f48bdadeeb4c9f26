"""The converter of phrases by its own command line, for each source."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from refer.readers.phrases import load_phrases
from refer.readers.pickles import load_refs
from refer.shapes import generate


def call(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "tools/phrases_convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """RefShapes, and its refs once more where RefCOCO/+/g would be."""
    root = tmp_path_factory.mktemp("data")
    generate(root, train=4, val=3, test_a=2, test_b=2, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        (root / dataset).mkdir()
        for name, new in (("refs(unc).p", f"refs({split_by}).p"), *[("instances.json",) * 2]):
            (root / dataset / new).write_bytes((root / "refshapes" / name).read_bytes())
    return root


def test_refshapes_and_refer(repo, root, tmp_path):
    for arguments in (["refshapes"], ["refer"]):
        out = tmp_path / f"{arguments[0]}.jsonl"
        more = ["--dataset", "refshapes", "--split", "val"] if arguments[0] == "refer" else []
        run = call(repo, *arguments, root, out, *more)
        assert run.returncode == 0, run.stderr
        found = load_phrases(out)
        assert found.header["source"] == arguments[0]
        assert f"{len(found.records):>9,} captions" in run.stdout
    assert {record.split for record in found.records} == {"val"}
    assert found.header["options"]["box_values"] == "float"


def test_refer_without_scored_pictures(repo, root, tmp_path):
    """One train picture of RefCOCO is tested on in RefCOCOg."""
    shutil.copytree(root, tmp_path / "data")
    path = tmp_path / "data/refcocog/refs(umd).p"
    refs = load_refs(path)
    moved = next(ref["image_id"] for ref in refs if ref["split"] == "train")
    changed = [{**ref, "split": "test"} if ref["image_id"] == moved else ref for ref in refs]
    path.write_bytes(pickle.dumps(changed, protocol=2))
    left = []
    for more in ([], ["--exclude-scored"]):
        out = tmp_path / "out"
        run = call(repo, "refer", tmp_path / "data", out, "--dataset", "refcoco", *more)
        assert run.returncode == 0, run.stderr
        left.append({record.image_id for record in load_phrases(out).records})
    assert left[0] - left[1] == {moved}
    assert "train refs left out by COCO id" in run.stdout


def test_visual_genome_leaves_out_what_refcoco_is_scored_on(repo, root, tmp_path):
    splits = {
        p["image_id"]: p["split"] for p in json.loads((root / "refshapes/phrases.json").read_text())
    }
    images = [
        {"image_id": n, "url": f"https://x/VG_100K/{n}.jpg", "width": 9, "height": 9, "coco_id": c}
        for n, c in enumerate([*splits, None], start=1)
    ]
    region = {"x": 1, "y": 1, "width": 3, "height": 3, "phrase": "a thing"}
    regions = [{"id": i["image_id"], "regions": [{**region, "region_id": 1}]} for i in images]
    (tmp_path / "image_data.json").write_text(json.dumps(images))
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    out = tmp_path / "vg.jsonl"
    run = call(repo, "vg", tmp_path, out)
    assert run.returncode == 2
    assert "--exclude" in run.stderr
    run = call(repo, "vg", tmp_path, out, "--exclude", root)
    assert run.returncode == 0, run.stderr
    assert "refcocog (google) is not there: not excluded" in run.stderr
    coco_of = {image["image_id"]: image["coco_id"] for image in images}
    kept = [coco_of[record.image_id] for record in load_phrases(out).records]
    assert kept == [c for c, split in splits.items() if split == "train"] + [None]
    header = load_phrases(out).header
    assert header["notes"]["pictures left out by COCO id"] == 7
    (tmp_path / "empty").mkdir()
    run = call(repo, "vg", tmp_path, out, "--exclude", tmp_path / "empty")
    assert run.returncode == 2
    assert "error: " in run.stderr


def test_flickr30k_referit_and_lists(repo, tmp_path):
    for folder in ("Sentences", "Annotations", "pictures"):
        (tmp_path / folder).mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("7" if split == "val" else "")
    (tmp_path / "Sentences/7.txt").write_text("[/EN#1/people A man] .\n")
    (tmp_path / "Annotations/7.xml").write_text(
        "<annotation><size><width>60</width><height>40</height></size><object><name>1</name>"
        "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    Image.new("RGB", (60, 40)).save(tmp_path / "pictures/7.jpg")
    torch.save([("7.jpg", [1, 2, 30, 30], "a man")], tmp_path / "flickr_val.pth")
    for name, content in (
        ("query_train", {"7_1": ["a man"]}),
        ("bbox", {"7_1": [1, 2, 8, 8]}),
        ("imsize", {"7.jpg": [60, 40]}),
    ):
        (tmp_path / f"referit_{name}.json").write_text(json.dumps(content))
    lists = [tmp_path / "flickr_val.pth", "--kind", "flickr", "--split", "val", "--images"]
    for source, arguments, box in (
        ("flickr30k", [tmp_path], (1, 2, 8, 8)),
        ("flickr30k", [tmp_path, "--offset", "0"], (2, 3, 9, 9)),
        ("referit", [tmp_path, "--splits", "train", "--last-pixel"], (1, 2, 9, 9)),
        ("reftr", [*lists, tmp_path / "pictures"], (1, 2, 30, 30)),
    ):
        out = tmp_path / "out.jsonl"
        run = call(repo, source, arguments[0], out, *arguments[1:])
        assert run.returncode == 0, run.stderr
        (record,) = load_phrases(out).records
        assert record.phrases[0].boxes == (box,)
        assert record.text(record.phrases[0]).lower() == "a man"
        assert "1 phrases with boxes" in run.stdout


def test_an_error_is_one_line_and_leaves_no_file(repo, tmp_path):
    run = call(repo, "referit", tmp_path, tmp_path / "out.jsonl")
    assert run.returncode == 2
    assert run.stderr.startswith("error: no file ")
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []
