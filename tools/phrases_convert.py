"""Phrases and their boxes from any source to the common format (refer/readers/phrases.py).

    python tools/phrases_convert.py flickr30k FOLDER OUT.jsonl
    python tools/phrases_convert.py refer DATA_ROOT OUT.jsonl --dataset refcoco --split-by unc
    python tools/phrases_convert.py vg FOLDER OUT.jsonl --exclude DATA_ROOT
    python tools/phrases_convert.py referit FOLDER OUT.jsonl
    python tools/phrases_convert.py reftr LIST.pth OUT.jsonl --kind refcoco --split val --images DIR
    python tools/phrases_convert.py refshapes DATA_ROOT OUT.jsonl

The file appears whole or not at all; what was cut, left out or found without a box is counted on
the way, printed, and kept in the file's header beside the options.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from refer.api import REFER
from refer.errors import MissingDataError, ReferError
from refer.options import OverlapRule
from refer.readers import flickr30k, referit
from refer.readers.phrases import PhraseRecord, save_phrases
from refer.readers.refer_phrases import BoxValues, TextField, evaluation_pictures, refer_phrases
from refer.readers.reftr_lists import Kind, picture_sizes, reftr_phrases
from refer.readers.shapes_phrases import shapes_phrases
from refer.readers.visual_genome import vg_phrases

# What RefCOCO/+/g are validated and tested on, in every published splitBy.
SCORED = (
    ("refcoco", "unc"),
    ("refcoco", "google"),
    ("refcoco+", "unc"),
    ("refcocog", "umd"),
    ("refcocog", "google"),
)
# Those that may be absent: their val and test are seldom scored.
_SELDOM = (("refcoco", "google"), ("refcocog", "google"))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = _parser().parse_args(arguments)
    notes: Counter[str] = Counter()
    kept = {"source", "out", "path"}
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(given).items()
        if name not in kept
    }
    count: Counter[str] = Counter()
    try:
        # The header is written when all records are, so that it holds the finished counts.
        header: dict[str, Any] = {"source": given.source, "options": options, "notes": notes}
        save_phrases(given.out, _counted(_records(given, notes), count), header)
    except ReferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, number in [*count.items(), *sorted((+notes).items())]:
        print(f"{number:>9,} {name}")
    return 0


def _records(given: argparse.Namespace, notes: Counter[str]) -> Iterator[PhraseRecord]:
    if given.source == "flickr30k":
        return flickr30k.flickr30k_phrases(given.path, given.splits, given.offset, notes)
    if given.source == "refer":
        refer = REFER(given.path, given.dataset, given.split_by)
        scored = _coco_scored(given.path) if given.exclude_scored else set()
        options = given.text_field, given.box_values
        return refer_phrases(refer, given.split, *options, scored, notes, given.masks)
    if given.source == "vg":
        flickr = _flickr_scored(given.exclude_flickr) if given.exclude_flickr else set()
        coco = set() if given.exclude_nothing else _coco_scored(given.exclude)
        return vg_phrases(given.path, coco, flickr, given.split, given.flat, notes)
    if given.source == "referit":
        return referit.referit_phrases(given.path, given.splits, given.last_pixel, notes)
    if given.source == "reftr":
        size_of = picture_sizes(given.images)
        return reftr_phrases(given.path, given.kind, given.split, size_of, given.box_values, notes)
    return shapes_phrases(given.path / "refshapes", masks=given.masks)


def _coco_scored(data_root: Path) -> set[int]:
    """COCO ids of all pictures that RefCOCO/+/g under `data_root` are scored on."""
    refers = []
    for dataset, split_by in SCORED:
        try:
            refers.append(REFER(data_root, dataset, split_by))
        except MissingDataError:
            if (dataset, split_by) not in _SELDOM:
                raise
            print(f"note: {dataset} ({split_by}) is not there: not excluded", file=sys.stderr)
    return evaluation_pictures(refers)


def _flickr_scored(folder: Path) -> set[int]:
    lists = flickr30k.split_lists(folder, ("val", "test"))
    return {int(image_id) for ids in lists.values() for image_id in ids}


def _counted(records: Iterator[PhraseRecord], count: Counter[str]) -> Iterator[PhraseRecord]:
    for record in records:
        count["captions"] += 1
        count["phrases with boxes"] += len(record.scored())
        yield record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sources = parser.add_subparsers(dest="source", required=True)

    def source(name: str, path: str) -> argparse.ArgumentParser:
        own = sources.add_parser(name, help=path)
        own.add_argument("path", type=Path, help=path)
        own.add_argument("out", type=Path, help="the file to write")
        return own

    def box_values(own: argparse.ArgumentParser) -> None:
        own.add_argument(
            "--box-values",
            default="float",
            choices=get_args(BoxValues),
            help="int: cut to whole numbers first, as RefTR does",
        )

    own = source("flickr30k", "folder with Sentences/, Annotations/ and <split>.txt")
    own.add_argument(
        "--splits", nargs="+", default=list(flickr30k.SPLITS), choices=flickr30k.SPLITS
    )
    own.add_argument(
        "--offset",
        type=int,
        default=-1,
        choices=get_args(flickr30k.Offset),
        help="added to stored coordinates: -1 as the official parser, 0 as MDETR",
    )
    own = source("refer", "data root of REFER's data sets")
    own.add_argument("--dataset", required=True)
    own.add_argument("--split-by")
    own.add_argument("--split", default="", help="train, val, ... (default: all)")
    own.add_argument(
        "--exclude-scored",
        action="store_true",
        help="train on no picture that RefCOCO/+/g under the same root are scored on",
    )
    own.add_argument("--text-field", default="sent", choices=get_args(TextField))
    own.add_argument(
        "--masks",
        choices=get_args(OverlapRule),
        help="write masks too; pixels under several parts of an outline: the object's (union), or "
        "the background's (drop, as VPD and LAVT have it)",
    )
    box_values(own)
    own = source("vg", "folder with region_descriptions.json and image_data.json")
    left_out = own.add_mutually_exclusive_group(required=True)
    left_out.add_argument(
        "--exclude", type=Path, help="data root of RefCOCO/+/g: leaves out what they are scored on"
    )
    left_out.add_argument(
        "--exclude-nothing", action="store_true", help="for data that RefCOCO/+/g never score"
    )
    own.add_argument("--exclude-flickr", type=Path, help="folder with Flickr30k's val and test.txt")
    own.add_argument("--split", default="train", help="the label that all regions get")
    own.add_argument("--flat", action="store_true", help="pictures of both archives in one folder")
    own = source("referit", "folder with the referit_*.json files")
    own.add_argument("--splits", nargs="+", default=list(referit.SPLITS))
    own.add_argument("--last-pixel", action="store_true", help="add 1 to the lower right corners")
    own = source("reftr", "a .pth list")
    own.add_argument("--kind", required=True, choices=get_args(Kind))
    own.add_argument("--split", required=True, help="the split that the list is of")
    own.add_argument("--images", type=Path, required=True, help="folder with the pictures")
    box_values(own)
    own = source("refshapes", "data root of RefShapes, generated with --extras")
    own.add_argument("--masks", action="store_true", help="write masks too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
