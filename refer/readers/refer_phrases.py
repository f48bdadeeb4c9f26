"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF, read by REFER, in the common phrase format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

from refer.api import REFER
from refer.errors import DataFileError, UnknownNameError
from refer.grefer import G_REFER
from refer.masks import encoded
from refer.options import OverlapRule, check_option
from refer.readers.phrases import Box, Phrase, PhraseRecord, fit_boxes

BoxValues = Literal["float", "int"]
TextField = Literal["sent", "raw"]


def corners(box: Sequence[float], values: BoxValues = "float") -> Box:
    """Box [x, y, width, height] -> xyxy.

    'int' first cuts each of the four to a whole number, as RefTR does with its ground truth: COCO's
    boxes lose up to a pixel of each side, and with 'float' nothing is lost.
    """
    x, y, width, height = map(int, box) if values == "int" else box
    return (float(x), float(y), float(x + width), float(y + height))


def refer_phrases(
    refer: REFER,
    split: str = "",
    text_field: TextField = "sent",
    box_values: BoxValues = "float",
    exclude: Collection[int] = (),
    notes: Counter[str] | None = None,
    masks: OverlapRule | None = None,
) -> Iterator[PhraseRecord]:
    """Every sentence of a split (all splits without one) with the box of its ref, in file order.

    A record's id is <dataset>(<splitBy>)/<ref_id>/<sent_id>; its split is the label in the file.
    'sent' is the cleaned sentence, 'raw' the one that was typed; blanks around it are cut.
    `exclude` are ids of pictures that no ref of the train split may show, those that another data
    set is scored on (see `evaluation_pictures`). `notes` counts what was cut or left out. `masks`
    also draws the masks, with pixels under several parts of an outline as it says.

    Raises UnknownNameError (options; generalized data, whose sentences may name nothing and are
    scored by GREC) and the errors of REFER.
    """
    check_option("text_field", text_field, TextField)
    check_option("box_values", box_values, BoxValues)
    if isinstance(refer, G_REFER):
        raise UnknownNameError(f"{refer.dataset} is generalized; it is scored by GREC, not Acc@0.5")
    notes = Counter() if notes is None else notes
    banned = set(exclude)
    name = f"{refer.dataset}({refer.splitBy})"
    for ref in refer.loadRefs(refer.getRefIds(split=split)):
        if ref["split"] == "train" and ref["image_id"] in banned:
            notes["train refs left out by COCO id"] += 1
            continue
        image = refer.Imgs[ref["image_id"]]
        box = corners(refer.getRefBox(ref["ref_id"]), box_values)
        fitted = fit_boxes([box], image["width"], image["height"])
        notes["boxes cut at an edge"] += fitted.clipped
        notes["empty boxes dropped"] += fitted.dropped
        mask = None
        if masks is not None:
            mask = _mask(refer, ref, image["height"], image["width"], masks)
        for sentence in ref["sentences"]:
            if not isinstance(sentence.get(text_field), str):
                raise DataFileError(
                    f"{refer.refs_path}: ref {ref['ref_id']!r} has a sentence without "
                    f"{text_field}, or one that is no string"
                )
            text = sentence[text_field].strip()
            if not text:
                notes["empty sentences left out"] += 1
                continue
            yield PhraseRecord(
                id=f"{name}/{ref['ref_id']}/{sentence['sent_id']}",
                source=name,
                split=ref["split"],
                image_id=ref["image_id"],
                file_name=image["file_name"],
                width=image["width"],
                height=image["height"],
                caption=text,
                phrases=(Phrase(0, len(text), fitted.boxes, mask=mask),),
            )


def _mask(refer: REFER, ref: Any, height: int, width: int, overlap: OverlapRule) -> str:
    where = f"{refer.refs_path}: ref {ref['ref_id']!r}, annotation {ref['ann_id']!r}"
    try:
        parts = refer.Anns[ref["ann_id"]].peek("segmentation")
    except KeyError:
        raise DataFileError(f"{where} has no segmentation; a mask needs one") from None
    return encoded([parts], height, width, overlap, where)


def evaluation_pictures(refers: Sequence[REFER]) -> set[int]:
    """COCO ids of the pictures that any of these data sets validates or tests on.

    Whoever trains on other data with COCO pictures (Visual Genome; the train split of another
    RefCOCO) leaves these out. Every label other than 'train' counts.
    """
    return {
        ref["image_id"] for refer in refers for ref in refer.data["refs"] if ref["split"] != "train"
    }
