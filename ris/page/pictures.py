"""An item's picture with found mask and true outline, small, as text that a page can hold.

Shapes: H W pixels of the small picture.
"""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from refer import REFER
from refer.evaluation import ResProtocol
from refer.pictures import open_annotated
from ris.errors import CheckpointError
from ris.page.items import Item
from ris.visual import overlay

SIDE = 288  # longer side in pixels
QUALITY = 80


def data_uri(item: Item, refer: REFER, protocol: ResProtocol) -> str:
    """JPEG as a data URI: the mask tinted, the truth outlined in white, the sentence below.

    Raises CheckpointError for records without masks; refer.PictureError and MissingDataError.
    """
    if item.record.mask is None:
        raise CheckpointError(
            f"ref {item.record.ref_id}, sentence {item.record.sent_id} was recorded without its "
            "mask; test again with --report or --keep-masks"
        )
    ref = refer.Refs[item.record.ref_id]
    image = refer.Imgs[ref["image_id"]]
    picture = open_annotated(refer.image_path(ref["image_id"]), image["height"], image["width"])
    picture.thumbnail((SIDE, SIDE))
    found = _resized(coco.decode(item.record.mask), picture.size)
    truth = _resized(refer.getMask(ref, overlap=protocol.overlap)["mask"], picture.size)
    drawn = overlay(np.asarray(picture), [found], [item.text], truths=[truth])
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _resized(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """{0, 1} [H0, W0] -> {0, 1} [H, W]; size is (W, H)."""
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, np.uint8)
