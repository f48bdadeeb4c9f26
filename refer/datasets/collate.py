"""Items to batches.

Shapes: B items of `RefDataset`; P pictures with R refs and S sentences in all, or with C captions
and S phrases in all; H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from refer.datasets.source import Item

Batch = dict[str, Any]


def collate_refs(items: Sequence[Item]) -> Batch:
    """B items of `RefDataset` to one batch, a dict of

    image uint8 [B, 3, H, W], mask uint8 [B, H, W], lists of B: text, ref_id, sent_id, image_id,
    picture, n_targets (and content, where the items have it); broken, a list of what could not be
    read, is there when something could not.
    """
    stacked = {name: torch.stack([item[name] for item in items]) for name in ("image", "mask")}
    listed = ("text", "ref_id", "sent_id", "image_id", "picture", "n_targets")
    batch = {**stacked, **{name: [item[name] for item in items] for name in listed}}
    if all("content" in item for item in items):
        batch["content"] = [item["content"] for item in items]
    broken = [text for item in items for text in item.get("broken", ())]
    return {**batch, "broken": broken} if broken else batch


def collate_pictures(items: Sequence[Item]) -> Batch:
    """P items of `PictureDataset` to one batch, a dict of

    image           uint8 [P, 3, H, W]
    masks           uint8 [R, H, W]
    text            S strings
    picture_index   int64 [S], which of the P pictures a sentence is asked of
    ref_of_text     int64 [S], which of the R masks it is about
    image_ids, file_names, original_sizes   lists of P
    ref_ids, n_targets                      R ints
    boxes           R tensors [M, 4], where the items have them
    sent_ids, sentence_index                S ints
    """
    before = [0]
    for item in items:
        before.append(before[-1] + len(item["ref_ids"]))
    texts = torch.tensor([len(item["texts"]) for item in items])
    batch = {
        "image": torch.stack([item["image"] for item in items]),
        "masks": torch.cat([item["masks"] for item in items]),
        "text": _joined(items, "texts"),
        "picture_index": torch.repeat_interleave(torch.arange(len(items)), texts),
        "ref_of_text": torch.cat(
            [item["ref_of_text"] + start for item, start in zip(items, before, strict=False)]
        ),
        "image_ids": [item["image_id"] for item in items],
        "file_names": [item["file_name"] for item in items],
        "original_sizes": [item["original_size"] for item in items],
        "ref_ids": _joined(items, "ref_ids"),
        "sent_ids": _joined(items, "sent_ids"),
        "sentence_index": _joined(items, "sentence_index"),
        "n_targets": _joined(items, "n_targets"),
    }
    if all("boxes" in item for item in items):
        batch["boxes"] = _joined(items, "boxes")
    return batch


def collate_phrases(items: Sequence[Item]) -> Batch:
    """P items of `PhraseDataset` to one batch, a dict of

    image              uint8 [P, 3, H, W]
    captions           C strings
    picture_index      int64 [C], which of the P pictures a caption is of
    caption_of_phrase  int64 [S], which of the C captions
    spans              int64 [S, 2]
    boxes              float32 [S, 4]
    truth, types, keys                      lists of S, as in the items
    ids                                     C strings
    image_ids, file_names, pictures (paths), original_sizes   lists of P
    """
    counts = [len(item["captions"]) for item in items]
    before = [sum(counts[:place]) for place in range(len(counts))]
    batch = {
        "image": torch.stack([item["image"] for item in items]),
        "captions": _joined(items, "captions"),
        "picture_index": torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts)),
        "caption_of_phrase": torch.cat(
            [item["caption_of_phrase"] + start for item, start in zip(items, before, strict=True)]
        ),
        "spans": torch.cat([item["spans"] for item in items]),
        "boxes": torch.cat([item["boxes"] for item in items]),
        **{name: _joined(items, name) for name in ("truth", "types", "keys", "ids")},
        "image_ids": [item["image_id"] for item in items],
        "file_names": [item["file_name"] for item in items],
        "pictures": [item["picture"] for item in items],
        "original_sizes": [item["original_size"] for item in items],
    }
    if all("masks" in item for item in items):
        batch["masks"] = torch.cat([item["masks"] for item in items])
    if all("content" in item for item in items):
        batch["content"] = [item["content"] for item in items]
    return batch


def _joined(items: Sequence[Item], name: str) -> list[Any]:
    return [value for item in items for value in item[name]]
