"""Writes the tables of speed and memory in docs/results.md from the CSVs in benchmarks/results/.

    python benchmarks/tables.py [--check]

Run it after any of the benchmarks named there. `--check` writes nothing and ends with 1 where the
page differs from the CSVs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
PAGE = REPO / "docs" / "results.md"


class Table(NamedTuple):
    """Columns of a CSV and their titles; `{column}` in a cell's pattern is the row's value."""

    columns: dict[str, str]

    def of(self, path: Path) -> str:
        """The Markdown table. Raises KeyError for a column that the CSV does not have."""
        if not path.is_file():
            return "Not measured yet."
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        lines = [" | ".join(self.columns), " | ".join("---" for _ in self.columns)]
        for row in rows:
            lines.append(" | ".join(cell.format(**row) for cell in self.columns.values()))
        return "\n".join(f"| {line} |" for line in lines)


_MODEL = {"model": "{size}, {side} px"}
_WHERE = {"machine": "{machine}"}
TABLES = {
    "predictor": Table({
        **_MODEL,
        "precision": "{dtype}",
        "first expression (VAE passes)": "{first_s} s ({first_vae})",
        "second (VAE passes)": "{second_s} s ({second_vae})",
        "ratio": "{ratio} [{ratio_min}, {ratio_max}]",
        **_WHERE,
    }),
    "eval_speed": Table({
        **_MODEL,
        "precision": "{precision}",
        "allocator": "{allocator}",
        "published way, a pair": "{published_s} s",
        "ours": "{ours_s} s [{ours_min}, {ours_max}]",
        "ratio": "{ratio}",
        "GFLOP a pair": "{published_gflop}, {ours_gflop}",
        **_WHERE,
    }),
    "train_speed": Table({
        **_MODEL,
        "way": "{way}",
        "precision": "{precision}",
        "allocator": "{allocator}",
        "batch": "{batch}",
        "a step": "{seconds} s [{seconds_min}, {seconds_max}]",
        "ratio": "{ratio}",
        "peak": "{peak_gib} GiB",
        **_WHERE,
    }),
    "memory": Table({
        **_MODEL,
        "way": "{way}",
        "precision": "{precision}",
        "sentences": "{sentences}",
        "weights": "{loaded_gib} GiB",
        "above them": "{above_gib} GiB",
        **_WHERE,
    }),
    "refer_api": Table({
        "stage": "{stage}",
        "classic API": "{classic_s} s, {classic_MiB} MiB",
        "`REFER`": "{refer_s} s, {refer_MiB} MiB",
        "ratio": "{ratio_s} and {ratio_MiB}",
        "machine": "{device}",
    }),
}  # fmt: skip


def filled(text: str) -> str:
    """The page with every table between its marks made anew. Raises ValueError without marks."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE} has no {begin} ... {end}")
        text = f"{before}{begin}\n{table.of(RESULTS / f'{name}.csv')}\n{end}{after}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    old = PAGE.read_text()
    new = filled(old)
    if arguments.check:
        if new != old:
            print(f"{PAGE} is not what the CSVs say; run python benchmarks/tables.py",
                  file=sys.stderr)  # fmt: skip
        return int(new != old)
    draft = PAGE.with_suffix(".partial")
    draft.write_text(new)
    draft.replace(PAGE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
