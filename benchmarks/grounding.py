"""Boxes and masks of phrases on generated data: both at once against each alone.

    python benchmarks/grounding.py [--seeds 0 1 2] [--only both masks boxes] [--epochs 8] [--docs]

Each variant trains for the same number of steps on the same frozen backbone, on RefShapes' captions
with phrases; its last weights are scored on val, testA and testB: Acc@0.5 and mIoU of the boxes
(of the masks' tight boxes where there are no others), oIoU and mIoU of the masks. Rows that the CSV
already holds for the same settings are not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "grounding.csv"
DOCS = REPO / "docs" / "grounding.md"
BEGIN, END = "<!-- grounding:begin -->", "<!-- grounding:end -->"
PICTURES = {"train": 4000, "val": 150, "test_a": 100, "test_b": 100}
SPLITS = ("val", "testA", "testB")
COLUMNS = ("Acc@0.5", "box_mIoU", "oIoU", "mIoU")
KEYS = ("variant", "seed", "epochs", "precision")
VARIANTS = {"both": "boxes and masks", "masks": "masks alone", "boxes": "boxes alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/grounding"))
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the table into the docs")
    arguments = parser.parse_args()
    from refer.shapes import generate

    root = (arguments.work / "data").resolve()
    generate(root, **PICTURES, size=128, seed=0, extras=True)
    for seed in arguments.seeds:
        for name in arguments.only:
            known = read(arguments.csv)
            key = (name, str(seed), str(arguments.epochs), arguments.precision)
            if any(tuple(row[n] for n in KEYS) == key for row in known):
                continue
            row = measure(*key, root=root, work=arguments.work.resolve())
            write(arguments.csv, [*known, row])
    text = table(read(arguments.csv), arguments.epochs)
    print(text)
    if arguments.docs:
        before, rest = DOCS.read_text().split(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def measure(
    name: str, seed: str, epochs: str, precision: str, *, root: Path, work: Path
) -> dict[str, Any]:
    """Train one variant with one seed and score it on every split; returns the CSV row."""
    from ris.engine import run, settings

    started = time.monotonic()
    # Of these settings alone, so that a run that was killed can go on from its last state.
    folder = work / f"{name}_{seed}_{epochs}_{precision}"
    config = settings.load(
        REPO / "configs/phrase/phraseshapes_tiny_128.py",
        {
            "data.root": str(root),
            "seed": int(seed),
            "output_dir": str(folder),
            "optim.precision": precision,
            "schedule.epochs": int(epochs),
            "schedule.val_interval": int(epochs),
            "model.head.answers": name,
        },
    )
    trained = run.train(config, folder, device="cpu", resume_from="auto")
    row: dict[str, Any] = {
        "variant": name,
        "label": VARIANTS[name],
        "seed": seed,
        "epochs": epochs,
        "precision": precision,
        "optimizer_steps": trained["optimizer_steps"],
    }
    for split in SPLITS:
        found = run.evaluate(
            config, trained["best_weights"], folder / split, split=split, device="cpu"
        )["scores"]
        row |= {f"{split}_{c}": f"{found[c]:.2f}" if c in found else "" for c in COLUMNS}
    return {
        **row,
        "seconds": round(time.monotonic() - started),
        "protocol": str(trained["protocol"]),
        "data_hash": trained["data_hash"][:16],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of the CSV; none when it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)


def table(rows: list[dict[str, Any]], epochs: int) -> str:
    """Mean and standard deviation over the seeds, as Markdown, in percent; and what masks lose by
    the boxes beside them, seed by seed."""
    columns = ("val_Acc@0.5", "val_box_mIoU", "val_oIoU", "val_mIoU", "testA_Acc@0.5",
               "testA_oIoU", "testB_Acc@0.5", "testB_oIoU")  # fmt: skip
    lines = ["| answers | " + " | ".join(c.replace("_", " ") for c in columns) + " | seeds |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    rows = [row for row in rows if row["epochs"] == str(epochs)]
    for name, label in VARIANTS.items():
        own = [row for row in rows if row["variant"] == name]
        if own:
            cells = [_spread([float(row[c]) for row in own if row[c]]) for c in columns]
            lines.append(f"| {label} | {' | '.join(cells)} | {len(own)} |")
    pairs = {seed: {r["variant"]: r for r in rows if r["seed"] == seed} for seed in _seeds(rows)}
    lost = [
        float(of["masks"]["val_oIoU"]) - float(of["both"]["val_oIoU"])
        for of in pairs.values()
        if {"masks", "both"} <= set(of)
    ]
    if lost:
        lines += ["", f"Masks lose {_spread(lost)} points of val oIoU by the boxes beside them."]
    return "\n".join(lines)


def _seeds(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({row["seed"] for row in rows})


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    main()
