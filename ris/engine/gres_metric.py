"""`refer.evaluation`'s GRES and GREC evaluators as an mmengine metric over all processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from refer.evaluation import grec, gres, gres_records, scored_line
from refer.evaluation.gres_table import grec_table, gres_table
from ris.boxes import boxes_of
from ris.engine.merging import MergingMetric, OnScores
from ris.engine.metric import counted


class GresMetric(MergingMetric):
    """gIoU, cIoU, N-acc, T-acc and Pr@X; with `grec`, boxes too. Tables and result files are
    written by the first rank.

    Its answers are `GeneralAnswer`s, one a sentence.

    Args:
        protocol: how predictions become scores.
        source: the data set's name in the result files.
        folder: where they go.
        split: named in the table.
        grec: the protocol of the boxes, or None.
        on_scores, header: as for `MergingMetric`; without a header, source and split.
    """

    def __init__(
        self,
        protocol: gres.GresProtocol,
        source: str,
        folder: Path,
        split: str,
        grec: grec.GrecProtocol | None = None,
        on_scores: OnScores | None = None,
        header: dict[str, Any] | None = None,
    ) -> None:
        self.protocol, self.source, self.folder, self.split = protocol, source, folder, split
        self.grec = grec
        super().__init__(header or {"dataset": source, "split": split}, on_scores)

    def _fresh(self) -> None:
        self.masks = gres.GresEvaluator(self.protocol)
        self.boxes = None if self.grec is None else grec.GrecEvaluator(self.grec)
        self._of_boxes: dict[str, float] = {}

    def _collect(
        self, batch: Any, answers: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        which, pictures = batch["ref_of_text"].tolist(), batch["picture_index"].tolist()
        probability = torch.stack([answer.probability for answer in answers])
        nothing = torch.stack([answer.no_target for answer in answers])
        pred = probability > 0.5
        truth = batch["masks"].to(pred.device, non_blocking=True).bool()
        truth = truth[batch["ref_of_text"].to(pred.device, non_blocking=True)]
        items = {
            "n_targets": [batch["n_targets"][i] for i in which],
            "source": self.source,
            "img_ids": [batch["image_ids"][i] for i in pictures],
            "ref_ids": [batch["ref_ids"][i] for i in which],
            "sent_ids": batch["sent_ids"],
            "sents": batch["text"],
        }
        numbers = counted(pred, truth)
        if self.boxes is not None:  # found by the host, which waits for each batch then
            self._box(batch, items["ref_ids"], probability, numbers[2], nothing)
        return numbers, nothing, items

    def _box(
        self,
        batch: Any,
        ref_ids: list[int],
        probability: torch.Tensor,
        pixels: torch.Tensor,
        nothing: torch.Tensor,
    ) -> None:
        """Boxes of the masks' parts. Who says "nothing here" of the mask says it of the boxes."""
        assert self.boxes is not None
        by_pixels = self.protocol.no_target == "pixels"
        empty = pixels.cpu() < self.protocol.pixels if by_pixels else nothing.cpu() > 0.5
        for row, picture in enumerate(batch["picture_index"].tolist()):
            boxes, scores = boxes_of(
                probability[row].cpu().numpy(), batch["original_sizes"][picture]
            )
            if empty[row]:
                boxes, scores = boxes[:0], scores[:0]
            truth = batch["boxes"][int(batch["ref_of_text"][row])]
            self.boxes.update(ref_ids[row], batch["sent_ids"][row], boxes, scores, truth)

    def _read(self, pending: list[Any]) -> None:
        numbers = torch.cat([own for own, _, _ in pending], dim=1).cpu()
        nothing = torch.cat([own for _, own, _ in pending]).cpu()
        start = 0
        for own, _, items in pending:
            end = start + own.shape[1]
            said = nothing[start:end]
            self.masks.update_counts(
                *numbers[:, start:end].tolist(),
                pred_nt=None if said.isnan().any() else (said > 0.5).tolist(),
                **items,
            )
            start = end

    def _state(self) -> Any:
        return self.masks.records, self.boxes

    def _merge(self, states: list[Any]) -> None:
        self._fresh()
        for records, found in states:
            self.masks.add(records)
            if self.boxes is not None:
                self.boxes.merge(found)

    def _score(self) -> dict[str, Any]:
        scores: dict[str, Any] = dict(self.masks.compute()[self.source])
        scores["n_items"] = len(self.masks)
        if self.boxes is not None:
            self._of_boxes = self.boxes.compute()
            scores |= {f"GREC_{name}": value for name, value in self._of_boxes.items()}
        return scores

    def _write(self, scores: dict[str, Any]) -> None:
        gres_records.save(self.folder, f"{self.source}_{self.split}", self.masks)
        print(gres_table(self.masks, self.split))
        if self.grec is not None:
            print(grec_table(self._of_boxes, self.grec, self.split))
        print(scored_line(self.header, scores["n_items"]), flush=True)
