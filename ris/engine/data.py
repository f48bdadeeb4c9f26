"""From a run's settings to REFER, data sets and loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, Dataset

from refer import REFER
from refer.catalog import find_dataset, parts_of
from refer.datasets import (
    MixedRefs,
    PictureDataset,
    RefDataset,
    collate_pictures,
    collate_refs,
)
from refer.grefer import G_REFER
from refer.options import DrawnAt
from ris.engine.sampler import EpochBatches
from ris.engine.signals import LeaveSignalsToTheParent
from ris.errors import OptionError


def open_refer(data: dict[str, Any]) -> list[REFER]:
    """REFER (G_REFER) of every part of the settings' data set; the first is validated on.

    Raises the errors of `refer`, which name path and cure.
    """
    return [
        open_one(data["root"], name, split_by_of(data, name), data.get("image_root"))
        for name in parts_of(data["dataset"])
    ]


def open_one(
    root: str, name: str, split_by: str | None = None, image_root: str | None = None
) -> REFER:
    """REFER, or G_REFER where expressions may name several things or none.

    Raises OptionError for a set of phrases, which has no refs, and the errors of `refer`.
    """
    row = find_dataset(name)
    if row.phrases is not None:
        raise OptionError(
            f"{name} is a file of captions with phrases; this command reads refs and sentences"
        )
    build = G_REFER if row.general else REFER
    return build(root, name, split_by, image_root=image_root)


def split_by_of(data: Mapping[str, Any], name: str) -> str | None:
    """The splitBy that is asked of the data set `name`; None is its own default.

    One that was asked for is that of the first part of a mixture; the others have their default.
    """
    return data.get("split_by") if name == parts_of(data["dataset"])[0] else None


def refs_of(loader: DataLoader[Any]) -> RefDataset | MixedRefs:
    """The data set behind a `train_loader`."""
    return cast(RefDataset | MixedRefs, loader.dataset)


def pictures_of(loader: DataLoader[Any]) -> PictureDataset:
    """The data set behind a `picture_loader`."""
    return cast(PictureDataset, loader.dataset)


def train_loader(refers: Sequence[REFER], settings: dict[str, Any], device: str) -> DataLoader[Any]:
    """Refs in a seeded random order, one random sentence each, one pass over refs an epoch."""
    data = settings["data"]
    parts = [
        RefDataset(
            refer,
            data["train_split"],
            size=data["image_size"],
            sentence_mode=data["train_sentences"],
            overlap=data["overlap"],
            drawn_at=drawn_at(settings),
            text_field=data["text_field"],
            on_empty=data["on_empty"],
            seed=settings["seed"],
            keep_in_memory=data["keep_in_memory"],
            fraction=data["train_fraction"],
            max_broken=data["max_broken"],
            content=settings["model"].get("cache_dir") is not None,
        )
        for refer in refers
    ]
    dataset = parts[0] if len(parts) == 1 else MixedRefs(parts)
    groups: Sequence[Any] | int = len(dataset)
    if data["group_by_picture"]:
        groups = dataset.pictures
    return batched(dataset, groups, settings, device, collate_refs)


def picture_loader(
    refers: Sequence[REFER], split: str, settings: dict[str, Any], device: str
) -> DataLoader[Any]:
    """Pictures of the first data set with all their sentences, each on one rank only."""
    data = settings["data"]
    dataset = PictureDataset(
        refers[0],
        split,
        size=data["image_size"],
        sentence_mode=data["eval_sentences"],
        overlap=data["overlap"],
        drawn_at=drawn_at(settings),
        text_field=data["text_field"],
        on_empty=data["on_empty"],
        keep_in_memory=data["keep_in_memory"],
    )
    return one_by_one(dataset, settings, device, collate_pictures)


def drawn_at(settings: Mapping[str, Any]) -> DrawnAt:
    """Where outlines are drawn: ReLA's tasks say it, and VPD's have one way."""
    found: DrawnAt = settings.get("gres", {}).get("drawn_at", "original")
    return found


def batched(
    dataset: Dataset[Any],
    groups: Sequence[Any] | int,
    settings: dict[str, Any],
    device: str,
    collate: Callable[..., Any],
) -> DataLoader[Any]:
    """A training loader; `groups` as for `EpochBatches`, of every item of the data set."""
    batches = EpochBatches(groups, settings["schedule"]["batch_size"], settings["seed"])
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        **_workers(settings["data"], device),
    )


def one_by_one(
    dataset: Dataset[Any], settings: dict[str, Any], device: str, collate: Callable[..., Any]
) -> DataLoader[Any]:
    """An evaluation loader, `eval_pictures` items at a time, each on one rank only."""
    return DataLoader(
        dataset,
        batch_size=settings["data"]["eval_pictures"],
        sampler=DefaultSampler(dataset, shuffle=False, round_up=False),
        collate_fn=collate,
        **_workers(settings["data"], device),
    )


@contextmanager
def workers_end(*loaders: DataLoader[Any]) -> Iterator[None]:
    """The loaders' worker processes end with the block, however it is left. At the end of Python
    torch gives each of them five seconds before it loses patience."""
    try:
        yield
    finally:
        for loader in loaders:
            iterator, loader._iterator = loader._iterator, None
            heed = loader.worker_init_fn
            if iterator is None or not isinstance(heed, LeaveSignalsToTheParent):
                continue  # no persistent workers
            heed.obey(True)  # one that hangs is told so by SIGTERM
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            heed.obey(False)


def _workers(data: dict[str, Any], device: str) -> dict[str, Any]:
    return {
        "num_workers": data["workers"],
        "persistent_workers": data["workers"] > 0,
        "pin_memory": device == "cuda",
        "timeout": data["loader_timeout"] if data["workers"] else 0,
        "worker_init_fn": LeaveSignalsToTheParent() if data["workers"] else None,
        # Of its own: else each new iterator would draw from the run's random state.
        "generator": torch.Generator(),
    }
