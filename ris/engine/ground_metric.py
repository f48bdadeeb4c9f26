"""`refer.evaluation`'s grounding evaluator, and that of masks, as an mmengine metric.

Shapes: S phrases of a batch, H W pixels of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refer.boxes import to_pixels
from refer.evaluation import (
    GroundingEvaluator,
    GroundingProtocol,
    ResEvaluator,
    ResProtocol,
    grounding_table,
    save_predictions,
    save_records,
    scored_line,
    table,
)
from ris.engine.merging import MergingMetric, OnScores
from ris.engine.metric import counted
from ris.prediction import tight_boxes


class GroundMetric(MergingMetric):
    """Acc@X and mIoU of boxes, and P@X, oIoU and mIoU of masks where the model gives both.

    Its answers are `GroundAnswer`s, one a phrase. Predictions and records are written by the first
    rank, one line a phrase. In the masks' records the ref id is the phrase's place in `keys`.

    Args:
        boxes: how boxes become scores.
        masks: how masks do, or None.
        keys: (id, position) of every phrase of the split: each must be answered, and no other.
        folder: where the files go.
        keep_masks: also keep each predicted mask as COCO RLE.
        clamp: cut boxes at the picture's edges first (TransVG does, RefTR does not).
        header, on_scores: as for `MergingMetric`.
    """

    def __init__(
        self,
        boxes: GroundingProtocol,
        masks: ResProtocol | None,
        header: dict[str, Any],
        keys: Sequence[tuple[str, int]],
        folder: Path,
        *,
        keep_masks: bool = False,
        clamp: bool = False,
        on_scores: OnScores | None = None,
    ) -> None:
        self.protocols, self.keys, self.folder = (boxes, masks), keys, folder
        self.places = {key: place for place, key in enumerate(keys)}
        self.keep_masks, self.clamp = keep_masks, clamp
        super().__init__({**header, "clamp": clamp}, on_scores)

    def _fresh(self) -> None:
        boxes, masks = self.protocols
        self.boxes = GroundingEvaluator(boxes)
        self.masks = None if masks is None else ResEvaluator(masks)
        self._found: dict[str, Any] = {}
        self._drawn: dict[str, Any] | None = None

    def _collect(self, batch: Any, answers: list[Any]) -> dict[str, Any]:
        picture = batch["picture_index"][batch["caption_of_phrase"]].tolist()
        kept = {
            "sizes": [batch["original_sizes"][place] for place in picture],
            **{name: batch[name] for name in ("keys", "types")},
            # As numbers: a tensor from a worker holds a file descriptor for as long as it lives.
            "truth": [boxes.tolist() for boxes in batch["truth"]],
        }
        if answers and answers[0].box is not None:
            kept["boxes"] = torch.stack([answer.box for answer in answers]).double()
        if answers and answers[0].probability is not None:
            pred = torch.stack([answer.probability for answer in answers]) > 0.5
            truth = batch["masks"].to(pred.device, non_blocking=True).bool()
            kept["counts"] = counted(pred, truth)
            if self.keep_masks or "boxes" not in kept:  # as pixels, for the host
                kept["masks"] = pred.cpu()
        return kept

    def _read(self, pending: list[Any]) -> None:
        for kept in pending:
            self._read_one(kept)

    def _read_one(self, kept: dict[str, Any]) -> None:
        boxes, masks = kept.get("boxes"), kept.get("masks")
        boxes = None if boxes is None else boxes.cpu()
        if "counts" in kept and self.masks is not None:
            both, either, found, true = kept["counts"].tolist()
            self.masks.update_counts(
                both,
                either,
                found,
                true,
                ref_ids=[self.places[key] for key in kept["keys"]],
                sent_ids=[0] * len(kept["keys"]),
                masks=masks.numpy() if self.keep_masks and masks is not None else None,
            )
        for index, key in enumerate(kept["keys"]):
            self.boxes.update(
                key[0],
                self._box(
                    None if boxes is None else boxes[index],
                    None if masks is None else masks[index],
                    kept["sizes"][index],
                ),
                torch.tensor(kept["truth"][index], dtype=torch.float64).reshape(-1, 4),
                phrase=key[1],
                types=kept["types"][index],
            )

    def _box(self, box: Tensor | None, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """xyxy [1, 4] in pixels of the picture; of a model without boxes, the mask's tight box, and
        [0, 4] where the mask is empty."""
        height, width = size
        if box is not None:
            found = to_pixels(box.double(), height, width)[None]
        else:
            assert mask is not None
            tight = torch.from_numpy(tight_boxes(mask[None].cpu().numpy())).double()
            own = torch.tensor(mask.shape[::-1]).repeat(2)
            scale = torch.tensor([width, height, width, height]) / own
            found = tight[~tight.isnan().any(dim=1)] * scale
        if self.clamp:
            edges = torch.tensor([width, height, width, height], dtype=found.dtype)
            found = torch.minimum(found.clamp(min=0), edges)
        return found

    def _state(self) -> Any:
        return self.boxes.state(), self.masks and self.masks.state()

    def _merge(self, states: list[Any]) -> None:
        boxes, masks = self.protocols
        self._fresh()
        for own, drawn in states:
            self.boxes.merge(GroundingEvaluator.from_state(boxes, own))
            if self.masks is not None and masks is not None:
                self.masks.merge(ResEvaluator.from_state(masks, drawn))

    def _score(self) -> dict[str, Any]:
        self._found = self.boxes.compute(self.keys)
        self._drawn = None if self.masks is None else self.masks.compute()
        accuracy = f"Acc@{self.boxes.protocol.threshold:g}"
        boxes = {accuracy: self._found[accuracy], "box_mIoU": self._found["mIoU"]}
        return {**(self._drawn or {}), **boxes, "n_items": self._found["n_items"]}

    def _write(self, scores: dict[str, Any]) -> None:
        split = str(self.header["split"])
        save_predictions(self.folder / f"boxes_{split}.jsonl", self.boxes, self.header)
        print(grounding_table([(split, self._found)], self.boxes.protocol, by_type=True))
        if self.masks is not None and self._drawn is not None:
            path = self.folder / f"records_{split}.jsonl"
            save_records(path, self.masks.records, self.header, self.masks.protocol)
            print(table([(split, self._drawn)]))
            print(f"protocol {self.masks.protocol.in_words()}")
        print(scored_line(self.header, scores["n_items"]), flush=True)
