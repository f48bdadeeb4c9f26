"""Pixel counts made again from kept masks, at another resolution or under another overlap rule.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refer import masks
from refer.api import REFER
from refer.errors import DataFileError
from refer.evaluation.protocol import EvaluationError, ResProtocol
from refer.evaluation.scores import ItemRecord
from refer.transforms import resize_mask


def recount(records: Sequence[ItemRecord], refer: REFER, protocol: ResProtocol) -> list[ItemRecord]:
    """The records (without masks) as counted at `protocol`'s resolution and overlap rule.

    Predicted masks are resized by nearest neighbour. Ground truth is drawn at the picture's own
    size, then resized likewise unless the resolution is 'native'.

    Raises EvaluationError for a record without a mask, or of a sentence that `refer` does not hold;
    DataFileError for a mask that is damaged or is not the one that was counted.
    """

    @lru_cache(maxsize=16)  # the sentences of a ref follow one another
    def truth_of(ref_id: int) -> NDArray[np.uint8]:
        own = refer.getMask(refer.Refs[ref_id], overlap=protocol.overlap)["mask"]
        return own if protocol.size is None else resize_mask(own, protocol.size)

    counted = []
    for record in records:
        _check_known(record, refer)
        truth = truth_of(record.ref_id).astype(bool)
        pred = resize_mask(_kept_mask(record), truth.shape).astype(bool)
        counted.append(
            record._replace(
                intersection=int((pred & truth).sum()),
                union=int((pred | truth).sum()),
                pred_area=int(pred.sum()),
                target_area=int(truth.sum()),
                mask=None,
            )
        )
    return counted


def _check_known(record: ItemRecord, refer: REFER) -> None:
    ref = refer.Refs.get(record.ref_id)
    if ref is None or record.sent_id not in [sent["sent_id"] for sent in ref["sentences"]]:
        raise EvaluationError(
            f"ref {record.ref_id} with sentence {record.sent_id} is not in {refer.dataset} "
            f"({refer.splitBy}); give the data that the records were made on"
        )


def _kept_mask(record: ItemRecord) -> NDArray[np.uint8]:
    where = f"record of ref {record.ref_id}, sentence {record.sent_id}"
    if record.mask is None:
        raise EvaluationError(
            f"{where} has no mask, which another resolution or overlap rule needs; "
            "test again and keep the masks"
        )
    height, width = record.mask["size"]
    mask = masks.decode(record.mask, height, width, where=where)
    if int(mask.sum()) != record.pred_area:
        raise DataFileError(
            f"{where}: its mask has {int(mask.sum())} pixels, pred_area says {record.pred_area}"
        )
    return mask
