"""`REFER`: one referring-expression data set in memory, a drop-in for the classic API.

Known defects of the originals are mended: `getRefIds` with image ids, `getAnnIds` with ref ids, str
ids (RefCLEF), lists instead of key views, and errors in place of ending the process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from refer import masks
from refer.catalog import find_dataset, split_matches
from refer.errors import DataFileError, UnknownIdError, UnknownNameError
from refer.folders import PictureFolders, ref_file
from refer.readers import paused_gc
from refer.readers.instances import Annotation, checked_box, load_instances
from refer.readers.pickles import Ref, load_refs

Id = int | str
Ids = Id | Sequence[Id]

_log = logging.getLogger(__name__)


class REFER:
    """The refs, sentences, annotations, pictures and categories of a data set, and their indexes.

    Reads `<data_root>/<dataset>/refs(<splitBy>).p`, or the `.json` where there is no pickle, and
    `instances.json` beside it. `splitBy` may be any whose file is there; None takes the data set's
    default ('unc', RefCOCOg: 'umd').
    `image_root` names the folder with the pictures when they lie in none of the usual places.

    Attributes, as in the classic API: `ROOT_DIR`, `DATA_DIR`, `IMAGE_DIR` (str), `data` (dict with
    'dataset', 'refs', 'images', 'annotations', 'categories') and the indexes `Refs`, `Anns`,
    `Imgs`, `Cats`, `Sents`, `imgToRefs`, `imgToAnns`, `refToAnn`, `annToRef`, `catToRefs`,
    `sentToRef`, `sentToTokens`, plain dicts all; those from `Sents` on are built when first used.

    Wherever ids are asked for, one id or a sequence of ids will do, and nothing means no condition.

    Raises UnknownNameError (data set, splitBy), MissingDataError (files not there) and
    DataFileError (files damaged, hostile, or not belonging together).
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        dataset: str = "refcoco",
        splitBy: str | None = "unc",
        *,
        image_root: str | os.PathLike[str] | None = None,
    ) -> None:
        row = find_dataset(dataset)
        root = Path(data_root)
        self.dataset = dataset
        self.splitBy = row.default_split_by if splitBy is None else splitBy
        self.refs_path = ref_file(row, root, self.splitBy)
        self.instances_path = self.refs_path.with_name("instances.json")
        self._pictures = PictureFolders(row, root, image_root)
        self.ROOT_DIR = str(Path(__file__).resolve().parent)
        self.DATA_DIR = str(self.refs_path.parent)
        self.IMAGE_DIR = str(self._pictures.main)

        with paused_gc():
            self._load()
        _log.info("%s: %d refs", self.refs_path, len(self.Refs))

    def _load(self) -> None:
        refs = load_refs(self.refs_path)
        instances = load_instances(self.instances_path)
        self.data: dict[str, Any] = {
            "dataset": self.dataset,
            "refs": refs,
            "images": instances.images,
            "annotations": instances.annotations,
            "categories": instances.categories,
        }
        self.Refs: dict[Id, Ref] = {ref["ref_id"]: ref for ref in refs}
        self.Anns: dict[Id, Annotation] = {ann["id"]: ann for ann in instances.annotations}
        self.Imgs: dict[Id, dict[str, Any]] = {image["id"]: image for image in instances.images}
        self.Cats: dict[Id, str] = {cat["id"]: cat["name"] for cat in instances.categories}
        if len(self.Anns) < len(instances.annotations):
            _log.warning(
                "%s: some annotation ids occur twice; the last counts", self.instances_path
            )
        for ref in refs:
            if ref["ann_id"] not in self.Anns or ref["image_id"] not in self.Imgs:
                raise DataFileError(
                    f"{self.refs_path}: ref {ref['ref_id']!r} points to annotation "
                    f"{ref['ann_id']!r} of image {ref['image_id']!r}, and {self.instances_path} "
                    "lacks one of them; take both files from the same download"
                )
            self._check_picture(ref, ref["ann_id"])

    # Indexes built when first used.

    @cached_property
    def splits(self) -> list[str]:
        """The split labels in the ref file, in order of appearance."""
        return list(dict.fromkeys(ref["split"] for ref in self.data["refs"]))

    @cached_property
    def Sents(self) -> dict[Id, dict[str, Any]]:
        return {sent["sent_id"]: sent for ref in self.data["refs"] for sent in ref["sentences"]}

    @cached_property
    def sentToRef(self) -> dict[Id, Ref]:
        return {sent["sent_id"]: ref for ref in self.data["refs"] for sent in ref["sentences"]}

    @cached_property
    def sentToTokens(self) -> dict[Id, list[str]]:
        return {sent_id: sent["tokens"] for sent_id, sent in self.Sents.items()}

    @cached_property
    def imgToRefs(self) -> dict[Id, list[Ref]]:
        return _grouped(self.data["refs"], "image_id")

    @cached_property
    def imgToAnns(self) -> dict[Id, list[Annotation]]:
        return _grouped(self.data["annotations"], "image_id")

    @cached_property
    def catToRefs(self) -> dict[Id, list[Ref]]:
        return _grouped(self.data["refs"], "category_id")

    @cached_property
    def refToAnn(self) -> dict[Id, Annotation]:
        return {ref["ref_id"]: self.Anns[ref["ann_id"]] for ref in self.data["refs"]}

    @cached_property
    def annToRef(self) -> dict[Id, Ref]:
        return {ref["ann_id"]: ref for ref in self.data["refs"]}

    # Ids by condition.

    def getRefIds(
        self, image_ids: Ids = (), cat_ids: Ids = (), ref_ids: Ids = (), split: str = ""
    ) -> list[Id]:
        """Ids of the refs that meet every condition, in file order.

        `split` is 'train', 'val', 'test', 'testA', ... or any label in the file. Raises
        UnknownNameError for a split the file does not have, UnknownIdError for an unknown id.
        """
        images = self._known(image_ids, self.Imgs, "image")
        cats = set(self._known(cat_ids, self.Cats, "category"))
        wanted = set(self._known(ref_ids, self.Refs, "ref"))
        labels = self._labels(split) if split else set()
        if len(images) == 1:
            refs = self.imgToRefs.get(images[0], [])
        else:
            refs = _where(self.data["refs"], "image_id", set(images))
        refs = _where(refs, "category_id", cats)
        refs = _where(refs, "ref_id", wanted)
        return [ref["ref_id"] for ref in _where(refs, "split", labels)]

    def getAnnIds(self, image_ids: Ids = (), cat_ids: Ids = (), ref_ids: Ids = ()) -> list[Id]:
        """Ids of the annotations that meet every condition, in file order. Raises UnknownIdError.

        `ref_ids` keeps the annotations that these refs refer to.
        """
        images = self._known(image_ids, self.Imgs, "image")
        cats = set(self._known(cat_ids, self.Cats, "category"))
        ann_ids = {self.Refs[ref_id]["ann_id"] for ref_id in self._known(ref_ids, self.Refs, "ref")}
        if len(images) == 1:
            anns = self.imgToAnns.get(images[0], [])
        else:
            anns = _where(self.data["annotations"], "image_id", set(images))
        return [ann["id"] for ann in _where(_where(anns, "category_id", cats), "id", ann_ids)]

    def getImgIds(self, ref_ids: Ids = ()) -> list[Id]:
        """Ids of the pictures of `ref_ids`, each once, in the order of the refs; else of all."""
        refs = self._known(ref_ids, self.Refs, "ref")
        if not refs:
            return list(self.Imgs)
        return list(dict.fromkeys(self.Refs[ref_id]["image_id"] for ref_id in refs))

    def getCatIds(self) -> list[Id]:
        """Ids of all categories."""
        return list(self.Cats)

    # Records by id.

    def loadRefs(self, ref_ids: Ids = ()) -> list[Ref]:
        """The refs with these ids, in their order. Raises UnknownIdError."""
        return [self.Refs[ref_id] for ref_id in self._known(ref_ids, self.Refs, "ref")]

    def loadAnns(self, ann_ids: Ids = ()) -> list[Annotation]:
        """The annotations with these ids, in their order. Raises UnknownIdError."""
        return [self.Anns[ann_id] for ann_id in self._known(ann_ids, self.Anns, "annotation")]

    def loadImgs(self, image_ids: Ids = ()) -> list[dict[str, Any]]:
        """The picture records with these ids, in their order. Raises UnknownIdError."""
        return [self.Imgs[image_id] for image_id in self._known(image_ids, self.Imgs, "image")]

    def loadCats(self, cat_ids: Ids = ()) -> list[str]:
        """The names of these categories, in their order. Raises UnknownIdError."""
        return [self.Cats[cat_id] for cat_id in self._known(cat_ids, self.Cats, "category")]

    def getRefBox(self, ref_id: Id) -> list[float]:
        """Box [x, y, width, height] of a ref in pixels, 0-based.

        Raises UnknownIdError, and DataFileError for an annotation without such a box.
        """
        (ref,) = self.loadRefs(ref_id)
        return self._box(ref["ann_id"])

    # Pictures and masks.

    def image_path(self, image_id: Id) -> Path:
        """Path of a picture that exists, in any of the usual layouts.

        It goes by the picture's record; `ref['file_name']` names no file in the COCO family.
        Raises UnknownIdError, and MissingDataError, which lists the folders tried.
        """
        (image,) = self.loadImgs(image_id)
        return self._pictures.find(image_id, image["file_name"])

    def getMask(self, ref: Ref, overlap: masks.Overlap = "union") -> dict[str, Any]:
        """Mask of a ref: {'mask': uint8 [H, W], 'area': int, pixels}.

        `overlap` says what pixels under several parts are: 'union' 1, 'drop' 0 (what LAVT and VPD
        train and score on), 'sum' the number of parts, as in the classic API. 'area' adds up the
        parts always. Raises DataFileError for a segmentation that cannot be drawn.
        """
        (image,) = self.loadImgs(ref["image_id"])
        where = f"{self.instances_path}: annotation {ref['ann_id']!r}"
        segmentation = self._of_annotation(ref["ann_id"], "segmentation")
        layers = masks.layers(segmentation, image["height"], image["width"], where)
        return {"mask": masks.combine(layers, overlap), "area": int(layers.sum())}

    def showRef(self, ref: Ref, seg_box: Literal["seg", "box"] = "seg") -> None:
        """Draw the picture with the ref's outline or box on the current matplotlib axes, and print
        its sentences."""
        from refer.show import show_ref  # needs matplotlib, which few users of the data do

        show_ref(self, ref, seg_box)

    def showMask(self, ref: Ref) -> None:
        """Draw the ref's mask on the current matplotlib axes."""
        from refer.show import show_mask

        show_mask(self, ref)

    # Helpers.

    def _of_annotation(self, ann_id: Id, key: str) -> Any:
        """A value of an annotation, which is left unparsed."""
        try:
            return self.Anns[ann_id].peek(key)
        except KeyError:
            raise DataFileError(
                f"{self.instances_path}: annotation {ann_id!r} has no {key!r}"
            ) from None

    def _box(self, ann_id: Id) -> list[float]:
        where = f"{self.instances_path}: annotation {ann_id!r}"
        return checked_box(self._of_annotation(ann_id, "bbox"), where)

    def _check_picture(self, ref: Ref, ann_id: Id) -> None:
        """Raises DataFileError where an outline of one picture would be drawn on another."""
        own = self.Anns[ann_id]["image_id"]
        if own != ref["image_id"]:
            raise DataFileError(
                f"{self.refs_path}: ref {ref['ref_id']!r} is of image {ref['image_id']!r}, and its "
                f"annotation {ann_id!r} in {self.instances_path} of image {own!r}; take both files "
                "from the same download"
            )

    def _labels(self, split: str) -> set[str]:
        """The split labels in the file that the split `split` takes in."""
        labels = {label for label in self.splits if split_matches(split, label)}
        if not labels:
            raise UnknownNameError(
                f"{self.refs_path} has no split {split!r}; it has: {', '.join(self.splits)}"
            )
        return labels

    def _known(self, ids: Ids, index: dict[Id, Any], kind: str) -> list[Id]:
        """`ids` as a list, each of them a key of `index`."""
        single = isinstance(ids, str) or not isinstance(ids, Iterable)
        listed: list[Any] = [ids] if single else list(ids)  # type: ignore[arg-type]
        for one in listed:
            if not isinstance(one, Hashable) or one not in index:
                raise UnknownIdError(
                    f"no {kind} {one!r} among the {len(index)} of {self.dataset} ({self.splitBy})"
                )
        return listed


def _where(records: list[Any], key: str, values: set[Any]) -> list[Any]:
    """The records whose `key` is one of `values`; all of them when there are no values."""
    return [record for record in records if record[key] in values] if values else records


def _grouped(records: list[Any], key: str) -> dict[Id, list[Any]]:
    groups: dict[Id, list[Any]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups
