"""Boxes and masks of phrases on generated data: both at once against each alone.

    python benchmarks/grounding.py [--seeds 0 1 2] [--only both masks boxes] [--epochs 8] [--docs]

Trained and scored as `trained.py` says, on RefShapes' captions with phrases: Acc@0.5 and mIoU of
the boxes (of the masks' tight boxes where there are no others), oIoU and mIoU of the masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trained import SPLITS, Row, Study, compare, lines_of, spread

COLUMNS = ("Acc@0.5", "box_mIoU", "oIoU", "mIoU")
SHOWN = ("val_Acc@0.5", "val_box_mIoU", "val_oIoU", "val_mIoU", "testA_Acc@0.5", "testA_oIoU",
         "testB_Acc@0.5", "testB_oIoU")  # fmt: skip


def cells(scores: dict[str, Any], folder: Path, split: str) -> dict[str, str]:
    """The scores in percent; empty where the variant has none."""
    return {c: f"{scores[c]:.2f}" if c in scores else "" for c in COLUMNS}


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds, as Markdown, in percent; and what masks lose by
    the boxes beside them, seed by seed."""
    lines = lines_of(STUDY, rows, "answers", SHOWN)
    seeds = sorted({row["seed"] for row in rows})
    pairs = [{row["variant"]: row for row in rows if row["seed"] == seed} for seed in seeds]
    pairs = [of for of in pairs if {"masks", "both"} <= set(of)]
    if pairs:
        lost = ", ".join(
            f"{spread([float(of['masks'][c]) - float(of['both'][c]) for of in pairs])} on {split}"
            for split in SPLITS
            for c in [f"{split}_oIoU"]
        )
        lines += ["", f"Points of oIoU that masks lose by the boxes beside them: {lost}."]
    return "\n".join(lines)


STUDY = Study(
    name="grounding",
    config="phrase/phraseshapes_tiny_128.py",
    epochs=8,
    entries={},
    variants={
        "both": ("boxes and masks", {"model.head.answers": "both"}),
        "masks": ("masks alone", {"model.head.answers": "masks"}),
        "boxes": ("boxes alone", {"model.head.answers": "boxes"}),
    },
    cells=cells,
    table=table,
)


if __name__ == "__main__":
    compare(STUDY, __doc__)
