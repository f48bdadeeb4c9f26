"""gRefCOCO's refs as MDETR reads them (COCO-style, one image record a sentence), and back.

    python tools/grefexp_coco_format.py --data_path GREFCOCO --out_path OUT --coco_path COCO
    python tools/grefexp_coco_format.py --reverse --data_path OUT --out_path GREFCOCO

GREFCOCO holds `grefs(unc).json` (or .p), COCO `annotations/instances_train2014.json`. Writes
`OUT/finetune_grefcoco_<split>.json` for every split asked for, ids running on from one to the next
in the order given. Entries beyond MDETR's (ref_id, sent_id, raw, ...) make the way back exact.

A sentence without target has one annotation: an empty box, area, iscrowd and ids of -1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refer.errors import DataFileError, MissingDataError, ReferError
from refer.files import written_beside
from refer.readers.grefs import NO_TARGET, load_grefs

SPLITS = ("val", "train", "testA", "testB")  # the published order, then what it left out
Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--out_path", type=Path, required=True)
    parser.add_argument("--coco_path", type=Path, help="not needed with --reverse")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--reverse", action="store_true", help="from MDETR's files to grefs(unc)")
    arguments = parser.parse_args()
    try:
        if arguments.reverse:
            write(arguments.out_path / "grefs(unc).json", reverse(arguments.data_path))
            return 0
        if arguments.coco_path is None:
            parser.error("--coco_path is required, the folder with annotations/")
        convert(arguments.data_path, arguments.out_path, arguments.coco_path, arguments.splits)
    except ReferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def convert(data: Path, out: Path, coco: Path, splits: Iterable[str]) -> None:
    """Write the files of these splits. Raises the errors of `refer`, which name file and ref."""
    pickled = data / "grefs(unc).p"
    refs, _ = load_grefs(pickled if pickled.is_file() else data / "grefs(unc).json")
    path = coco / "annotations" / "instances_train2014.json"
    if not path.is_file():
        raise MissingDataError(f"no {path}; it is in annotations_trainval2014.zip of COCO")
    instances = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image for image in instances["images"]}
    annotations = {one["id"]: one for one in instances["annotations"]}
    next_image = next_annotation = 1
    for split in splits:
        top = {key: instances.get(key, []) for key in ("info", "licenses", "categories")}
        found: Record = {**top, "images": [], "annotations": []}
        for ref in (one for one in refs if one["split"] == split):
            try:
                image = images[ref["image_id"]]
                targets = [annotations[i] for i in ref["ann_id"] if i != NO_TARGET]
            except KeyError as error:
                raise DataFileError(
                    f"{path} lacks {error}, which ref {ref['ref_id']} points to; want COCO's "
                    "train2014 annotations"
                ) from None
            for position, sentence in enumerate(ref["sentences"]):
                found["images"].append(_image(next_image, ref, sentence, position, image))
                whole = [[0, len(sentence["sent"])]]
                for target in targets or [None]:
                    record = _annotation(next_annotation, next_image, target, whole)
                    found["annotations"].append(record)
                    next_annotation += 1
                next_image += 1
        write(out / f"finetune_grefcoco_{split}.json", found)
        print(f"{split}: {len(found['images'])} sentences, {len(found['annotations'])} boxes")


def _image(number: int, ref: Record, sentence: Record, position: int, image: Record) -> Record:
    parts = ref["file_name"].split("_")
    name = "_".join(parts[:-1]) + ".jpg" if len(parts) > 3 else ref["file_name"]
    return {
        "file_name": name,
        "height": image["height"],
        "width": image["width"],
        "id": number,
        "original_id": ref["image_id"],
        "caption": sentence["sent"],
        "dataset_name": "grefcoco",
        "tokens_negative": [[0, len(sentence["sent"])]],
        "sentence": sentence,
        "position": position,
        "ref": {key: value for key, value in ref.items() if key != "sentences"},
    }


def _annotation(number: int, image: int, target: Record | None, whole: list[list[int]]) -> Record:
    """MDETR's record of a target; with the whole sentence as its span, as without a parser."""
    record: Record = {"id": number, "image_id": image, "tokens_positive": whole}
    if target is None:
        nothing = {"bbox": [0, 0, 0, 0], "area": -1, "iscrowd": -1, "category_id": -1}
        return {**record, **nothing, "original_id": -1, "empty": True}
    kept = {key: target[key] for key in ("category_id", "bbox", "area", "iscrowd")}
    return {**record, **kept, "original_id": target["id"], "empty": False}


def reverse(folder: Path) -> list[Record]:
    """The refs that the files of `folder` were made from, ordered by ref_id.

    Raises MissingDataError without such files, DataFileError for files that did not keep the refs.
    """
    paths = sorted(folder.glob("finetune_grefcoco_*.json"))
    if not paths:
        raise MissingDataError(f"no finetune_grefcoco_<split>.json in {folder}")
    refs: dict[int, Record] = {}
    for path in paths:
        for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
            if "ref" not in image:
                raise DataFileError(
                    f"{path}: image {image.get('id')} does not say which ref it is of; the file "
                    "was not written by this program, and MDETR's own records do not suffice"
                )
            ref = refs.setdefault(image["ref"]["ref_id"], {**image["ref"], "sentences": []})
            ref["sentences"].append(image["sentence"])
    return [refs[ref_id] for ref_id in sorted(refs)]


def write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    with written_beside(path) as file:
        file.write(json.dumps(content))  # `dump` is slow


if __name__ == "__main__":
    raise SystemExit(main())
