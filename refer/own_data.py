"""Own pictures, masks and sentences as the data set `own`, in REFER's layout.

The source is a file of JSON lines, one object a line:

    {"picture": "a.jpg", "mask": "a_dog.png", "sentences": ["the left dog"], "split": "train"}

`mask` is a picture as large as its `picture`, of which everything but black and transparent is the
object; in its place `polygons` may hold outlines as COCO has them, [[x0, y0, x1, y1, ...], ...] in
pixels.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from PIL import ExifTags, Image
from pycocotools import mask as coco
from tqdm import tqdm

from refer import masks
from refer.errors import DataFileError, MissingDataError, PictureError
from refer.files import read_file, write_json
from refer.pictures import open_picture

NAME = "own"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    picture: str
    sentences: list[str]
    split: Literal["train", "val", "test"]
    mask: str | None = None
    polygons: list[list[float]] | None = None


def import_own(
    source: str | Path,
    root: str | Path,
    pictures: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Write `<root>/own/instances.json` and `refs(own).json`; pictures stay where they are.

    Args:
        source: the file of JSON lines.
        root: the data root.
        pictures: folder that `picture` and `mask` start from (default: that of the source).
        overwrite: replace what is there.

    Returns, for each split, how many pictures, refs and sentences it has. Nothing is written
    unless every line is sound.

    Raises:
        MissingDataError: there is no source, picture or mask.
        DataFileError: a line is not as above, names nothing or empty words, or a picture is in two
            splits; file and line are named. Or there are such data, and `overwrite` is not set.
        PictureError: a picture or mask cannot be read.
    """
    source, home = Path(source), Path(root) / NAME
    base = source.parent if pictures is None else Path(pictures)
    targets = home / "instances.json", home / f"refs({NAME}).json"
    known = [str(path) for path in targets if path.exists()]
    if known and not overwrite:
        raise DataFileError(f"{' and '.join(known)} exist; --overwrite replaces them")
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    splits: dict[str, str] = {}
    sent_id = 0
    for where, line in tqdm(list(_lines(source)), desc="read", unit=" refs", disable=None):
        first = splits.setdefault(line.picture, line.split)
        if first != line.split:
            raise DataFileError(
                f"{where}: {line.picture} is in split {line.split}, and before in {first}; a "
                "picture of both would be learnt before it is asked for"
            )
        image = images.get(line.picture)
        if image is None:
            size = _size(base / line.picture, where)
            image = {"id": len(images) + 1, "file_name": line.picture, **size}
            images[line.picture] = image
        number = len(refs) + 1
        ids = {"image_id": image["id"], "category_id": 1}
        drawn = _drawn(line, base, image, where)
        annotations.append({"id": number, **ids, **drawn, "iscrowd": 0})
        sentences = []
        for sentence in line.sentences:
            words = sentence.strip()
            sentences.append(
                {"sent_id": sent_id, "sent": words, "raw": words, "tokens": words.split()}
            )
            sent_id += 1
        refs.append(
            {"ref_id": number, "ann_id": number, **ids, "file_name": line.picture,
             "split": line.split, "sentences": sentences,
             "sent_ids": [one["sent_id"] for one in sentences]}
        )  # fmt: skip
    if not refs:
        raise DataFileError(f"{source} has no line")
    content = {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    for path, written in zip(targets, (content, refs), strict=True):
        write_json(path, written)
    return _counts(refs)


def _lines(source: Path) -> Iterator[tuple[str, _Line]]:
    """Where each line stands, and what it says."""
    decoder = msgspec.json.Decoder(_Line)
    content = read_file(source, f"there is no {source}; want a file of JSON lines")
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()
    for number, text in enumerate(lines, start=1):
        where = f"{source}, line {number}"
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataFileError(
                f'{where}: {error}; want {{"picture": ..., "mask": ..., "sentences": [...], '
                '"split": "train"}'
            ) from error
        if (line.mask is None) == (line.polygons is None):
            raise DataFileError(f"{where}: want either mask or polygons")
        if not line.sentences or not all(sentence.strip() for sentence in line.sentences):
            said = f"sentences {line.sentences!r}"
            raise DataFileError(f"{where}: {said}; want one or more, none blank")
        yield where, line


def _size(path: Path, where: str) -> dict[str, int]:
    try:
        width, height = open_picture(path).size
    except (MissingDataError, PictureError) as error:
        raise type(error)(f"{where}: {error}") from error
    with Image.open(path) as head:
        turned = head.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    if turned:
        raise PictureError(
            f"{where}: {path} is turned by its EXIF entry, so that it is not known which way its "
            "object was marked; save it upright"
        )
    return {"height": height, "width": width}


def _drawn(line: _Line, base: Path, image: dict[str, Any], where: str) -> dict[str, Any]:
    """`segmentation`, `area` and `bbox` of an annotation."""
    height, width = image["height"], image["width"]
    if line.mask is None:
        segmentation: Any = line.polygons
        whole = masks.decode(segmentation, height, width, where=where)
    else:
        marked = _marked(base / line.mask, where)
        if marked.shape != (height, width):
            raise DataFileError(
                f"{where}: {line.mask} has {marked.shape[1]} x {marked.shape[0]} pixels, "
                f"{line.picture} {width} x {height}; want the same"
            )
        whole = marked
        segmentation = coco.encode(np.asfortranarray(whole))
        segmentation["counts"] = segmentation["counts"].decode()
    area = int(whole.sum())
    if not area:
        raise DataFileError(f"{where}: the mask is empty; everything but black is the object")
    box = coco.toBbox(coco.encode(np.asfortranarray(whole))).tolist()
    return {"segmentation": segmentation, "area": area, "bbox": box}


def _marked(path: Path, where: str) -> masks.U8:
    """uint8 [H, W] in {0, 1}: what of a mask's picture is neither black nor transparent."""
    try:
        open_picture(path)  # says what is wrong with a file that is none
    except (MissingDataError, PictureError) as error:
        raise type(error)(f"{where}: {error}") from error
    with Image.open(path) as mask:
        if mask.mode in ("1", "L") or mask.mode.startswith(("I", "F")):
            found = np.asarray(mask) != 0  # of 16 bits too, as they are
        else:  # colours
            layers = np.asarray(mask.convert("RGBA"))
            found = layers[..., :3].any(axis=2) & (layers[..., 3] > 0)
    return np.array(found, np.uint8)


def _counts(refs: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for split in ("train", "val", "test"):
        own = [ref for ref in refs if ref["split"] == split]
        if own:
            found[split] = {
                "pictures": len({ref["image_id"] for ref in own}),
                "refs": len(own),
                "sentences": sum(len(ref["sentences"]) for ref in own),
            }
    return found
