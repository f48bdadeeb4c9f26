"""`PhraseDataset`: captions with phrases and boxes, from files in the common phrase format.

Shapes: C captions of an item, S phrases of all of them, M true boxes of a phrase, H W pixels of the
item's picture, H0 W0 of the original.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor
from torch.utils.data import Dataset

from refer import masks as masks_of
from refer.boxes import hull, to_shares
from refer.catalog import split_matches
from refer.datasets.source import Item
from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.options import check_option
from refer.pictures import open_annotated
from refer.readers.phrases import PhraseRecord, load_phrases
from refer.transforms import as_size, resize_mask, resize_picture

Group = Literal["caption", "picture"]
Root = str | os.PathLike[str]


class PhraseDataset(Dataset[Item]):
    """The captions of some splits in file order; phrases without a box are left out of the items,
    and captions without any other phrase with them.

    An item is a dict of
        image              uint8 [3, H, W], RGB, squashed to `size`
        image_id           int or str
        file_name          str
        picture            str, its path, which is another for every picture of a mixture
        original_size      (H0, W0)
        captions           C strings, whole; one with `group` 'caption'
        ids                C strings, the records' ids
        caption_of_phrase  int64 [S], which of the C captions
        spans              int64 [S, 2], characters [start, end) in its caption
        boxes              float32 [S, 4], cxcywh shares of the picture in [0, 1], of the smallest
                           box around the true ones: what is learned (MERGED-BOX)
        truth              S tensors float64 [M, 4], xyxy in pixels of the original, all true boxes:
                           what is scored
        types              S tuples of str
        keys               S pairs (id, position of the phrase in the record), for the evaluator
        masks              uint8 [S, H, W] in {0, 1}, with `masks`
        content            sha256 (bytes) of the resized pixels, with `content`

    Args:
        files: one or more files in the common format, read as one, or records that are at hand; ids
            must differ.
        image_root: the folder that file names are relative to, or one for each source.
        split: 'train', 'val', ... by the rule of REFER ('test' takes in testA and testB), or
            several, as published recipes train on train and val together.
        size: side of a square, or (H, W), in pixels.
        group: 'caption' makes one item a caption, 'picture' one item a picture with all its
            captions, so that a picture is encoded once.
        transform: called with each finished item; what it returns is the item. It must be picklable
            for worker processes.
        keep_in_memory: keep every resized picture once read, for small sets; each worker process
            has its own.
        masks: items hold masks; phrases without one are refused.
        content: items hold the digest by which latents are kept on disk.

    There is no limit to the phrases of a caption and nothing is cut or padded: that is up to
    whoever turns words into tokens.

    Raises the errors of `refer`, which name file, record and cure, when built (options, missing
    pictures, a split without phrases) or when indexed (damaged pictures).
    """

    def __init__(
        self,
        files: Root | Sequence[Root | PhraseRecord],
        image_root: Root | Mapping[str, Root],
        split: str | Sequence[str],
        size: int | Sequence[int] = 512,
        group: Group = "caption",
        transform: Callable[[Item], Item] | None = None,
        keep_in_memory: bool = False,
        masks: bool = False,
        content: bool = False,
    ) -> None:
        check_option("group", group, Group)
        self.size, self.transform = as_size(size), transform
        self.splits = (split,) if isinstance(split, str) else tuple(split)
        self.masks, self.content = masks, content
        sources = [files] if isinstance(files, str | os.PathLike) else list(files)
        self.records = _of_splits(sources, self.splits)
        if masks:
            _check_masks(self.records)
        self._kept: dict[Path, Tensor] | None = {} if keep_in_memory else None
        self._paths = _picture_paths(self.records, image_root)
        groups: dict[Any, list[PhraseRecord]] = {}
        for record in self.records:
            key = record.id if group == "caption" else self._paths[record.id]
            own = groups.setdefault(key, [record])
            if own[0] is record:
                continue
            if (own[0].width, own[0].height) != (record.width, record.height):
                raise DataFileError(
                    f"records {own[0].id!r} and {record.id!r} give {record.file_name} the sizes "
                    f"{own[0].width} x {own[0].height} and {record.width} x {record.height}"
                )
            own.append(record)
        self._groups = list(groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def split(self) -> str:
        """The split, or several joined by '+'."""
        return "+".join(self.splits)

    @property
    def pictures(self) -> list[str]:
        """The path of each item's picture: what items of one picture have in common."""
        return [str(self._paths[records[0].id]) for records in self._groups]

    def set_epoch(self, epoch: int) -> None:
        """Nothing here is drawn anew each epoch."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(id, position) of every phrase: what an evaluation of all items is expected to hold."""
        return [key for record in self.records for key in record.scored()]

    @cached_property
    def data_hash(self) -> str:
        """sha256 (hex) of the records of the splits: ids, captions, spans, boxes, file names.

        It depends neither on their order, nor on how they are asked (size, group), nor on where
        the pictures lie.
        """
        digest = hashlib.sha256()
        for record in sorted(self.records, key=lambda record: record.id):
            digest.update(msgspec.json.encode(record) + b"\n")
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Item:
        records = self._groups[index]
        first = records[0]
        asked = [
            (row, record, position)
            for row, record in enumerate(records)
            for _, position in record.scored()
        ]
        phrases = [record.phrases[position] for _, record, position in asked]
        truth = [torch.tensor(phrase.boxes, dtype=torch.float64) for phrase in phrases]
        around = torch.stack([hull(boxes) for boxes in truth])
        image = self._image(first)
        item: Item = {
            "image": image,
            "image_id": first.image_id,
            "file_name": first.file_name,
            "picture": str(self._paths[first.id]),
            "original_size": (first.height, first.width),
            "captions": [record.caption for record in records],
            "ids": [record.id for record in records],
            "caption_of_phrase": torch.tensor([row for row, _, _ in asked], dtype=torch.int64),
            "spans": torch.tensor([[p.start, p.end] for p in phrases], dtype=torch.int64),
            # Divided in float64 and rounded once.
            "boxes": to_shares(around, first.height, first.width).to(torch.float32),
            "truth": truth,
            "types": [phrase.types for phrase in phrases],
            "keys": [(record.id, position) for _, record, position in asked],
        }
        if self.masks:
            item["masks"] = torch.stack([self._mask(record, p) for _, record, p in asked])
        if self.transform is not None:
            item = self.transform(item)
        if self.content:  # of what the model will see, whatever the transform did
            item["content"] = hashlib.sha256(item["image"].numpy().tobytes()).digest()
        return item

    def _image(self, record: PhraseRecord) -> Tensor:
        path = self._paths[record.id]
        if self._kept is None:
            return self._read_image(path, record)
        if path not in self._kept:
            self._kept[path] = self._read_image(path, record)
        return self._kept[path]

    def _mask(self, record: PhraseRecord, position: int) -> Tensor:
        rle = {"size": [record.height, record.width], "counts": record.phrases[position].mask}
        where = f"record {record.id!r}, phrase {position}"
        own = masks_of.decode(rle, record.height, record.width, where=where)
        return torch.from_numpy(resize_mask(own, self.size).copy())

    def _read_image(self, path: Path, record: PhraseRecord) -> Tensor:
        try:
            opened = open_annotated(path, record.height, record.width)
        except (PictureError, MissingDataError) as error:
            raise type(error)(f"{error} (record {record.id!r})") from error
        return resize_picture(opened, self.size)


def _of_splits(sources: Sequence[Root | PhraseRecord], splits: Sequence[str]) -> list[PhraseRecord]:
    """The records of these splits that have a phrase with a box. Each split must have some: one
    that no record is labelled with is a mistake, not an empty data set."""
    found: dict[str, PhraseRecord] = {}
    met: set[str] = set()
    labels: dict[str, None] = {}
    places: dict[str, None] = {}
    for source in sources:
        at_hand = isinstance(source, PhraseRecord)
        place = source.source if isinstance(source, PhraseRecord) else str(source)
        places[place] = None
        own = [source] if isinstance(source, PhraseRecord) else load_phrases(Path(source)).records
        for record in own:
            labels[record.split] = None
            matched = [split for split in splits if split_matches(split, record.split)]
            if not matched or not record.scored():
                continue
            if record.id in found:
                where = "came before" if at_hand else "is in an earlier file already"
                raise DataFileError(f"{place}: record {record.id!r} {where}")
            met.update(matched)
            found[record.id] = record
    missing = [split for split in splits if split not in met]
    if missing or not splits:
        raise UnknownNameError(
            f"no phrases with boxes of split {', '.join(map(repr, missing))} in "
            f"{', '.join(places)}; labels there: {', '.join(labels)}"
        )
    return list(found.values())


def _check_masks(records: Sequence[PhraseRecord]) -> None:
    for record in records:
        for _, position in record.scored():
            if record.phrases[position].mask is None:
                raise DataFileError(
                    f"record {record.id!r}, phrase {position} has no mask; convert with masks "
                    "(tools/phrases_convert.py refer ... --masks), or train boxes alone "
                    "(model.head.answers='boxes')"
                )


def _picture_paths(
    records: Sequence[PhraseRecord], image_root: Root | Mapping[str, Root]
) -> dict[str, Path]:
    """Record id -> path of a picture that exists."""
    known: dict[tuple[str, str], Path] = {}
    paths: dict[str, Path] = {}
    for record in records:
        key = record.source, record.file_name
        if key not in known:
            if not isinstance(image_root, Mapping):
                root = image_root
            elif record.source in image_root:
                root = image_root[record.source]
            else:
                raise UnknownNameError(
                    f"image_root has no folder for source {record.source!r}, only for "
                    f"{', '.join(image_root)}"
                )
            path = Path(root) / record.file_name
            if not path.is_file():
                raise MissingDataError(
                    f"no picture {path} (record {record.id!r}); put it there, or give the folder "
                    f"that {record.file_name!r} is relative to as image_root"
                )
            known[key] = path
        paths[record.id] = known[key]
    return paths
