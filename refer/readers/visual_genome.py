"""Visual Genome's region descriptions, without the pictures that RefCOCO/+/g are scored on.

`region_descriptions.json` is a list of pictures with their regions (top left corner, width, height,
phrase), `image_data.json` tells sizes, COCO and Flickr ids, and by the url which of the two
archives, VG_100K or VG_100K_2, holds a picture. Boxes may lie partly outside of it or be empty.
Formats: visualgenome.org and github.com/ranjaykrishna/visual_genome_python_driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from refer.errors import DataFileError
from refer.readers.instances import Side
from refer.readers.json_file import load_json
from refer.readers.phrases import Phrase, PhraseRecord, fit_boxes

_CURE = "download it from visualgenome.org"


class _Image(msgspec.Struct, gc=False):
    image_id: int
    url: str
    width: Side
    height: Side
    coco_id: int | None = None
    flickr_id: int | None = None


class _Region(msgspec.Struct, gc=False):
    region_id: int
    x: float
    y: float
    width: float
    height: float
    phrase: str
    image_id: int | None = None


class _Regions(msgspec.Struct, gc=False):
    regions: list[_Region]
    id: int | None = None
    image_id: int | None = None


def vg_phrases(
    folder: Path,
    exclude_coco: Collection[int],
    exclude_flickr: Collection[int] = (),
    split: str = "train",
    flat: bool = False,
    notes: Counter[str] | None = None,
) -> Iterator[PhraseRecord]:
    """One record a region, in file order; all are labelled `split`, as there are no official ones.

    `exclude_coco` are ids of COCO pictures to leave out: `evaluation_pictures` of RefCOCO, RefCOCO+
    and RefCOCOg, in every splitBy that is scored. It has no default, because forgetting it trains
    on test pictures; () leaves nothing out. `exclude_flickr` likewise by Flickr id, for Flickr30k.
    `flat` is for pictures of both archives in one folder (as RefTR wants them).

    A record's id is vg/<image_id>/<region_id>. `notes` counts what was left out.

    Raises MissingDataError and DataFileError, naming the file and the region.
    """
    notes = Counter() if notes is None else notes
    images = {
        image.image_id: image
        for image in load_json(folder / "image_data.json", list[_Image], _CURE)
    }
    path = folder / "region_descriptions.json"
    banned, banned_flickr = set(exclude_coco), set(exclude_flickr)
    for entry in load_json(path, list[_Regions], _CURE):
        image_id = entry.id if entry.id is not None else entry.image_id
        image = images.get(-1 if image_id is None else image_id)
        if image is None:
            raise DataFileError(
                f"{path}: picture {image_id} is not in image_data.json; take both files from the "
                "same version"
            )
        if image.coco_id in banned:
            notes["pictures left out by COCO id"] += 1
            continue
        if image.flickr_id in banned_flickr:
            notes["pictures left out by Flickr id"] += 1
            continue
        for region in entry.regions:
            if region.image_id not in (None, image.image_id):
                raise DataFileError(
                    f"{path}: region {region.region_id} of picture {image.image_id} says it is of "
                    f"picture {region.image_id}; download the file again"
                )
            record = _record(image, region, split, flat, notes)
            if record is not None:
                yield record


def _record(
    image: _Image, region: _Region, split: str, flat: bool, notes: Counter[str]
) -> PhraseRecord | None:
    text = region.phrase.strip()
    box = (region.x, region.y, region.x + region.width, region.y + region.height)
    fitted = fit_boxes([box], image.width, image.height)
    if not text or not fitted.boxes:
        notes["regions without words" if not text else "empty regions left out"] += 1
        return None
    notes["boxes cut at an edge"] += fitted.clipped
    parts = PurePosixPath(image.url).parts
    return PhraseRecord(
        id=f"vg/{image.image_id}/{region.region_id}",
        source="vg",
        split=split,
        image_id=image.image_id,
        file_name="/".join(parts[-1:] if flat else parts[-2:]),
        width=image.width,
        height=image.height,
        caption=text,
        phrases=(Phrase(0, len(text), fitted.boxes),),
    )
