"""What the benchmarks share that train variants of a system on generated data and compare them.

Each variant trains for the same number of steps on the same frozen backbone; its last weights are
scored on val, testA and testB. A run that was killed goes on from its last state, and rows that the
CSV already holds for the same settings are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from published_way import read, save

REPO = Path(__file__).resolve().parents[1]
PICTURES = {"train": 4000, "val": 150, "test_a": 100, "test_b": 100}
SPLITS = ("val", "testA", "testB")
PRECISION = "bf16"  # of training, unless told otherwise; all scores are of float32 arithmetic
KEYS = ("variant", "seed", "epochs", "precision", "recipe")
# Entries that no recipe's hash counts: rows from before they existed are of the same recipe. With
# them a run gives the same weights, bit for bit (tests/ris/test_parking.py), or the same masks
# of generated pictures, whose outlines are RLEs (tests/refer/test_masks.py).
SAME_BITS = (("model", "park_encoders"), ("gres", "drawn_at"))
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is compared.

    name: of its CSV, its page in the docs, the marks in that page and its work folder.
    config: of every variant, below configs/.
    epochs: unless told otherwise.
    entries: config entries of all variants.
    variants: name -> (label, config entries).
    cells: scores, folder and name of a split -> columns of the row.
    table: rows of one number of epochs and one recipe -> Markdown.
    """

    name: str
    config: str
    epochs: int
    entries: dict[str, Any]
    variants: dict[str, tuple[str, dict[str, Any]]]
    cells: Callable[[dict[str, Any], Path, str], dict[str, str]]
    table: Callable[[list[Row]], str]

    @property
    def results(self) -> Path:
        return REPO / "benchmarks" / "results" / f"{self.name}.csv"


def compare(study: Study, description: str | None) -> None:
    """Run what is missing, print the table, and write it into the docs if asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    names = list(study.variants)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--epochs", type=int, default=study.epochs)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=PRECISION)
    parser.add_argument("--work", type=Path, default=Path("work_dirs") / study.name)
    parser.add_argument("--csv", type=Path, default=study.results)
    parser.add_argument("--docs", action="store_true", help="write the table into the docs")
    arguments = parser.parse_args()
    root = (arguments.work / "data").resolve()
    recipe = recipe_hash(study.config)
    for seed in arguments.seeds:
        for name in arguments.only:
            key = (name, str(seed), str(arguments.epochs), arguments.precision, recipe)
            known = {tuple(row[n] for n in KEYS) for row in read(arguments.csv)}
            if key not in known:
                row = _measure(study, key, root, arguments.work.resolve())
                save(arguments.csv, [row], KEYS)
    text = shown(study, arguments.csv, arguments.epochs, arguments.precision)
    print(text)
    if arguments.docs:
        page = REPO / "docs" / f"{study.name}.md"
        begin, end = f"<!-- {study.name}:begin -->", f"<!-- {study.name}:end -->"
        before, rest = page.read_text().split(begin)
        page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def shown(study: Study, path: Path, epochs: int, precision: str = PRECISION) -> str:
    """The table of the CSV's rows that were run so with the recipe as it is now."""
    same = {"epochs": str(epochs), "precision": precision, "recipe": recipe_hash(study.config)}
    return study.table(
        [row for row in read(path) if all(row[name] == value for name, value in same.items())]
    )


def recipe_hash(config: str) -> str:
    """First digits of the sha256 of a recipe's settings (below configs/): rows of another recipe
    are no company for its own.

    Up to November 2026 every new entry changed it, also one that changes no number, and the stamps
    of rows were then carried over by hand (see the history of the files); `SAME_BITS` ended that.
    """
    from ris.engine import settings

    found = settings.load(REPO / "configs" / config).to_dict()
    for part, name in SAME_BITS:
        found.get(part, {}).pop(name, None)
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _measure(study: Study, key: tuple[str, str, str, str, str], root: Path, work: Path) -> Row:
    """Train one variant with one seed and score it on every split; returns the CSV row."""
    from refer.shapes import generate
    from ris.engine import settings
    from ris.engine.evaluate import evaluate
    from ris.engine.train import train

    generate(root, **PICTURES, size=128, seed=0, extras=True)
    name, seed, epochs, precision, recipe = key
    label, entries = study.variants[name]
    started = time.monotonic()
    # Of these settings alone, so that a run that was killed can go on from its last state.
    folder = work / "_".join(key)
    config = settings.load(
        REPO / "configs" / study.config,
        {
            "data.root": str(root),
            "seed": int(seed),
            "output_dir": str(folder),
            "optim.precision": precision,
            "schedule.epochs": int(epochs),
            "schedule.val_interval": int(epochs),
            **study.entries,
            **entries,
        },
    )
    trained = train(config, folder, device="cpu", resume_from="auto")
    row: Row = {
        "variant": name,
        "label": label,
        "seed": seed,
        "epochs": epochs,
        "precision": precision,
        "recipe": recipe,
        "optimizer_steps": trained["optimizer_steps"],
    }
    for split in SPLITS:
        found = evaluate(
            config, trained["best_weights"], folder / split, split=split, device="cpu"
        )["scores"]
        columns = study.cells(found, folder / split, split)
        row |= {f"{split}_{column}": value for column, value in columns.items()}
    return {
        **row,
        "seconds": round(time.monotonic() - started),
        "protocol": str(trained["protocol"]),
        "data_hash": trained["data_hash"][:16],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
    }


def lines_of(study: Study, rows: Sequence[Row], head: str, columns: Sequence[str]) -> list[str]:
    """A table's lines: head, rule, and for each variant mean and deviation over its seeds."""
    lines = [f"| {head} | " + " | ".join(c.replace("_", " ") for c in columns) + " | seeds |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, (label, _) in study.variants.items():
        own = [row for row in rows if row["variant"] == name]
        if own:
            cells = [spread([float(row[c]) for row in own if row[c]]) for c in columns]
            lines.append(f"| {label} | {' | '.join(cells)} | {len(own)} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation of several; empty of none."""
    if not values:
        return ""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"
