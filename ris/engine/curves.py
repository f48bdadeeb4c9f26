"""The curves of a run, read back from its scalar log: loss and scores by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from refer.files import draft_of

# What is drawn of a run: the first row whose first score it has.
SCORES = (
    ("Acc@0.5", "box_mIoU", "oIoU"),
    ("oIoU", "mIoU", "P@0.5"),
    ("gIoU", "cIoU", "Pr@0.7"),
)


@VISBACKENDS.register_module()
class ScalarLog(LocalVisBackend):
    """mmengine's json-lines scalar log; pictures go to `overlays/` and TensorBoard instead."""

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        """Left to others."""


def draw(work_dir: Path) -> Path | None:
    """Write curves.png from the scalar logs below `work_dir`; None without any."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = _rows(work_dir)
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    names = next((names for names in SCORES if any(names[0] in row for row in rows)), SCORES[0])
    scores = [row for row in rows if names[0] in row]
    if not losses:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(*zip(*losses, strict=True), color="#0072B2", linewidth=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    for name, colour in zip(names, ("#D55E00", "#009E73", "#56B4E9"), strict=True):
        points = [(row["step"], row[name]) for row in scores if name in row]
        if points:
            right.plot(*zip(*points, strict=True), marker=".", label=name, color=colour)
    right.set(xlabel="step", ylabel="validation, percent", ylim=(0, 100))
    if scores:
        right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    target = work_dir / "curves.png"
    with draft_of(target) as draft:
        figure.savefig(draft, dpi=110, format="png")
    plt.close(figure)
    return target


def _rows(work_dir: Path) -> list[dict[str, Any]]:
    """Rows of every scalar log of the run, older starts first."""
    rows = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        rows += [json.loads(line) for line in file.read_text().splitlines() if line]
    return rows
