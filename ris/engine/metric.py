"""`refer.evaluation`'s RES evaluator as an mmengine metric over all processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric

from refer.evaluation import ResEvaluator, ResProtocol, save_records, scored_line, table

WAIT_EVERY = 64  # batches between two reads of the device


class ResMetric(BaseMetric):
    """P@X, oIoU and mIoU of predicted masks; records and table are written by the first rank.

    Args:
        protocol: how predictions become scores.
        header: what the record file says of the run (data set, split, data hash, model).
        records: file for the per-item records, or None.
        keep_masks: also keep each predicted mask as COCO RLE, so that other resolutions and
            overlap rules can be scored later.
        on_scores: called on the first rank with the scores of a finished evaluation.
    """

    default_prefix = ""  # scores are named as they are; None would be warned of

    def __init__(
        self,
        protocol: ResProtocol,
        header: dict[str, Any],
        records: Path | None = None,
        keep_masks: bool = False,
        on_scores: Callable[[dict[str, Any], float], None] | None = None,
    ) -> None:
        super().__init__()
        self.protocol, self.header, self.records = protocol, header, records
        self.keep_masks, self.on_scores = keep_masks, on_scores
        self.evaluated = False
        self._fresh()

    def _fresh(self) -> None:
        label = f"{self.header.get('dataset', '')} {self.header.get('split', '')}"
        self.evaluator = ResEvaluator(self.protocol, label)
        self.started: float | None = None
        self._pending: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """data_samples: one bool mask [H, W] a sentence of the batch, on the model's device."""
        if self.started is None:
            self.started = time.monotonic()
        pred = torch.stack(list(data_samples))
        which = data_batch["ref_of_text"]
        truth = data_batch["masks"].to(pred.device, non_blocking=True).bool()
        # Even of a few numbers, a copy that blocks would wait for the whole batch before it.
        truth = truth[which.to(pred.device, non_blocking=True)]
        # Four integer sums a sentence are all that leaves the device, and not at once: to read them
        # now would wait for it.
        both, either = (pred & truth).sum((1, 2)), (pred | truth).sum((1, 2))
        counts = torch.stack([both, either, pred.sum((1, 2)), truth.sum((1, 2))])
        items = {
            "ref_ids": [data_batch["ref_ids"][i] for i in which.tolist()],
            "sent_ids": data_batch["sent_ids"],
            "image_ids": [data_batch["image_ids"][i] for i in data_batch["picture_index"].tolist()],
            "sentence_index": data_batch["sentence_index"],
            "masks": pred.cpu().numpy() if self.keep_masks else None,
        }
        self._pending.append((counts, items))
        if len(self._pending) >= WAIT_EVERY:
            self._take_in()

    def _take_in(self) -> None:
        """Read the counts of the batches so far; the only place that waits for the device."""
        if not self._pending:
            return
        counts = torch.cat([counts for counts, _ in self._pending], dim=1).cpu()
        start = 0
        for own, items in self._pending:
            end = start + own.shape[1]
            intersection, union, pred_area, target_area = counts[:, start:end].tolist()
            self.evaluator.update_counts(intersection, union, pred_area, target_area, **items)
            start = end
        self._pending.clear()

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the ranks' evaluators; every rank gets the same scores."""
        self._take_in()
        merged = self.evaluator
        if dist.is_initialized() and dist.get_world_size() > 1:
            states: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(states, self.evaluator.state())
            merged = ResEvaluator(self.protocol, self.evaluator.label)
            for state in states:
                merged.merge(ResEvaluator.from_state(self.protocol, state))
        seconds = time.monotonic() - (self.started or time.monotonic())
        self.evaluated = True
        scores = merged.compute()
        if is_main_process():
            if self.records is not None:
                save_records(self.records, merged.records, self.header, self.protocol)
            print(table([(str(self.header.get("split", "")), scores)]))
            print(f"protocol {self.protocol.in_words()}")
            print(scored_line(self.header, scores["n_items"]), flush=True)
            if self.on_scores is not None:
                self.on_scores(scores, seconds)
        self._fresh()
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Unused: `evaluate` merges evaluators instead of result lists."""
        raise AssertionError("ResMetric.evaluate does the work")
