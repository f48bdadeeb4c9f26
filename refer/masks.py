"""Segmentations to masks, by pycocotools.

Shapes: H W pixels, N parts of one segmentation. Layers are [H, W, N], as pycocotools gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from refer.errors import DataFileError, UnknownNameError

Overlap = Literal["union", "drop", "sum"]
Rle = dict[str, Any]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

# Outlines may leave the picture a little. Beyond this many pixels pycocotools, which walks along
# every edge, would take all memory or never end (it does for NaN), so such a file is refused.
_FARTHEST = 100_000
# The same memory goes into a short outline that runs to and fro: about 80 bytes a pixel of its way.
_LONGEST = 1_000_000
# Pillow takes no larger picture; a record of one would be a small file that takes all memory.
MAX_PIXELS = 2**28


def decode(
    segmentation: Any,
    height: int,
    width: int,
    overlap: Overlap = "union",
    where: str = "segmentation",
) -> U8:
    """Mask of a segmentation: uint8 [H, W], in {0, 1} unless `overlap` is 'sum'.

    `segmentation` is what COCO-style files hold: a list of polygons [x0, y0, x1, y1, ...] in
    pixels, an RLE dict, or a list of RLE dicts (compressed or not). Polygons with an odd number of
    coordinates or fewer than three corners are skipped, as no area can be told from them.

    Raises DataFileError, beginning with `where`, for a segmentation of which nothing can be drawn,
    that does not fit the picture, or that is none; UnknownNameError for another `overlap`.
    """
    return combine(layers(segmentation, height, width, where), overlap)


def decode_at(
    segmentation: Any,
    height: int,
    width: int,
    size: int | Sequence[int],
    overlap: Overlap = "union",
    where: str = "segmentation",
) -> U8:
    """As `decode`, of a picture that is squashed to `size`: polygons are drawn there, which moves
    edges by up to a pixel against a mask that is resized; an RLE is resized (nearest).

    What detectron2 does with annotations, and so ReLA. Raises as `decode` does.
    """
    from refer.resizing import as_size, resize_mask  # needs Pillow, which REFER does not

    target = as_size(size)
    parts = _parts(segmentation, where)
    if isinstance(parts[0], dict):
        return resize_mask(decode(segmentation, height, width, overlap, where), target)
    scale = target[1] / width, target[0] / height
    corners = [np.array(part, np.float64).reshape(-1, 2) * scale for part in parts]
    _check_way(corners, where)
    scaled = [one.ravel().tolist() for one in corners]
    return combine(coco.decode(coco.frPyObjects(scaled, *target)), overlap)


def encoded(
    segmentations: Sequence[Any],
    height: int,
    width: int,
    overlap: Literal["union", "drop"] = "union",
    where: str = "segmentation",
) -> str:
    """The objects of several segmentations as one mask: counts of a compressed COCO RLE.

    `overlap` is about the parts of each; objects are united. Raises DataFileError as `decode` does,
    and for none.
    """
    if not segmentations:
        raise DataFileError(f"{where}: no annotation to draw; a mask needs one at least")
    masks = [decode(one, height, width, overlap, where) for one in segmentations]
    whole = np.asfortranarray(np.any(masks, axis=0), dtype=np.uint8)
    return str(coco.encode(whole)["counts"].decode())


def layers(segmentation: Any, height: int, width: int, where: str = "segmentation") -> U8:
    """One mask for each part, uint8 [H, W, N] in {0, 1}. Raises DataFileError as `decode` does."""
    return coco.decode(to_rles(segmentation, height, width, where))


def combine(layers: U8, overlap: Overlap = "union") -> U8:
    """One mask, uint8 [H, W], of layers [H, W, N]; `overlap` says what pixels under several are.

    'union': 1, they are of the object. 'drop': 0, what LAVT and VPD train and score on, which keep
    the pixels where the parts sum to 1. 'sum': the number of parts (255 at most), as the classic
    API has it. Raises UnknownNameError for anything else.
    """
    if overlap not in get_args(Overlap):
        raise UnknownNameError(f"overlap is {overlap!r}; want one of {get_args(Overlap)}")
    # Most objects have one part, and the sum takes four times its memory.
    covered = layers[:, :, 0] if layers.shape[2] == 1 else layers.sum(axis=2, dtype=np.uint32)
    if overlap == "union":
        covered = covered > 0
    elif overlap == "drop":
        covered = covered == 1
    else:
        covered = np.minimum(covered, 255)
    return np.ascontiguousarray(covered, dtype=np.uint8)


def to_rles(segmentation: Any, height: int, width: int, where: str = "segmentation") -> list[Rle]:
    """One compressed COCO RLE for each drawable part. Raises DataFileError."""
    if height * width > MAX_PIXELS:
        raise DataFileError(
            f"{where}: the picture is {height} x {width}; want {MAX_PIXELS} pixels at most"
        )
    parts = _parts(segmentation, where)
    if isinstance(parts[0], dict):
        return [_checked_rle(part, height, width, where) for part in parts]
    return coco.frPyObjects(parts, height, width)


def _parts(segmentation: Any, where: str) -> list[Any]:
    """The RLE dicts of a segmentation, or its drawable polygons, checked."""
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list) or not parts:
        raise DataFileError(f"{where}: want polygons or RLE, got {_brief(segmentation)}")
    if all(isinstance(part, dict) for part in parts):
        return parts
    if not all(isinstance(part, list) for part in parts):
        raise DataFileError(f"{where}: want all polygons or all RLE, got {_brief(segmentation)}")
    polygons = [part for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    if not polygons:
        raise DataFileError(
            f"{where}: nothing to draw, its polygons have {[len(part) for part in parts]} "
            "numbers; want an even number, 6 at least"
        )
    _check_way([_corners(polygon, where).reshape(-1, 2) for polygon in polygons], where)
    return polygons


def _corners(polygon: list[Any], where: str) -> F64:
    """The numbers of a polygon, checked one by one."""
    try:
        numbers = np.array(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1:
        raise DataFileError(f"{where}: a polygon of {_brief(polygon)}; want plain numbers")
    farthest = float(np.abs(numbers).max())
    if not farthest <= _FARTHEST:
        raise DataFileError(f"{where}: a corner at {farthest}; want pixels up to {_FARTHEST}")
    return numbers


def _check_way(polygons: Sequence[F64], where: str) -> None:
    """Refuse outlines [corners, 2] that together take pycocotools too long a way."""
    way = sum(float(np.abs(one - np.roll(one, 1, axis=0)).max(axis=1).sum()) for one in polygons)
    if way > _LONGEST:
        raise DataFileError(
            f"{where}: its outlines run over {way:.0f} pixels, to and fro; want {_LONGEST} at "
            "most: correct it or fetch the file again"
        )


def _checked_rle(rle: Rle, height: int, width: int, where: str) -> Rle:
    """A compressed RLE whose runs fill the picture: pycocotools checks neither and would hand out
    memory it never wrote to."""
    counts = rle.get("counts")
    size = rle.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise DataFileError(
            f"{where}: RLE of size {_brief(size)}, the picture is {[height, width]}"
        )
    if isinstance(counts, list):
        fits = all(type(run) is int and run >= 0 for run in counts)
        fits = fits and sum(counts) == height * width
        rle = coco.frPyObjects(rle, height, width) if fits else rle
    elif isinstance(counts, str | bytes):
        text = counts.encode() if isinstance(counts, str) else counts
        fits = _total_of_runs(text) == height * width
    else:
        raise DataFileError(f"{where}: RLE with counts {_brief(counts)}; want a list or a string")
    if not fits:
        raise DataFileError(f"{where}: RLE runs do not add up to {height} x {width} pixels")
    return rle


def _total_of_runs(text: bytes) -> int | None:
    """Pixels covered by a compressed RLE string, None if it is none.

    COCO's format: 6-bit characters from '0' on, of which 5 carry bits, lowest first, and one says
    that more follow; from the fourth run on, the difference to the run before the last is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the highest bit is the sign
            value += runs[-2] if len(runs) > 2 else 0
            if value < 0:
                return None
            runs.append(value)
            value = shift = 0
    return sum(runs) if shift == 0 else None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
