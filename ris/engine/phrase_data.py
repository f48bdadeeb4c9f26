"""From a run's settings to phrases, their data sets and loaders.

Whatever the source, phrases are records of the common format: REFER's data sets (a sentence is a
caption that is one phrase), RefShapes' captions, or files that tools/phrases_convert.py wrote: the
catalog's of a data set, or those of `data.phrases`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from torch.utils.data import DataLoader

from refer import REFER
from refer.catalog import DataSet, find_dataset, parts_of
from refer.datasets import PhraseDataset, collate_phrases
from refer.errors import DataFileError, MissingDataError
from refer.official import NEVER, path_of
from refer.options import check_option
from refer.readers.phrases import PhraseRecord, load_phrases
from refer.readers.refer_phrases import refer_phrases
from refer.readers.shapes_phrases import shapes_phrases
from refer.sentences import SKIP, OnEmpty
from ris.engine.data import batched, one_by_one, split_by_of
from ris.errors import OptionError

_log = logging.getLogger(__name__)


def open_phrases(data: dict[str, Any]) -> list[REFER]:
    """Nothing is kept open; phrases are read when a loader is made."""
    return []


def phrases_of(loader: DataLoader[Any]) -> PhraseDataset:
    """The data set behind a loader of this module."""
    return cast(PhraseDataset, loader.dataset)


def train_phrases(_: Any, settings: dict[str, Any], device: str) -> DataLoader[Any]:
    """Captions in a seeded random order; an epoch is one pass over captions, as RefTR's is over
    sentences."""
    data = settings["data"]
    for name in ("train_fraction", "max_broken"):
        if data[name] != (1.0 if name == "train_fraction" else 0):
            raise OptionError(
                f"data.{name} is for tasks res, gres and grec; leave it at its default"
            )
    split = data["train_split"]
    dataset = _dataset(settings, data["dataset"], split, "caption")
    groups = dataset.pictures if data["group_by_picture"] else len(dataset)
    return batched(dataset, groups, settings, device, collate_phrases)


def val_phrases(_: Any, split: str, settings: dict[str, Any], device: str) -> DataLoader[Any]:
    """Pictures with all their captions, each on one rank only; of `data.val_dataset`, if given."""
    data = settings["data"]
    if data["eval_sentences"] != "all":
        raise OptionError("grounding scores all sentences; leave data.eval_sentences at 'all'")
    name = data.get("val_dataset") or data["dataset"]
    dataset = _dataset(settings, name, split, "picture")
    return one_by_one(dataset, settings, device, collate_phrases)


def _dataset(
    settings: dict[str, Any], name: str, split: str | list[str], group: Any
) -> PhraseDataset:
    """The phrases of a set, or of a mixture of several ('flickr30k+refcoco')."""
    data = settings["data"]
    masks = settings["model"]["head"].get("answers", "boxes") != "boxes"
    splits = [split] if isinstance(split, str) else list(split)
    records: list[PhraseRecord] = []
    folders: dict[str, Path] = {}
    for part in parts_of(name):
        row = find_dataset(part)
        given = files_of(data, part)
        if not given and row.phrases is None:
            own, places = _of_refer(data, row, splits, masks)
        else:
            if given:
                own = [record for file in given for record in load_phrases(Path(file)).records]
            else:
                assert row.phrases is not None
                own = _of_file(Path(data["root"]) / row.phrases, row, masks)
            places = dict.fromkeys({record.source for record in own}, _pictures(data, row))
        records += own
        folders |= places
    return PhraseDataset(
        records,
        folders,
        splits,
        data["image_size"],
        group,
        keep_in_memory=data["keep_in_memory"],
        masks=masks,
        content=group == "caption" and settings["model"].get("cache_dir") is not None,
    )


def files_of(data: Mapping[str, Any], name: str) -> list[str]:
    """The files that `data.phrases` has the data set `name` read from, none for its own ones.

    They are those of the first part of a mixture, as a splitBy is.
    """
    given = data.get("phrases")
    if not given or name != parts_of(data["dataset"])[0]:
        return []
    return [given] if isinstance(given, str) else list(given)


def _of_file(path: Path, row: DataSet, masks: bool) -> list[PhraseRecord]:
    if path.name == "phrases.json":  # RefShapes' own, which needs no conversion
        return list(shapes_phrases(path.parent, masks=masks))
    if not path.is_file():
        raise MissingDataError(f"no phrases at {path}; {row.cure}")
    return load_phrases(path).records


def _of_refer(
    data: Mapping[str, Any], row: DataSet, splits: list[str], masks: bool
) -> tuple[list[PhraseRecord], dict[str, Path]]:
    """Records of a REFER data set with the pictures' names as they are on disk, and where."""
    split_by = split_by_of(data, row.name)
    refer = REFER(data["root"], row.name, split_by, image_root=data.get("image_root"))

    def found() -> Iterator[PhraseRecord]:
        for split in splits:
            yield from refer_phrases(
                refer,
                split,
                data["text_field"],
                data.get("box_values", "float"),
                notes=notes,
                masks=data["overlap"] if masks else None,
            )

    check_option("on_empty", data["on_empty"], OnEmpty)
    records, folders, left_out = [], {}, 0
    notes: Counter[str] = Counter()
    paths: dict[int | str, Path | None] = {}
    for record in found():
        if record.image_id not in paths:
            paths[record.image_id] = path_of(refer, record.image_id)
        path = paths[record.image_id]
        if path is None:
            left_out += 1
            continue
        folders[record.source] = path.parent
        records.append(msgspec.structs.replace(record, file_name=path.name))
    if (blank := notes["empty sentences left out"]) and data["on_empty"] == "error":
        raise DataFileError(
            f"{refer.refs_path}: {blank} sentences of {', '.join(splits)} are empty; correct the "
            f"ref file (tools/prepare_data.py names them), or leave them out with {SKIP}"
        )
    if empty := notes["empty boxes dropped"]:
        what = (
            f"{refer.refs_path}: the true boxes of {empty} refs of {', '.join(splits)} are empty "
        )
        what += "or outside of their picture, and no box can meet them"
        if data["on_empty"] == "error":
            raise DataFileError(f"{what}; correct instances.json, or leave them out with {SKIP}")
        _log.warning("%s; they are left out", what)
    if left_out:
        _log.warning("%s: %d expressions left out, %s", row.name, left_out, NEVER)
    return records, folders


def _pictures(data: Mapping[str, Any], row: DataSet) -> Path:
    """The picture folder of a set of phrases. Raises MissingDataError."""
    if data.get("image_root"):
        return Path(data["image_root"])
    places = [Path(data["root"]) / folder for folder in row.image_folders]
    for place in places:
        if place.is_dir():
            return place
    raise MissingDataError(
        f"no pictures of {row.name} in {', '.join(map(str, places))}; put {row.image_source} into "
        "one of them, or name their folder with --image_root"
    )
