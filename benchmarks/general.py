"""Several targets or none on generated data: the no-target head against the plain mask head.

    python benchmarks/general.py [--seeds 0 1 2] [--only regions plain] [--epochs 4] [--docs]

Trained and scored as `trained.py` says, on RefShapes' generalized refs. The row of a system that
says "nothing here" to everything stands beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trained import Row, Study, compare, lines_of

COLUMNS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.7", "GREC_F1_score")
SHOWN = ("val_gIoU", "val_cIoU", "val_N_acc", "val_T_acc", "val_GREC_F1_score", "testA_gIoU",
         "testB_gIoU")  # fmt: skip


def cells(scores: dict[str, Any], folder: Path, split: str) -> dict[str, str]:
    """The scores in percent, and what saying nothing would score on the same items."""
    from refer.evaluation import gres_records, gres_scores

    found = {column: f"{_percent(column, scores[column]):.2f}" for column in COLUMNS}
    details = folder / f"grefshapes_{split}_detailed_results.json"
    # Whatever was said of them.
    empty = gres_scores.always_empty(gres_records.load(details).records)
    return {**found, "always_empty_gIoU": f"{empty['gIoU']:.2f}"}


def _percent(column: str, value: float) -> float:
    return value * 100 if column.endswith("_acc") or column.startswith("GREC") else value


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds, as Markdown, in percent."""
    lines = lines_of(STUDY, rows, "head", SHOWN)
    if rows:
        empty = [
            rows[0][f"{column.split('_')[0]}_always_empty_gIoU"] if column.endswith("gIoU") else ""
            for column in SHOWN
        ]
        lines.insert(2, f"| always empty | {' | '.join(empty)} | |")
    return "\n".join(lines)


STUDY = Study(
    name="general",
    config="gres/grefshapes_tiny_128.py",
    epochs=4,
    entries={"task": "grec"},
    variants={
        "regions": ("plain mask, region tokens for minimap and no-target", {}),
        "filters": (
            "the same, masks by the regions' filters as in ReLA",
            {"model.head.region_masks": True, "model.head.region_gradient": True},
        ),
        "mean": (
            "the same, the regions' votes averaged as in ReLA",
            {"model.head.existence": "mean"},
        ),
        "pixels": ("the same, no-target by the rule on pixels", {"model.head.no_target": False}),
        "unread": ("regions that do not read the words", {"model.head.language": False}),
        "plain": ("plain mask head, rule on pixels", {"model.head.regions": False}),
    },
    cells=cells,
    table=table,
)


if __name__ == "__main__":
    compare(STUDY, __doc__)
