"""Pairs a second as sentences per picture and the picture's side grow; CSV and a plot for the docs.

    python benchmarks/cost_curve.py --size full [--device cuda] [--precision bf16] [--plot]

Sentences 1, 2, 4, 8, 16 of one picture at the size's usual side; then 4 sentences at sides 64 to
256 (tiny) or 256 to 768 (full). Random weights: the work does not depend on them. On the CPU the
heap is kept and in huge pages, as `ris` does it. `--plot` draws docs/cost_curve.png from all rows
of the CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from published_way import (
    RESULTS,
    SIDES,
    allocator_of,
    as_tested,
    autocast,
    build,
    machine,
    ours,
    peak_memory,
    run_as_ris,
    save,
    timed,
    workload,
)

KEYS = ("size", "curve", "sentences", "side", "device", "precision", "machine")
PLOT = Path(__file__).resolve().parents[1] / "docs" / "cost_curve.png"
SENTENCES = (1, 2, 4, 8, 16)
GROWING = {"tiny": (64, 128, 192, 256), "full": (256, 384, 512, 768)}
AT_SIDES = 4  # sentences while the side grows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--curves", nargs="+", choices=("sentences", "side"),
                        default=["sentences", "side"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="pictures a point")
    parser.add_argument("--sentence-batch", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--csv", type=Path, default=RESULTS / "cost_curve.csv")
    parser.add_argument("--plot", action="store_true", help="draw the rows of the CSV")
    parser.add_argument("--only-plot", action="store_true", help="measure nothing")
    parser.add_argument("--png", type=Path, default=PLOT)
    arguments = parser.parse_args()
    if not arguments.only_plot:
        run_as_ris(arguments.device)
        model = as_tested(build(arguments.size, arguments.device).eval(), arguments.precision)
        model.sentence_batch = arguments.sentence_batch
        points = [("sentences", count, SIDES[arguments.size]) for count in SENTENCES]
        points += [("side", AT_SIDES, side) for side in GROWING[arguments.size]]
        for curve, sentences, side in points:
            if curve in arguments.curves:
                row = measure(model, curve, sentences, side, arguments)
                save(arguments.csv, [row], KEYS)
                print(
                    f"{row['size']}, {sentences} sentences at {side} px: {row['pairs_per_s']} "
                    f"pairs a second [{row['slowest']}, {row['fastest']}]",
                    flush=True,
                )
    if arguments.plot or arguments.only_plot:
        draw(arguments.csv, arguments.png)
        print(f"plot: {arguments.png}")


@torch.inference_mode()
def measure(
    model: Any, curve: str, sentences: int, side: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One point: the median over pictures. One sentence, not counted, takes the memory."""
    found = []
    (warm,) = workload(1, 1, side)
    with autocast(arguments.device, arguments.precision):
        ours(model, *warm)
    for picture, asked, masks in workload(arguments.rounds, sentences, side):
        with autocast(arguments.device, arguments.precision):
            seconds, _ = timed(
                lambda p=picture, a=asked, m=masks: ours(model, p, a, m), arguments.device
            )
        found.append(sentences / seconds)
    return {
        "size": arguments.size,
        "curve": curve,
        "sentences": sentences,
        "side": side,
        "device": arguments.device,
        "precision": arguments.precision,
        "allocator": allocator_of(arguments.device),
        "sentence_batch": arguments.sentence_batch,
        "rounds": arguments.rounds,
        "pairs_per_s": f"{statistics.median(found):.4g}",
        "slowest": f"{min(found):.4g}",
        "fastest": f"{max(found):.4g}",
        "peak_gib": f"{peak_memory(arguments.device):.2f}",
        "machine": machine(arguments.device),
    }


def draw(table: Path, png: Path) -> None:
    """Two panels from the rows of the CSV; the file is replaced as a whole."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
    kinds = ("size", "device", "precision", "machine")
    runs = sorted({tuple(row[name] for name in kinds) for row in rows})
    for panel, curve in zip(panels, ("sentences", "side"), strict=True):
        for run in runs:
            own = [
                row
                for row in rows
                if row["curve"] == curve and tuple(row[name] for name in kinds) == run
            ]
            own.sort(key=lambda row: int(row[curve]))  # fmt: skip
            if not own:
                continue
            middle = [float(row["pairs_per_s"]) for row in own]
            low = [m - float(row["slowest"]) for m, row in zip(middle, own, strict=True)]
            high = [float(row["fastest"]) - m for m, row in zip(middle, own, strict=True)]
            panel.errorbar([int(row[curve]) for row in own], middle, yerr=[low, high], marker="o",
                           capsize=2, label=", ".join(run))  # fmt: skip
            panel.set_xticks([int(row[curve]) for row in own])
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.set_ylabel("pairs a second")
        panel.grid(alpha=0.3)
    panels[0].set_xlabel("sentences of one picture")
    panels[1].set_xlabel(f"side of the picture in pixels ({AT_SIDES} sentences)")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    draft = png.with_name(png.name + ".part")
    figure.savefig(draft, format="png", dpi=110)
    plt.close(figure)
    os.replace(draft, png)


if __name__ == "__main__":
    main()
