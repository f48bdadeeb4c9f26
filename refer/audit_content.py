"""Can what a ref file asks be asked, and the outlines it refers to be drawn?

What fails here would else end a run: a blank sentence at its start, an outline in mid-epoch.
"""

from __future__ import annotations

from typing import Any

from refer import masks
from refer.api import REFER, Id
from refer.audit_pictures import SAMPLE
from refer.audit_report import FileReport
from refer.errors import DataFileError
from refer.grefer import G_REFER, is_crowd, targets_of


def check_sentences(report: FileReport, opened: REFER) -> None:
    """Write into `report` which sentences are blank, wholly or as they were typed (`raw`), and
    which refs have none."""
    blank: list[str] = []
    unlike: list[str] = []
    silent: list[str] = []
    for ref in opened.data["refs"]:
        blank += [
            f"ref {ref['ref_id']}, sentence {sentence['sent_id']}"
            for sentence in ref["sentences"]
            if not sentence["sent"].strip()
        ]
        unlike += [
            f"ref {ref['ref_id']}, sentence {sentence['sent_id']}"
            for sentence in ref["sentences"]
            if sentence["sent"].strip() and not str(sentence.get("raw") or "").strip()
        ]
        if not ref["sentences"]:
            silent.append(f"ref {ref['ref_id']}")
    cure = "correct the ref file, or leave them out with --set data.on_empty=skip"
    if blank:
        report.problems.append(f"{len(blank):,} sentences are blank ({_some(blank)}); {cure}")
    if unlike:
        report.notes.append(
            f"{len(unlike):,} sentences have no raw text ({_some(unlike)}): data.text_field=raw "
            "would refuse them"
        )
    _check_ids(report, opened)
    if silent:
        report.problems.append(f"{len(silent):,} refs have no sentence ({_some(silent)}); {cure}")


def _check_ids(report: FileReport, opened: REFER) -> None:
    """Sentence ids that occur twice: in one ref scores refuse them, in two the indexes of REFER
    know the last alone."""
    seen: set[Id] = set()
    inside: list[str] = []
    across: list[str] = []
    for ref in opened.data["refs"]:
        own: set[Id] = set()
        for sent_id in (sentence["sent_id"] for sentence in ref["sentences"]):
            if sent_id in own:
                inside.append(f"ref {ref['ref_id']}, sentence {sent_id}")
            elif sent_id in seen:
                across.append(str(sent_id))
            own.add(sent_id)
        seen |= own
    if inside:
        report.problems.append(
            f"{len(inside):,} sentences have the id of another one of their ref ({_some(inside)}), "
            "and could not be scored; correct the ref file"
        )
    if across:
        report.notes.append(
            f"{len(across):,} sentence ids occur in several refs ({_some(across)}): "
            "REFER.Sents, sentToRef and sentToTokens hold the last"
        )


def check_outlines(report: FileReport, opened: REFER) -> None:
    """Write into `report` which referred annotations have an outline that cannot be drawn.

    One annotation is held in memory at a time, and each is drawn once, whatever refers to it.
    """
    pictures: dict[Id, Id] = {}
    for ref in opened.data["refs"]:
        for ann_id in _drawn(opened, ref):
            pictures.setdefault(ann_id, ref["image_id"])
    flaws = [
        flaw
        for ann_id, image_id in pictures.items()
        if (flaw := _flaw(opened, ann_id, opened.Imgs[image_id]))
    ]
    if flaws:
        report.problems.append(
            f"{len(flaws):,} of {len(pictures):,} referred outlines cannot be drawn "
            f"({_some(flaws)}); correct {opened.instances_path} or fetch it again"
        )


def _drawn(opened: REFER, ref: dict[str, Any]) -> list[Id]:
    """The annotations that make a ref's mask."""
    if not isinstance(opened, G_REFER):
        return [ref["ann_id"]]
    return [ann_id for ann_id in targets_of(ref) if not is_crowd(opened.Anns[ann_id])]


def _flaw(opened: REFER, ann_id: Id, image: dict[str, Any]) -> str:
    """What is wrong with an annotation's outline, or nothing."""
    where = f"annotation {ann_id}"
    try:
        outline = opened.Anns[ann_id].peek("segmentation")
    except KeyError:
        return f"{where} has no segmentation"
    except DataFileError as error:
        return str(error)
    try:
        masks.to_rles(outline, image["height"], image["width"], where)
    except DataFileError as error:
        return str(error)
    return ""


def _some(items: list[str]) -> str:
    return "; ".join(items[:SAMPLE]) + ("; ..." if len(items) > SAMPLE else "")
