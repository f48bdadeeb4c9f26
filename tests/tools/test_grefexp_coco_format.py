"""gRefCOCO to MDETR's format and back, by the program's own command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refer.shapes import generate


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """RefShapes in gRefCOCO's layout, and its instances where COCO's would be."""
    root = tmp_path_factory.mktemp("g")
    generate(root, train=6, val=5, test_a=3, test_b=3, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    coco = root / "coco" / "annotations"
    coco.mkdir(parents=True)
    shutil.copy(root / "grefcoco/instances.json", coco / "instances_train2014.json")
    return root / "grefcoco", root / "coco"


def call(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "tools/grefexp_coco_format.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_round_trip(folders, tmp_path, repo):
    data, coco = folders
    run = call(repo, "--data_path", data, "--out_path", tmp_path, "--coco_path", coco)
    assert run.returncode == 0, run.stderr
    refs = json.loads((data / "grefs(unc).json").read_text())
    annotations = {
        a["id"]: a for a in json.loads((data / "instances.json").read_text())["annotations"]
    }
    seen_images: list[int] = []
    seen_annotations: list[int] = []
    for split in ("val", "train", "testA", "testB"):
        found = json.loads((tmp_path / f"finetune_grefcoco_{split}.json").read_text())
        own = [ref for ref in refs if ref["split"] == split]
        sentences = [(ref, s) for ref in own for s in ref["sentences"]]
        assert [image["caption"] for image in found["images"]] == [s["sent"] for _, s in sentences]
        boxes = iter(found["annotations"])
        for image, (ref, _) in zip(found["images"], sentences, strict=True):
            assert image["original_id"] == ref["image_id"]
            for target in ref["ann_id"]:
                box = next(boxes)
                assert box["image_id"] == image["id"]
                assert box["original_id"] == target
                assert "segmentation" not in box
                if target == -1:
                    assert (box["bbox"], box["area"], box["iscrowd"]) == ([0, 0, 0, 0], -1, -1)
                    assert (box["category_id"], box["empty"]) == (-1, True)
                else:
                    assert box["bbox"] == annotations[target]["bbox"]
                    assert box["empty"] is False
        assert next(boxes, None) is None
        seen_images += [image["id"] for image in found["images"]]
        seen_annotations += [a["id"] for a in found["annotations"]]
    # Ids run on from one split to the next.
    assert seen_images == list(range(1, len(seen_images) + 1))
    assert seen_annotations == list(range(1, len(seen_annotations) + 1))
    assert any(ref["ann_id"] == [-1] for ref in refs)
    run = call(repo, "--reverse", "--data_path", tmp_path, "--out_path", tmp_path / "back")
    assert run.returncode == 0, run.stderr
    back = json.loads((tmp_path / "back/grefs(unc).json").read_text())
    assert back == sorted(refs, key=lambda ref: ref["ref_id"])


def test_what_is_missing_is_named(folders, tmp_path, repo):
    data, _ = folders
    run = call(repo, "--data_path", data, "--out_path", tmp_path, "--coco_path", tmp_path)
    assert run.returncode == 2
    assert "instances_train2014.json" in run.stderr
    run = call(repo, "--data_path", data, "--out_path", tmp_path)
    assert run.returncode == 2
    assert "--coco_path" in run.stderr
    run = call(repo, "--reverse", "--data_path", tmp_path, "--out_path", tmp_path)
    assert run.returncode == 2
    assert "finetune_grefcoco" in run.stderr
