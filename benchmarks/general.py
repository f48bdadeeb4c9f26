"""Several targets or none on generated data: the whole head against the plain mask head.

    python benchmarks/general.py [--seeds 0 1 2] [--only regions plain] [--epochs 4] [--docs]

Each variant trains for the same number of steps on the same frozen backbone, on RefShapes'
generalized refs; its last weights are scored on val, testA and testB. The row of a system that says
"nothing here" to everything stands beside them. Rows that the CSV already holds for the same
settings are not run again.
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
RESULTS = REPO / "benchmarks" / "results" / "general.csv"
DOCS = REPO / "docs" / "general.md"
BEGIN, END = "<!-- general:begin -->", "<!-- general:end -->"
PICTURES = {"train": 4000, "val": 150, "test_a": 100, "test_b": 100}
SPLITS = ("val", "testA", "testB")
COLUMNS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.7", "GREC_F1_score")
KEYS = ("variant", "seed", "epochs", "precision")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "regions": ("regions, minimap and no-target head", {}),
    "filters": (
        "the same, masks by the regions' filters as in ReLA",
        {"model.head.region_masks": True},
    ),
    "mean": ("the same, the regions' votes averaged as in ReLA", {"model.head.existence": "mean"}),
    "pixels": ("the same, no-target by the rule on pixels", {"model.head.no_target": False}),
    "unread": ("regions that do not read the words", {"model.head.language": False}),
    "plain": ("plain mask head, rule on pixels", {"model.head.regions": False}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/general"))
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
    from refer.evaluation import gres
    from ris.engine import run, settings

    label, entries = VARIANTS[name]
    started = time.monotonic()
    # Of these settings alone, so that a run that was killed can go on from its last state.
    folder = work / f"{name}_{seed}_{epochs}_{precision}"
    config = settings.load(
        REPO / "configs/gres/grefshapes_tiny_128.py",
        {
            "data.root": str(root),
            "seed": int(seed),
            "task": "grec",
            "output_dir": str(folder),
            "optim.precision": precision,
            "schedule.epochs": int(epochs),
            "schedule.val_interval": int(epochs),
            **entries,
        },
    )
    trained = run.train(config, folder, device="cpu", resume_from="auto")
    row: dict[str, Any] = {
        "variant": name,
        "label": label,
        "seed": seed,
        "epochs": epochs,
        "precision": precision,
        "optimizer_steps": trained["optimizer_steps"],
    }
    for split in SPLITS:
        found = run.evaluate(
            config, trained["best_weights"], folder / split, split=split, device="cpu"
        )["scores"]
        row |= {f"{split}_{column}": f"{_percent(column, found[column]):.2f}" for column in COLUMNS}
        details = folder / split / f"grefshapes_{split}_detailed_results.json"
        empty = gres.always_empty(gres.load(details).records)  # whatever was said of them
        row[f"{split}_always_empty_gIoU"] = f"{empty['gIoU']:.2f}"
    return {
        **row,
        "seconds": round(time.monotonic() - started),
        "protocol": str(trained["protocol"]),
        "data_hash": trained["data_hash"][:16],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
    }


def _percent(column: str, value: float) -> float:
    return value * 100 if column.endswith("_acc") or column.startswith("GREC") else value


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
    """Mean and standard deviation over the seeds, as Markdown, in percent."""
    columns = ("val_gIoU", "val_cIoU", "val_N_acc", "val_T_acc", "val_GREC_F1_score",
               "testA_gIoU", "testB_gIoU")  # fmt: skip
    lines = ["| head | " + " | ".join(c.replace("_", " ") for c in columns) + " | seeds |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    rows = [row for row in rows if row["epochs"] == str(epochs)]
    if rows:
        cells = [rows[0].get(f"{c.split('_')[0]}_always_empty_gIoU", "") if c.endswith("gIoU")
                 else "" for c in columns]  # fmt: skip
        lines.append(f"| always empty | {' | '.join(cells)} | |")
    for name, (label, _) in VARIANTS.items():
        own = [row for row in rows if row["variant"] == name]
        if own:
            cells = [_spread([float(row[column]) for row in own]) for column in columns]
            lines.append(f"| {label} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    main()
