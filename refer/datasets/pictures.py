"""`PictureDataset`: one item a picture with all that is asked of it, so that it is encoded once.

Shapes: R refs of the picture, S sentences of all of them, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from refer.api import REFER
from refer.datasets.source import Item, Ref, ReferSplit, TextField
from refer.options import DrawnAt, OverlapRule
from refer.sentences import OnEmpty, SentenceMode


class PictureDataset(ReferSplit):
    """The pictures of a split, in the order of their first ref in the ref file.

    An item is a dict of
        image           uint8 [3, H, W], RGB, squashed to `size`
        image_id        int
        file_name       str, from the picture's record
        original_size   (H0, W0) of the annotations
        texts           S strings, by ref
        masks           uint8 [R, H, W] in {0, 1}
        ref_of_text     int64 [S], which of the R refs a sentence is about
        ref_ids         R ints
        sent_ids        S ints
        sentence_index  S ints, position of the sentence within its ref
        n_targets       R ints, objects a ref names; 1 but in generalized data sets
        boxes           R tensors float64 [M, 4], theirs; of generalized data sets only

    The options are those of `RefDataset`; `sentence_mode` is 'all' (the published tests), 'first',
    'random' or 'concat'.
    """

    def __init__(
        self,
        refer: REFER,
        split: str,
        size: int | Sequence[int] = 512,
        sentence_mode: SentenceMode = "all",
        overlap: OverlapRule = "union",
        text_field: TextField = "sent",
        seed: int = 0,
        on_empty: OnEmpty = "error",
        transform: Callable[[Item], Item] | None = None,
        keep_in_memory: bool = False,
        drawn_at: DrawnAt = "original",
    ) -> None:
        super().__init__(
            refer,
            split,
            size,
            sentence_mode,
            overlap,
            text_field,
            seed,
            on_empty,
            transform,
            keep_in_memory,
            drawn_at,
        )
        groups: dict[int, list[Ref]] = {}
        for ref in self.refs:
            groups.setdefault(ref.picture.image_id, []).append(ref)
        self._groups = list(groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Item:
        refs = self._groups[index]
        asked = [(row, sentence) for row, ref in enumerate(refs) for sentence in self.asked(ref)]
        picture = refs[0].picture
        item = {
            "image": self.image(refs[0]),
            "image_id": picture.image_id,
            "file_name": picture.file_name,
            "original_size": (picture.height, picture.width),
            "texts": [sentence.text for _, sentence in asked],
            "masks": torch.stack([self.mask(ref) for ref in refs]),
            "ref_of_text": torch.tensor([row for row, _ in asked], dtype=torch.int64),
            "ref_ids": [ref.ref_id for ref in refs],
            "sent_ids": [sentence.sent_id for _, sentence in asked],
            "sentence_index": [sentence.position for _, sentence in asked],
            "n_targets": [len(ref.targets) for ref in refs],
        }
        if self.general:
            item["boxes"] = [self.boxes(ref) for ref in refs]
        return self.finish(item)
