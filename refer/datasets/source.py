"""What both data sets share: the refs of a split, their masks and pictures, and the data hash.

Shapes: H W pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from refer import masks
from refer.api import REFER
from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.grefer import G_REFER, is_crowd
from refer.official import NEVER, path_of
from refer.options import DrawnAt, OverlapRule, check_option
from refer.pictures import open_annotated, picture_size
from refer.readers.instances import Annotation, checked_box
from refer.sentences import (
    OnEmpty,
    Sentence,
    SentenceMode,
    choose,
    sentences_of,
    whole_number,
)
from refer.transforms import as_size, resize_mask, resize_picture

_log = logging.getLogger(__name__)
Item = dict[str, Any]
TextField = Literal["sent", "raw"]


class Picture(NamedTuple):
    """A picture: its id, the name in its record, its file, the size its annotations are for."""

    image_id: int
    file_name: str
    path: Path
    height: int
    width: int


class Ref(NamedTuple):
    """What is referred to (one object; in generalized data sets several or none), and how."""

    ref_id: int
    picture: Picture
    targets: tuple[Annotation, ...]
    sentences: tuple[Sentence, ...]


class ReferSplit(Dataset[Item]):
    """The refs of one split. Base of `RefDataset` and `PictureDataset`, which explain the options.

    Only what the split needs is kept, not the whole REFER, so that spawned workers start fast.
    """

    def __init__(
        self,
        refer: REFER,
        split: str,
        size: int | Sequence[int],
        sentence_mode: SentenceMode,
        overlap: OverlapRule,
        text_field: TextField,
        seed: int,
        on_empty: OnEmpty,
        transform: Callable[[Item], Item] | None,
        keep_in_memory: bool = False,
        drawn_at: DrawnAt = "original",
    ) -> None:
        check_option("drawn_at", drawn_at, DrawnAt)
        check_option("sentence_mode", sentence_mode, SentenceMode)
        check_option("overlap", overlap, OverlapRule)
        check_option("text_field", text_field, TextField)
        check_option("on_empty", on_empty, OnEmpty)
        self.split, self.size = split, as_size(size)
        self.sentence_mode, self.overlap, self.seed = sentence_mode, overlap, seed
        self.drawn_at, self.transform = drawn_at, transform
        self._kept: dict[Path | int, Tensor] | None = {} if keep_in_memory else None
        self.general = isinstance(refer, G_REFER)
        self.dataset = str(refer.data["dataset"])
        self.instances_path = str(refer.instances_path)
        self.refs = _refs_of(refer, split, text_field, on_empty)
        if not self.refs:
            raise UnknownNameError(f"split {split!r} of {refer.data['dataset']} holds no sentences")
        # In shared memory, so that workers that outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the random sentences of this epoch from now on; running workers follow."""
        self._epoch.fill_(epoch)

    @cached_property
    def data_hash(self) -> str:
        """sha256 (hex) of the split's ref ids, sentences, annotation ids, file names and sizes.

        It depends neither on how they are asked (size, sentence mode, overlap rule, which data
        set), nor on the order of the ref file, nor on where the pictures lie.
        """
        digest = hashlib.sha256()
        for ref in sorted(self.refs, key=lambda ref: ref.ref_id):
            picture = ref.picture
            asked = [(sentence.sent_id, sentence.text) for sentence in ref.sentences]
            drawn = [picture.file_name, picture.height, picture.width]
            ids = [target["id"] for target in ref.targets]
            line = json.dumps([ref.ref_id, ids if self.general else ids[0], *drawn, asked])
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def asked(self, ref: Ref) -> tuple[Sentence, ...]:
        """The sentences that this data set asks of `ref` in the current epoch."""
        epoch = int(self._epoch)
        return choose(ref.sentences, self.sentence_mode, ref.ref_id, self.seed, epoch)

    def mask(self, ref: Ref) -> Tensor:
        """Mask of a ref at the data set's size: uint8 [H, W] in {0, 1}. Raises DataFileError."""
        return self._keep(ref.ref_id, lambda: self._read_mask(ref))

    def image(self, ref: Ref) -> Tensor:
        """Picture of a ref at the data set's size: uint8 [3, H, W], RGB.

        Raises PictureError or MissingDataError, naming the file, the picture and the ref.
        """
        return self._keep(ref.picture.path, lambda: self._read_image(ref))

    def _drawn(self, ref: Ref) -> list[Annotation]:
        """The targets that make mask and boxes: as `G_REFER.getMaskByRef` and gRefCOCO's loaders
        have it, a crowd counts as a target and is not drawn."""
        return [one for one in ref.targets if not (self.general and is_crowd(one))]

    def _keep(self, key: Path | int, read: Callable[[], Tensor]) -> Tensor:
        if self._kept is None:
            return read()
        if key not in self._kept:
            self._kept[key] = read()
        return self._kept[key]

    def _read_mask(self, ref: Ref) -> Tensor:
        picture = ref.picture
        union = np.zeros(self.size, np.uint8)
        for target in self._drawn(ref):
            parts, where = self._outline(ref, target)
            native = picture.height, picture.width
            if self.drawn_at == "input":
                union |= masks.decode_at(parts, *native, self.size, self.overlap, where)
            else:
                own = masks.decode(parts, *native, self.overlap, where)
                union |= resize_mask(own, self.size)
        return torch.from_numpy(union)

    def _outline(self, ref: Ref, target: Annotation) -> tuple[Any, str]:
        """A target's segmentation, and what to call it in an error."""
        where = f"{self.instances_path}: ref {ref.ref_id}, annotation {target['id']!r}"
        try:
            # Any other way would keep it parsed in memory.
            return target.peek("segmentation"), where
        except KeyError:
            raise DataFileError(f"{where} has no segmentation; a mask needs one") from None

    def check(self) -> None:
        """Find now what would otherwise stop a run when its turn comes: outlines that cannot be
        drawn, and pictures of another size than they were annotated at, by their files' heads.

        Raises DataFileError, PictureError or MissingDataError, as reading the item would.
        """
        seen: set[Path] = set()
        for ref in self.refs:
            picture = ref.picture
            for target in self._drawn(ref):
                masks.to_rles(*self._sized(ref, target))
            if picture.path in seen:
                continue
            seen.add(picture.path)
            found, wanted = picture_size(picture.path), (picture.width, picture.height)
            if sorted(found) != sorted(wanted):  # turned by EXIF they may be
                raise PictureError(
                    f"{picture.path} has {found[0]} x {found[1]} pixels, its annotations in "
                    f"{self.instances_path} are for {wanted[0]} x {wanted[1]} (ref {ref.ref_id}, "
                    f"image {picture.image_id}); fetch the picture again, or correct its record"
                )

    def _sized(self, ref: Ref, target: Annotation) -> tuple[Any, int, int, str]:
        parts, where = self._outline(ref, target)
        return parts, ref.picture.height, ref.picture.width, where

    def boxes(self, ref: Ref) -> Tensor:
        """Boxes of a ref's targets, float [M, 4] xyxy in pixels of the picture, in generalized data
        sets without crowds. Raises DataFileError for a target without one."""
        found = []
        for target in self._drawn(ref):
            where = f"{self.instances_path}: ref {ref.ref_id}, annotation {target['id']!r}"
            try:
                given = target.peek("bbox")
            except KeyError:
                raise DataFileError(f"{where} has no bbox [x, y, w, h]") from None
            x, y, width, height = checked_box(given, where)
            found.append([x, y, x + width, y + height])
        return torch.tensor(found, dtype=torch.float64).reshape(-1, 4)

    def _read_image(self, ref: Ref) -> Tensor:
        picture = ref.picture
        try:
            opened = open_annotated(picture.path, picture.height, picture.width)
        except (PictureError, MissingDataError) as error:
            raise type(error)(f"{error} (ref {ref.ref_id}, image {picture.image_id})") from error
        return resize_picture(opened, self.size)

    def finish(self, item: Item) -> Item:
        """The item after the user's transform."""
        return item if self.transform is None else self.transform(item)


def _refs_of(refer: REFER, split: str, text_field: str, on_empty: OnEmpty) -> list[Ref]:
    """Refs of a split in file order, with a sentence at least. A missing picture raises here, not
    in the middle of an epoch; one that nobody can have is left out with its refs."""
    pictures: dict[Any, Picture | None] = {}
    refs, left_out = [], 0
    for record in refer.loadRefs(refer.getRefIds(split=split)):
        try:
            sentences = sentences_of(record, text_field, on_empty)
        except DataFileError as error:
            raise DataFileError(f"{refer.refs_path}: {error}") from error
        if not sentences:
            continue
        image_id = record["image_id"]
        if image_id not in pictures:
            image = refer.Imgs[image_id]
            path = path_of(refer, image_id)
            number = whole_number(image_id, "image_id", record)
            pictures[image_id] = (
                None
                if path is None
                else Picture(number, image["file_name"], path, image["height"], image["width"])
            )
        picture = pictures[image_id]
        if picture is None:
            left_out += 1
            continue
        ref_id = whole_number(record["ref_id"], "ref_id", record)
        ids = record["ann_id"] if isinstance(refer, G_REFER) else [record["ann_id"]]
        targets = tuple(refer.Anns[i] for i in ids if refer.Anns[i] is not None)
        refs.append(Ref(ref_id, picture, targets, sentences))
    if left_out:
        _log.warning("%s %s: %d refs left out, %s", refer.dataset, split, left_out, NEVER)
    return refs
