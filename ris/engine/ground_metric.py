"""`refer.evaluation`'s grounding and RES evaluators as one mmengine metric over all processes.

Shapes: S phrases of a batch, H W pixels of the model's input, H0 W0 of the original picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
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
from ris.grounding import GroundAnswer
from ris.prediction import tight_boxes


class GroundMetric(BaseMetric):
    """Acc@X and mIoU of boxes, and P@X, oIoU and mIoU of masks where the model gives both.

    Predictions and records are written by the first rank, one line a phrase. In the masks' records
    the ref id is the phrase's place in `keys`.

    Args:
        boxes: how boxes become scores.
        masks: how masks do, or None.
        header: what the files say of the run (data set, split, data hash, model).
        keys: (id, position) of every phrase of the split: each must be answered, and no other.
        folder: where the files go.
        keep_masks: also keep each predicted mask as COCO RLE.
        clamp: cut boxes at the picture's edges first (TransVG does, RefTR does not).
        on_scores: called on the first rank with the scores of a finished evaluation.
    """

    default_prefix = ""  # scores are named as they are; None would be warned of

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
        on_scores: Callable[[dict[str, Any], float], None] | None = None,
    ) -> None:
        super().__init__()
        self.protocols, self.keys, self.folder = (boxes, masks), keys, folder
        self.header = {**header, "clamp": clamp}
        self.places = {key: place for place, key in enumerate(keys)}
        self.keep_masks, self.clamp, self.on_scores = keep_masks, clamp, on_scores
        self.evaluated = False
        self._fresh()

    def _fresh(self) -> None:
        boxes, masks = self.protocols
        self.boxes = GroundingEvaluator(boxes)
        self.masks = None if masks is None else ResEvaluator(masks)
        self.started: float | None = None

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """data_samples: one `GroundAnswer` a phrase of the batch."""
        if self.started is None:
            self.started = time.monotonic()
        answers: list[GroundAnswer] = list(data_samples)
        picture = data_batch["picture_index"][data_batch["caption_of_phrase"]].tolist()
        sizes = [data_batch["original_sizes"][place] for place in picture]
        boxes = None
        if answers and answers[0].box is not None:  # all at once: the host waits for the device
            given = [answer.box for answer in answers if answer.box is not None]
            boxes = torch.stack(given).double().cpu()
        found = None
        if answers and answers[0].probability is not None:
            shares = [answer.probability for answer in answers if answer.probability is not None]
            found = torch.stack(shares) > 0.5
            self._take_masks(data_batch, found)
        for index, key in enumerate(data_batch["keys"]):
            self.boxes.update(
                key[0],
                self._box(
                    None if boxes is None else boxes[index],
                    None if found is None else found[index],
                    sizes[index],
                ),
                data_batch["truth"][index],
                phrase=key[1],
                types=data_batch["types"][index],
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

    def _take_masks(self, batch: Any, pred: Tensor) -> None:
        assert self.masks is not None
        truth = batch["masks"].to(pred.device).bool()
        counts = [(pred & truth), (pred | truth), pred, truth]
        both, either, found, true = torch.stack([one.sum((1, 2)) for one in counts]).tolist()
        self.masks.update_counts(
            both,
            either,
            found,
            true,
            ref_ids=[self.places[key] for key in batch["keys"]],
            sent_ids=[0] * len(pred),
            masks=pred.cpu().numpy() if self.keep_masks else None,
        )

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the ranks' evaluators; every rank gets the same scores."""
        boxes, masks = self.boxes, self.masks
        if dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (boxes.state(), masks and masks.state()))
            boxes = GroundingEvaluator(self.protocols[0])
            if self.protocols[1] is not None:
                masks = ResEvaluator(self.protocols[1])
            for own, drawn in parts:
                boxes.merge(GroundingEvaluator.from_state(self.protocols[0], own))
                if masks is not None:
                    masks.merge(ResEvaluator.from_state(masks.protocol, drawn))
        seconds = time.monotonic() - (self.started or time.monotonic())
        self.evaluated = True
        found = boxes.compute(self.keys)
        drawn_scores = None if masks is None else masks.compute()
        accuracy = f"Acc@{boxes.protocol.threshold:g}"
        scores = {**(drawn_scores or {}), accuracy: found[accuracy], "box_mIoU": found["mIoU"]}
        scores["n_items"] = found["n_items"]
        if is_main_process():
            self._write(boxes, masks, found, drawn_scores)
            if self.on_scores is not None:
                self.on_scores(scores, seconds)
        self._fresh()
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    def _write(
        self,
        boxes: GroundingEvaluator,
        masks: ResEvaluator | None,
        found: dict[str, Any],
        drawn: dict[str, Any] | None,
    ) -> None:
        split = str(self.header["split"])
        save_predictions(self.folder / f"boxes_{split}.jsonl", boxes, self.header)
        print(grounding_table([(split, found)], boxes.protocol, by_type=True), flush=True)
        if masks is not None and drawn is not None:
            path = self.folder / f"records_{split}.jsonl"
            save_records(path, masks.records, self.header, masks.protocol)
            print(table([(split, drawn)]))
            print(f"protocol {masks.protocol.in_words()}")
        print(scored_line(self.header, found["n_items"]), flush=True)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Unused: `evaluate` merges evaluators instead of result lists."""
        raise AssertionError("GroundMetric.evaluate does the work")
