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

from refer.boxes import hull, to_shares
from refer.catalog import split_matches
from refer.datasets.source import Item
from refer.errors import DataFileError, MissingDataError, PictureError, UnknownNameError
from refer.options import check_option
from refer.pictures import open_annotated
from refer.readers.phrases import PhraseRecord, load_phrases
from refer.transforms import as_size, resize_picture

Group = Literal["caption", "picture"]
Root = str | os.PathLike[str]


class PhraseDataset(Dataset[Item]):
    """The captions of some splits in file order; phrases without a box are left out of the items,
    and captions without any other phrase with them.

    An item is a dict of
        image              uint8 [3, H, W], RGB, squashed to `size`
        image_id           int or str
        file_name          str
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

    Args:
        files: one or more files in the common format, read as one; ids must differ.
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

    There is no limit to the phrases of a caption and nothing is cut or padded: that is up to
    whoever turns words into tokens.

    Raises the errors of `refer`, which name file, record and cure, when built (options, missing
    pictures, a split without phrases) or when indexed (damaged pictures).
    """

    def __init__(
        self,
        files: Root | Sequence[Root],
        image_root: Root | Mapping[str, Root],
        split: str | Sequence[str],
        size: int | Sequence[int] = 512,
        group: Group = "caption",
        transform: Callable[[Item], Item] | None = None,
        keep_in_memory: bool = False,
    ) -> None:
        check_option("group", group, Group)
        self.size, self.transform = as_size(size), transform
        self.splits = (split,) if isinstance(split, str) else tuple(split)
        paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(f) for f in files]
        self.records = _of_splits(paths, self.splits)
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
        item = {
            "image": self._image(first),
            "image_id": first.image_id,
            "file_name": first.file_name,
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
        return item if self.transform is None else self.transform(item)

    def _image(self, record: PhraseRecord) -> Tensor:
        path = self._paths[record.id]
        if self._kept is None:
            return self._read_image(path, record)
        if path not in self._kept:
            self._kept[path] = self._read_image(path, record)
        return self._kept[path]

    def _read_image(self, path: Path, record: PhraseRecord) -> Tensor:
        try:
            opened = open_annotated(path, record.height, record.width)
        except (PictureError, MissingDataError) as error:
            raise type(error)(f"{error} (record {record.id!r})") from error
        return resize_picture(opened, self.size)


def _of_splits(paths: Sequence[Path], splits: Sequence[str]) -> list[PhraseRecord]:
    """The records of these splits that have a phrase with a box. Each split must have some: one
    that no record is labelled with is a mistake, not an empty data set."""
    found: dict[str, PhraseRecord] = {}
    met: set[str] = set()
    labels: dict[str, None] = {}
    for path in paths:
        for record in load_phrases(path).records:
            labels[record.split] = None
            matched = [split for split in splits if split_matches(split, record.split)]
            if not matched or not record.scored():
                continue
            if record.id in found:
                raise DataFileError(f"{path}: record {record.id!r} is in an earlier file already")
            met.update(matched)
            found[record.id] = record
    missing = [split for split in splits if split not in met]
    if missing or not splits:
        raise UnknownNameError(
            f"no phrases with boxes of split {', '.join(map(repr, missing))} in "
            f"{', '.join(map(str, paths))}; labels there: {', '.join(labels)}"
        )
    return list(found.values())


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
