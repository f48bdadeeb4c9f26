"""`G_REFER`: referring expressions for several targets or none, a drop-in for gRefCOCO's API.

Known defects of the original are mended: refs without target in `getMaskByRef` and `getRefBox`,
polygons that overlap, pictures without refs, and `showRef` of several targets.
"""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from refer.api import REFER, Id, Ids
from refer.catalog import DATASETS, find_dataset
from refer.errors import DataFileError, MissingDataError, UnknownIdError
from refer.folders import PictureFolders
from refer.masks import Overlap
from refer.readers import paused_gc
from refer.readers.grefs import NO_TARGET, load_grefs
from refer.readers.instances import Annotation, load_instances

Ref = dict[str, Any]
_log = logging.getLogger(__name__)


class G_REFER(REFER):  # the name that its users know
    """gRefCOCO in memory, and its indexes.

    Reads `<data_root>/grefcoco/grefs(<splitBy>).p` if it is there, else the `.json`, and
    `instances.json` beside it; pictures from any layout that `REFER` knows.

    Attributes as in `REFER`, with these differences: `Anns` also holds -1 -> None, `refToAnn` gives
    lists ([None] for no target), `annToRef` gives lists of refs. `ref_sha256` is the hash of the
    ref file, `counts` what is in it by split; both are logged on load, since releases differ.

    Raises UnknownIdError (another data set: also a KeyError), MissingDataError (also a
    FileNotFoundError) and DataFileError.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        dataset: str = "grefcoco",
        splitBy: str | None = "unc",
        *,
        image_root: str | os.PathLike[str] | None = None,
    ) -> None:
        known = [name for name, row in DATASETS.items() if row.general]
        if dataset not in known:
            raise UnknownIdError(
                f"G_REFER reads {', '.join(known)}, not {dataset!r}; use REFER for others"
            )
        row = find_dataset(dataset)
        root = Path(data_root)
        self.dataset = dataset
        self.splitBy = splitBy or row.default_split_by
        folder = root / (row.folder or row.name)
        found = [folder / f"grefs({self.splitBy}).{end}" for end in ("p", "json")]
        present = [path for path in found if path.is_file()]
        if not present:
            raise MissingDataError(f"neither {found[0]} nor {found[1].name} is there; {row.cure}")
        self.refs_path = present[0]
        self.instances_path = folder / "instances.json"
        self._pictures = PictureFolders(row, root, image_root)
        self.ROOT_DIR = str(Path(__file__).resolve().parent)
        self.DATA_DIR = str(folder)
        self.IMAGE_DIR = str(self._pictures.main)
        with paused_gc():
            self._load()
        _log.info("%s: sha256 %s; %s", self.refs_path, self.ref_sha256, self.counts)

    def _load(self) -> None:
        refs, self.ref_sha256 = load_grefs(self.refs_path)
        instances = load_instances(self.instances_path)
        self.data: dict[str, Any] = {
            "dataset": self.dataset,
            "refs": refs,
            "images": instances.images,
            "annotations": instances.annotations,
            "categories": instances.categories,
        }
        self.Refs = {ref["ref_id"]: ref for ref in refs}
        self.Anns: dict[Id, Any] = {ann["id"]: ann for ann in instances.annotations}
        self.Anns[NO_TARGET] = None
        self.Imgs = {image["id"]: image for image in instances.images}
        self.Cats = {cat["id"]: cat["name"] for cat in instances.categories}
        for ref in refs:
            missing = [ann_id for ann_id in ref["ann_id"] if ann_id not in self.Anns]
            if missing or ref["image_id"] not in self.Imgs:
                raise DataFileError(
                    f"{self.refs_path}: ref {ref['ref_id']!r} points to annotations {missing} of "
                    f"image {ref['image_id']!r}, and {self.instances_path} lacks them; take both "
                    "files from the same download"
                )
            for ann_id in targets_of(ref):
                self._check_picture(ref, ann_id)

    @cached_property
    def availableSplits(self) -> list[str]:
        """The split labels in the file, in order of appearance."""
        return self.splits

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """By split: pictures, refs, expressions, and expressions with no, one, several targets."""
        found: dict[str, dict[str, int]] = {}
        pictures: dict[str, set[Id]] = {}
        for ref in self.data["refs"]:
            names = ("pictures", "refs", "expressions", "no_target", "single", "multi")
            split = found.setdefault(ref["split"], dict.fromkeys(names, 0))
            pictures.setdefault(ref["split"], set()).add(ref["image_id"])
            number = len(ref["sentences"])
            split["refs"] += 1
            split["expressions"] += number
            targets = len(targets_of(ref))
            split["no_target" if not targets else "single" if targets == 1 else "multi"] += number
        for name, split in found.items():
            split["pictures"] = len(pictures[name])
        return found

    @cached_property
    def catToRefs(self) -> dict[Id, list[Ref]]:
        groups: dict[Id, list[Ref]] = {}
        for ref in self.data["refs"]:
            for category in dict.fromkeys(ref["category_id"]):
                groups.setdefault(category, []).append(ref)
        return groups

    @cached_property
    def refToAnn(self) -> dict[Id, Any]:
        return {
            ref["ref_id"]: [self.Anns[ann_id] for ann_id in ref["ann_id"]]
            for ref in self.data["refs"]
        }

    @cached_property
    def annToRef(self) -> dict[Id, Any]:
        groups: dict[Id, list[Ref]] = {}
        for ref in self.data["refs"]:
            for ann_id in ref["ann_id"]:
                groups.setdefault(ann_id, []).append(ref)
        return groups

    def getRefIds(
        self, image_ids: Ids = (), cat_ids: Ids = (), ref_ids: Ids = (), split: str = ""
    ) -> list[Id]:
        """Ids of the refs that meet every condition, in file order; a ref is of a category when
        one of its targets is. Raises UnknownNameError (split) and UnknownIdError."""
        cats = set(self._known(cat_ids, {**self.Cats, NO_TARGET: None}, "category"))
        found = super().getRefIds(image_ids, (), ref_ids, split)
        if not cats:
            return found
        return [i for i in found if cats.intersection(self.Refs[i]["category_id"])]

    def getAnnIds(self, image_ids: Ids = (), cat_ids: Ids = (), ref_ids: Ids = ()) -> list[Id]:
        """Ids of annotations that meet every condition; with `ref_ids` the targets of those refs,
        in their order and each once, none for a ref without target. Raises UnknownIdError."""
        refs = self._known(ref_ids, self.Refs, "ref")
        if not refs:
            return super().getAnnIds(image_ids, cat_ids)
        targets = dict.fromkeys(a for ref_id in refs for a in targets_of(self.Refs[ref_id]))
        allowed = set(super().getAnnIds(image_ids, cat_ids))
        return [ann_id for ann_id in targets if ann_id in allowed]

    def getRefBox(self, ref_id: Id) -> list[list[float]]:  # type: ignore[override]
        """Boxes [x, y, width, height] of a ref's targets in pixels; none for no target.

        Raises UnknownIdError, and DataFileError for an annotation without such a box.
        """
        (ref,) = self.loadRefs(ref_id)
        return [self._box(ann_id) for ann_id in targets_of(ref)]

    def getMask(  # type: ignore[override]
        self, ann: Annotation | None, overlap: Overlap = "union"
    ) -> Any:
        """Mask of an annotation: {'mask': uint8 [H, W], 'area': int}; None for no target (None).

        Raises DataFileError for a crowd, as the original does, and for outlines that cannot be
        drawn.
        """
        if ann is None:
            return None
        if is_crowd(ann):
            raise DataFileError(
                f"{self.instances_path}: annotation {ann['id']!r} is a crowd; it has no mask of "
                "its own"
            )
        return super().getMask({"ann_id": ann["id"], "image_id": ann["image_id"]}, overlap)

    def getMaskByRef(
        self,
        ref: Ref | None = None,
        ref_id: Id | None = None,
        merge: bool = False,
        overlap: Overlap = "union",
    ) -> Any:
        """Masks of a ref, given by itself or its id.

        merge=True: {'mask': uint8 [H, W] in {0, 1}, 'empty': bool}, the union; zeros for no target.
        merge=False: a list of {'mask', 'area'}, crowds left out.
        """
        if (ref is None) == (ref_id is None):
            raise UnknownIdError("getMaskByRef wants either ref or ref_id")
        found = self.loadRefs(ref_id)[0] if ref is None and ref_id is not None else ref
        assert found is not None
        anns = [self.Anns[ann_id] for ann_id in targets_of(found)]
        masks = [self.getMask(ann, overlap) for ann in anns if not is_crowd(ann)]
        if not merge:
            return masks
        image = self.Imgs[found["image_id"]]
        union = np.zeros((image["height"], image["width"]), np.uint8)
        for one in masks:
            union |= (one["mask"] > 0).astype(np.uint8)
        return {"mask": union, "empty": not anns}


def targets_of(ref: Ref) -> list[int]:
    """Annotation ids of a ref's targets; none for [-1]."""
    return [ann_id for ann_id in ref["ann_id"] if ann_id != NO_TARGET]


def is_crowd(ann: Annotation) -> bool:
    """Whether an annotation is a crowd, which no ref's mask takes in (nor the original's)."""
    try:
        return bool(ann.peek("iscrowd"))
    except KeyError:
        return False
