"""`refer.evaluation`'s RES evaluator as an mmengine metric over all processes.

Shapes: S sentences of a batch, H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from refer.evaluation import ResEvaluator, ResProtocol, save_records, scored_line, table
from ris.engine.merging import MergingMetric, OnScores


class ResMetric(MergingMetric):
    """P@X, oIoU and mIoU of predicted masks; records and table are written by the first rank.

    Its answers are bool masks [H, W], one a sentence, on the model's device.

    Args:
        protocol: how predictions become scores.
        records: file for the per-item records, or None.
        keep_masks: also keep each predicted mask as COCO RLE, so that other resolutions and
            overlap rules can be scored later.
        header, on_scores: as for `MergingMetric`.
    """

    def __init__(
        self,
        protocol: ResProtocol,
        header: dict[str, Any],
        records: Path | None = None,
        keep_masks: bool = False,
        on_scores: OnScores | None = None,
    ) -> None:
        self.protocol, self.records, self.keep_masks = protocol, records, keep_masks
        super().__init__(header, on_scores)

    def _fresh(self) -> None:
        label = f"{self.header.get('dataset', '')} {self.header.get('split', '')}"
        self.evaluator = ResEvaluator(self.protocol, label)

    def _collect(self, batch: Any, answers: list[Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        pred, which = torch.stack(answers), batch["ref_of_text"]
        truth = batch["masks"].to(pred.device, non_blocking=True).bool()
        # Even of a few numbers, a copy that blocks would wait for the whole batch before it.
        truth = truth[which.to(pred.device, non_blocking=True)]
        items = {
            "ref_ids": [batch["ref_ids"][i] for i in which.tolist()],
            "sent_ids": batch["sent_ids"],
            "image_ids": [batch["image_ids"][i] for i in batch["picture_index"].tolist()],
            "sentence_index": batch["sentence_index"],
            "masks": pred.cpu().numpy() if self.keep_masks else None,
        }
        return counted(pred, truth), items

    def _read(self, pending: list[Any]) -> None:
        counts = torch.cat([counts for counts, _ in pending], dim=1).cpu()
        start = 0
        for own, items in pending:
            end = start + own.shape[1]
            self.evaluator.update_counts(*counts[:, start:end].tolist(), **items)
            start = end

    def _state(self) -> Any:
        return self.evaluator.state()

    def _merge(self, states: list[Any]) -> None:
        merged = ResEvaluator(self.protocol, self.evaluator.label)
        for state in states:
            merged.merge(ResEvaluator.from_state(self.protocol, state))
        self.evaluator = merged

    def _score(self) -> dict[str, Any]:
        return self.evaluator.compute()

    def _write(self, scores: dict[str, Any]) -> None:
        if self.records is not None:
            save_records(self.records, self.evaluator.records, self.header, self.protocol)
        print(table([(str(self.header.get("split", "")), scores)]))
        print(f"protocol {self.protocol.in_words()}")
        print(scored_line(self.header, scores["n_items"]), flush=True)


def counted(pred: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """int64 [4, S] of bool masks [S, H, W]: pixels of the intersection, the union, the prediction
    and the truth. These integers are all that leaves the device, and not at once."""
    return torch.stack([one.sum((1, 2)) for one in (pred & truth, pred | truth, pred, truth)])
