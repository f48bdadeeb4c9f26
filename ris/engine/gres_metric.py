"""`refer.evaluation`'s GRES and GREC evaluators as an mmengine metric over all processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric

from refer.evaluation import grec, gres
from refer.evaluation.gres_table import grec_table, gres_table
from ris.boxes import boxes_of
from ris.engine.metric import WAIT_EVERY


class GresMetric(BaseMetric):
    """gIoU, cIoU, N-acc, T-acc and Pr@X; with `grec`, boxes too. Tables and result files are
    written by the first rank.

    Args:
        protocol: how predictions become scores.
        source: the data set's name in the result files.
        folder: where they go.
        split: named in the table.
        grec: the protocol of the boxes, or None.
        on_scores: called on the first rank with the scores of a finished evaluation.
    """

    default_prefix = ""  # scores are named as they are; None would be warned of

    def __init__(
        self,
        protocol: gres.GresProtocol,
        source: str,
        folder: Path,
        split: str,
        grec: grec.GrecProtocol | None = None,
        on_scores: Callable[[dict[str, Any], float], None] | None = None,
    ) -> None:
        super().__init__()
        self.protocol, self.source, self.folder, self.split = protocol, source, folder, split
        self.grec, self.on_scores = grec, on_scores
        self.evaluated = False
        self._fresh()

    def _fresh(self) -> None:
        self.masks = gres.GresEvaluator(self.protocol)
        self.boxes = None if self.grec is None else grec.GrecEvaluator(self.grec)
        self.started: float | None = None
        self._pending: list[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]] = []

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """data_samples: one `GeneralAnswer` a sentence of the batch."""
        if self.started is None:
            self.started = time.monotonic()
        which = data_batch["ref_of_text"].tolist()
        pictures = data_batch["picture_index"].tolist()
        probability = torch.stack([answer.probability for answer in data_samples])
        nothing = torch.stack([answer.no_target for answer in data_samples])
        pred = probability > 0.5
        truth = data_batch["masks"].to(pred.device, non_blocking=True).bool()
        truth = truth[data_batch["ref_of_text"].to(pred.device, non_blocking=True)]
        counts = [(pred & truth), (pred | truth), pred, truth]
        items = {
            "n_targets": [data_batch["n_targets"][i] for i in which],
            "source": self.source,
            "img_ids": [data_batch["image_ids"][i] for i in pictures],
            "ref_ids": [data_batch["ref_ids"][i] for i in which],
            "sent_ids": data_batch["sent_ids"],
            "sents": data_batch["text"],
        }
        # As `ResMetric` has it: integers, and the head's word, which is a float.
        numbers = torch.stack([count.sum((1, 2)) for count in counts])
        self._pending.append((numbers, nothing, items))
        if len(self._pending) >= WAIT_EVERY:
            self._take_in()
        if self.boxes is None:
            return
        # Who says "nothing here" of the mask says it of the boxes, which then are none.
        if self.protocol.no_target == "pixels":
            empty = numbers[2].cpu() < self.protocol.pixels
        else:
            empty = nothing.cpu() > 0.5
        for row, picture in enumerate(pictures):
            boxes, scores = boxes_of(
                probability[row].cpu().numpy(), data_batch["original_sizes"][picture]
            )
            if empty[row]:
                boxes, scores = boxes[:0], scores[:0]
            truth_boxes = data_batch["boxes"][which[row]]
            self.boxes.update(
                items["ref_ids"][row], data_batch["sent_ids"][row], boxes, scores, truth_boxes
            )

    def _take_in(self) -> None:
        """Read the batches so far from the device: for masks alone, the only wait for it."""
        if not self._pending:
            return
        numbers = torch.cat([own for own, _, _ in self._pending], dim=1).cpu()
        nothing = torch.cat([own for _, own, _ in self._pending]).cpu()
        start = 0
        for own, _, items in self._pending:
            end = start + own.shape[1]
            said = nothing[start:end]
            self.masks.update_counts(
                *numbers[:, start:end].tolist(),
                pred_nt=None if said.isnan().any() else (said > 0.5).tolist(),
                **items,
            )
            start = end
        self._pending.clear()

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the ranks' evaluators; every rank gets the same scores."""
        self._take_in()
        masks, boxes = self.masks, self.boxes
        if dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (masks.records, boxes))
            masks = gres.GresEvaluator(self.protocol)
            boxes = None if self.grec is None else grec.GrecEvaluator(self.grec)
            for records, found in parts:
                masks.add(records)
                if boxes is not None:
                    boxes.merge(found)
        seconds = time.monotonic() - (self.started or time.monotonic())
        self.evaluated = True
        scores: dict[str, Any] = dict(masks.compute()[self.source])
        scores["n_items"] = len(masks)
        found = None if boxes is None else boxes.compute()
        if found is not None:
            scores |= {f"GREC_{name}": value for name, value in found.items()}
        if is_main_process():
            gres.save(self.folder, f"{self.source}_{self.split}", masks)
            print(gres_table(masks, self.split), flush=True)
            if found is not None and self.grec is not None:
                print(grec_table(found, self.grec, self.split), flush=True)
            if self.on_scores is not None:
                self.on_scores(scores, seconds)
        self._fresh()
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Unused: `evaluate` merges evaluators instead of result lists."""
        raise AssertionError("GresMetric.evaluate does the work")
